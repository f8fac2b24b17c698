"""Inspecting images with an exported detector, through onnxruntime and without torch."""

import json
from pathlib import Path

import numpy as np

from inspection.inspector import Inspector
from utils.calibration import Calibration
from utils.config import config_from
from utils.errors import UserError
from utils.extras import need
from utils.runs import FORMAT, refuse_other

VERSION = 2

PROVIDERS = {"cuda": "CUDAExecutionProvider", "cpu": "CPUExecutionProvider"}
"""Devices of onnxruntime, the preferred one first."""


def as_input(images: np.ndarray) -> np.ndarray:
    """uint8 [B, h, w, 3] as the graph takes it: float32 [B, 3, h, w] in [0, 1]."""
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), np.float32) / 255


class OnnxInspector(Inspector):
    """A detector in a file that export.py wrote: the file alone gives the verdict.

    Args:
        file: the .onnx file.
        device: auto, cuda or cpu.
        batch: images that go through it at once; "auto" is 1, for onnxruntime does not tell how
            much memory they may take.

    Raises:
        UserError: if the file is none of ours or onnxruntime has no such device.
    """

    def __init__(self, file: Path, device: str, batch: int | str = 1) -> None:
        onnxruntime = need("onnxruntime", "deploy")
        there = [
            name
            for name, provider in PROVIDERS.items()
            if provider in onnxruntime.get_available_providers()
        ]
        if device == "auto":
            device = there[0]
        if device not in there:
            raise UserError(
                f"onnxruntime has no device {device} here; use one of: auto, {', '.join(there)}"
            )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors alone; its warnings are about its own optimiser
        try:
            self.session = onnxruntime.InferenceSession(
                str(file), options, providers=[PROVIDERS[device]]
            )
            about = self.session.get_modelmeta().custom_metadata_map
        except Exception as error:  # of many kinds, all of which mean this
            raise UserError(f"{file} cannot be run: {str(error).splitlines()[0]}") from None
        if about.get("format") != FORMAT:
            raise UserError(f"{file} was not written by export.py")
        refuse_other(file, int(about["version"]), VERSION, "train and export it anew")
        self.file = file
        self.batch = 1 if batch == "auto" else int(batch)
        self.config = config_from(json.loads(about["config"]), source=str(file))
        self.calibration = Calibration(**json.loads(about["calibration"]))

    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Inspector.predict`."""
        outputs = self.session.run(None, {"images": as_input(images)})
        anomaly_maps, scores, *rest = (output.astype(np.float32, copy=False) for output in outputs)
        pixels = None
        if rest:
            scaled = np.rint(np.clip(rest[0], 0, 1) * 255)
            pixels = scaled.astype(np.uint8).transpose(0, 2, 3, 1)
        return anomaly_maps[:, 0], scores, pixels
