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
from utils.config import Config, config_from
from utils.errors import UserError
from utils.files import replacing
from utils.optional_packages import need

VERSION = 6
TILE_PIXELS = 4 * 512 * 512
NO_DIGEST = b"0" * 64  # stands in the metadata of an export while its digest is taken


def _sealed(content: bytes) -> bytes:
    """The bytes of an export, with the SHA-256 of them all in the place of `NO_DIGEST`."""
    return content.replace(NO_DIGEST, hashlib.sha256(content).hexdigest().encode())


def write_model(model: Any, about: dict[str, str], file: Path) -> None:
    """Write an ONNX model with this metadata, and a digest by which it is known to be whole."""
    need("onnx").helper.set_model_props(model, about | {"digest": NO_DIGEST.decode()})
    with replacing(file) as stream:
        stream.write(_sealed(model.SerializeToString()))


def described(calibrations: dict[str, Calibration]) -> dict[str, str]:
    """What the metadata of an export say of the verdict on each part."""
    thresholds = {part: one.threshold for part, one in calibrations.items()}
    whole = {part: vars(one) for part, one in calibrations.items()}
    return {"thresholds": json.dumps(thresholds), "calibrations": json.dumps(whole)}


def _providers(device: str, there: list[str]) -> list[Any]:
    """What onnxruntime calls a device; raises `UserError` if it was built without."""
    gpu, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    if device == "auto":
        return [gpu, cpu] if gpu in there else [cpu]
    if device == "cpu":
        return [cpu]
    kind, _, number = device.partition(":")
    if kind != "cuda" or gpu not in there:
        names = "auto, cuda, cpu" if gpu in there else "auto, cpu"
        raise UserError(f"onnxruntime has no device {device} here; use one of: {names}")
    return [(gpu, {"device_id": int(number or 0)})]


def _settings(file: Path, about: dict[str, str]) -> tuple[Config, dict[str, Calibration]]:
    """Settings and calibrations from the metadata of an export.

    Raises:
        UserError: if export.py wrote no such metadata.
    """
    if about.get("format") != FORMAT:
        raise UserError(f"{file} was not written by export.py")
    try:
        version = int(about["version"])
        config, calibrations = json.loads(about["config"]), json.loads(about["calibrations"])
    except (KeyError, ValueError):
        raise UserError(f"{file} is damaged: its metadata cannot be read; export it anew") from None
    refuse_other(file, version, VERSION, "train and export it anew")
    if not isinstance(config, dict):
        raise UserError(f"{file} is damaged: it holds no settings; export it anew")
    config = config_from(config, source=str(file))
    return config, checked(dict[str, Calibration], calibrations, file, "calibrations")


def as_input(images: np.ndarray) -> np.ndarray:
    """uint8 [B, h, w, C] as the graph takes it: float32 [B, 3, h, w]; see `to_batch`."""
    pixels = np.ascontiguousarray(images[..., :3].transpose(0, 3, 1, 2), np.float32) / 255
    return np.where(valid_pixels(images)[:, None], pixels, np.float32(OUTSIDE))


class OnnxInspector(Inspector):
    """A detector in a file that export.py wrote: the file alone gives the verdict.

    Args:
        file: the .onnx file.
        device: auto, cuda or cpu.
        batch: images, or tiles of one, that go through it at once; "auto" is 1, or of tiles as
            many as are `TILE_PIXELS`, for onnxruntime does not tell how much memory there is.

    Raises:
        UserError: if the file is none of ours or onnxruntime has no such device.
    """

    def __init__(self, file: Path, device: str, batch: int | str = 1) -> None:
        onnxruntime = need("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone; its warnings are about its own optimiser
        providers = _providers(device, onnxruntime.get_available_providers())
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)
            about = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:  # of many kinds, all of which mean this
            raise UserError(f"{file} cannot be run: {str(error).splitlines()[0]}") from None
        # onnxruntime falls back on the CPU by itself where CUDA does not start.
        if (
            device.startswith("cuda")
            and "CUDAExecutionProvider" not in self.session.get_providers()
        ):
            raise UserError(
                f"onnxruntime cannot start CUDA on device {device} here; use --device cpu, or "
                "install the CUDA and cuDNN that it asks for"
            )
        self.file = file
        self.config, self.calibrations = _settings(file, about)
        data = self.config.data
        at_once = max(1, TILE_PIXELS // (data.size[0] * data.size[1])) if data.tile else 1
        self.batch = at_once if batch == "auto" else int(batch)
        shape = self.session.get_inputs()[0].shape
        if tuple(shape[2:]) != self.config.data.size:
            raise UserError(
                f"{file} is damaged: its graph takes images of {shape[2:]}, its settings say "
                f"{list(self.config.data.size)}; export it anew"
            )
        # onnxruntime checks nothing, and a flipped bit in a weight is a weight, too.
        content, digest = file.read_bytes(), about.get("digest", "").encode()
        if not digest or _sealed(content.replace(digest, NO_DIGEST)) != content:
            raise UserError(f"{file} is damaged: it is not as it was written; export it anew")

    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Inspector.predict`."""
        outputs = self.session.run(None, {"images": as_input(images)})
        anomaly_maps, scores, *rest = (output.astype(np.float32, copy=False) for output in outputs)
        pixels = None
        if rest:
            scaled = np.rint(np.clip(rest[0], 0, 1) * 255)
            pixels = scaled.astype(np.uint8).transpose(0, 2, 3, 1)
        return anomaly_maps[:, 0], scores, pixels
