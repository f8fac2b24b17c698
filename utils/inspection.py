"""Inspecting one image with a trained detector, whatever it runs on."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.calibration import Calibration
from utils.config import Config
from utils.errors import UserError
from utils.resize import resize


class Inspection(NamedTuple):
    """What a detector says of one image.

    Attributes:
        image: uint8 [h, w, 3], the image at the size that the detector sees.
        reconstruction: uint8 [h, w, 3], or None for detectors that do not reconstruct.
        anomaly_map: float32 [h, w], raw.
        score: higher is stranger.
        size: (height, width) of the original image.
        milliseconds: time of the detector alone, without reading and resizing.
    """

    image: np.ndarray
    reconstruction: np.ndarray | None
    anomaly_map: np.ndarray
    score: float
    size: tuple[int, int]
    milliseconds: float


class Inspector(ABC):
    """A trained detector, ready to inspect images.

    Attributes:
        config: settings that it was trained with.
        calibration: its thresholds and its range of colours.
    """

    config: Config
    calibration: Calibration

    @abstractmethod
    def predict(self, image: np.ndarray) -> tuple[np.ndarray, float, np.ndarray | None]:
        """Anomaly map float32 [h, w], score and reconstruction uint8 [h, w, 3] (or None).

        Args:
            image: uint8 [h, w, 3], of the size in the settings.
        """

    @abstractmethod
    def standardise(self, images: Iterable[np.ndarray]) -> None:
        """Set the scale of the anomaly map anew on good images, uint8 [h, w, 3] of that size.

        Raises:
            UserError: if the scale cannot change.
        """

    def inspect(self, image: np.ndarray) -> Inspection:
        """Resize an image, uint8 [H, W, 3], as in training and run the detector on it.

        Raises:
            UserError: if the score is not finite, as a diverged training leaves it.
        """
        resized = resize(image, self.config.data.size)
        started = time.perf_counter()
        anomaly_map, score, reconstruction = self.predict(resized)
        milliseconds = (time.perf_counter() - started) * 1000
        if not np.isfinite(score):
            raise UserError(f"the detector gave the score {score}: its training has diverged")
        return Inspection(
            resized, reconstruction, anomaly_map, score, image.shape[:2], milliseconds
        )


def open_inspector(file: Path, device: str) -> Inspector:
    """The detector in a file: a checkpoint, run by torch, or an export, run by onnxruntime.

    Args:
        file: last.pt of a run, or an .onnx file written by export.py.
        device: auto, cuda, mps or cpu.

    Raises:
        UserError: if the file is none of these, or the device or a package is not there.
    """
    # Imported here, since only one of the two is needed, and torch takes a second to start.
    if file.suffix == ".onnx":
        from utils.onnx_inspector import OnnxInspector

        return OnnxInspector(file, device)
    from models.torch_inspector import TorchInspector

    return TorchInspector(file, device)


def strongest_region(
    inspection: Inspection, pixel_threshold: float
) -> tuple[int, int, int, int] | None:
    """Box of the region around the highest pixel, of all pixels above the threshold.

    Returns:
        (x, y, width, height) in pixels of the original image; None if no pixel is above.
    """
    anomaly_map = inspection.anomaly_map
    if not (anomaly_map > pixel_threshold).any():
        return None
    from scipy import ndimage  # late: the first verdict need not wait for it

    regions, _ = ndimage.label(anomaly_map > pixel_threshold, structure=np.ones((3, 3)))
    strongest = regions[np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)]
    rows, columns = ndimage.find_objects(regions)[strongest - 1]
    y_scale = inspection.size[0] / anomaly_map.shape[0]
    x_scale = inspection.size[1] / anomaly_map.shape[1]
    left, right = int(columns.start * x_scale), round(columns.stop * x_scale)
    top, bottom = int(rows.start * y_scale), round(rows.stop * y_scale)
    return left, top, max(1, right - left), max(1, bottom - top)
