"""Inspecting images with an exported detector, through onnxruntime and without torch."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np

from data.region import OUTSIDE, valid_pixels
from inspection.inspector import Inspector
from inspection.threshold import Calibration
from training.folders import FORMAT, checked, refuse_other
from utils.config import changed, default_config
from utils.errors import UserError
from utils.files import replacing
from utils.optional_packages import need

OLDEST, VERSION = 7, 7  # of the format, see `refuse_other`
TILE_PIXELS = 4 * 512 * 512  # of tiles that pass at once: onnxruntime cannot tell the free memory
SPIN_US = 20  # that a thread waits in a loop before it sleeps; see `utils.process.SPIN_COUNT`
NO_DIGEST = b"0" * 64  # stands in the metadata of an export while its digest is taken


class OnnxInspector(Inspector):
    """A detector in a file of export.py, which holds all that a verdict needs.

    Args:
        file: the .onnx file.
        device: auto, cuda or cpu.
        batch: images, or tiles of one, that pass through it at once; "auto" is 1, or for tiles as
            many as have `TILE_PIXELS`.

    Raises:
        UserError: if the file is not of export.py, damaged or of another version, or onnxruntime
            has no such device.
    """

    def __init__(self, file: Path, device: str, batch: int | str = 1) -> None:
        onnxruntime = need("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone; its warnings are about its own optimiser
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_US))
        providers = _providers(device, onnxruntime.get_available_providers())
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)
            about = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:  # of many kinds, all of which mean this
            raise UserError(f"{file} cannot be run: {str(error).splitlines()[0]}") from None
        # Where CUDA does not start onnxruntime takes the CPU, silently and ten times as slow.
        if device.startswith("cuda") and self.session.get_providers()[0] != providers[0][0]:
            raise UserError(
                f"onnxruntime cannot start CUDA on device {device} here; use --device cpu, or "
                "install the CUDA and cuDNN that it asks for"
            )
        self.file = file
        self._read_metadata(file, about)
        data = self.config.data
        at_once = max(1, TILE_PIXELS // (data.size[0] * data.size[1])) if data.tile else 1
        self.batch = at_once if batch == "auto" else int(batch)

    def _read_metadata(self, file: Path, about: dict[str, str]) -> None:
        """Set settings and calibrations; raises `UserError` if the file was not left as written."""
        if about.get("format") != FORMAT:
            raise UserError(f"{file} was not written by export.py")
        damaged = f"{file} is damaged, or was changed; export the run again"
        # onnxruntime checks nothing: a weight with a flipped bit is a weight, too.
        content, digest = file.read_bytes(), about.get("digest", "").encode()
        if not digest or _sealed(content.replace(digest, NO_DIGEST)) != content:
            raise UserError(damaged)
        try:
            refuse_other(file, int(about["version"]), OLDEST, VERSION, "train and export it again")
            config, calibrations = json.loads(about["config"]), json.loads(about["calibrations"])
            list(json.loads(about.get("former_calibrations", "[]")))  # which calibrate.py adds to
            self.config = changed(default_config(), dict(config), source=str(file))
            known = json.loads(about.get("known_defects", "[]"))
        except (KeyError, ValueError, TypeError, RecursionError):  # sealed by another hand
            raise UserError(damaged) from None
        if tuple(self.session.get_inputs()[0].shape[2:]) != self.config.data.size:
            raise UserError(damaged)
        self.calibrations = checked(dict[str, Calibration], calibrations, file, "calibrations")
        self.known_defects = checked(list[str], known, file, "known_defects")

    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Inspector.predict`."""
        outputs = self.session.run(None, {"images": as_input(images)})
        anomaly_maps, scores, *rest = (output.astype(np.float32, copy=False) for output in outputs)
        pixels = None
        if rest:  # a reconstruction; as `to_pixels`
            scaled = np.rint(np.clip(rest[0], 0, 1) * 255)
            pixels = scaled.astype(np.uint8).transpose(0, 2, 3, 1)
        return anomaly_maps[:, 0], scores, pixels


def as_input(images: np.ndarray) -> np.ndarray:
    """Convert uint8 [B, h, w, C] to the input of the graph: float32 [B, 3, h, w]; as `to_batch`."""
    pixels = np.ascontiguousarray(images[..., :3].transpose(0, 3, 1, 2), np.float32) / 255
    return np.where(valid_pixels(images)[:, None], pixels, np.float32(OUTSIDE))


def described(calibrations: dict[str, Calibration]) -> dict[str, str]:
    """Return the entries of an export's metadata about its calibrations."""
    # Thresholds stand by themselves, too, for whoever runs the file by other programs.
    thresholds = {category: one.threshold for category, one in calibrations.items()}
    whole = {category: vars(one) for category, one in calibrations.items()}
    return {"thresholds": json.dumps(thresholds), "calibrations": json.dumps(whole)}


def write_model(model: Any, about: dict[str, str], file: Path) -> None:
    """Write an ONNX model with this metadata, and a digest by which damage is noticed."""
    need("onnx").helper.set_model_props(model, about | {"digest": NO_DIGEST.decode()})
    with replacing(file) as stream:
        stream.write(_sealed(model.SerializeToString()))


def set_in_export(file: Path, changed: dict[str, Calibration]) -> None:
    """Give an export other calibrations; see `inspection.open_run.set_calibrations`."""
    model = need("onnx").load(str(file))
    about = {entry.key: entry.value for entry in model.metadata_props}
    # The file is all there is: the former ones are kept in its metadata, the oldest first.
    former = json.loads(about["calibrations"])
    formers = [*json.loads(about.get("former_calibrations", "[]")), former]
    about |= described({category: Calibration(**one) for category, one in former.items()} | changed)
    write_model(model, about | {"former_calibrations": json.dumps(formers)}, file)


def _sealed(content: bytes) -> bytes:
    """Return the bytes of an export with the SHA-256 of them all in the place of `NO_DIGEST`."""
    return content.replace(NO_DIGEST, hashlib.sha256(content).hexdigest().encode())


def _providers(device: str, available: list[str]) -> list[Any]:
    """Return onnxruntime's names of a device; raises `UserError` if it was built without."""
    gpu, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    if device == "auto":
        return [gpu, cpu] if gpu in available else [cpu]
    if device == "cpu":
        return [cpu]
    kind, _, number = device.partition(":")
    if kind != "cuda" or gpu not in available:
        names = "auto, cuda, cpu" if gpu in available else "auto, cpu"
        raise UserError(f"onnxruntime has no device {device} here; use one of: {names}")
    return [(gpu, {"device_id": int(number or 0)})]
