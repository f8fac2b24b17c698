"""Inspecting one image with a trained detector."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from torch.nn import functional as F

from utils.errors import UserError
from utils.pixels import resize, to_batch, to_pixels

if TYPE_CHECKING:
    from models.base import Detector


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


@torch.inference_mode()
def inspect(detector: Detector, image: np.ndarray, device: torch.device) -> Inspection:
    """Resize an image, uint8 [H, W, 3], as in training and run the detector on it.

    Raises:
        UserError: if the score is not finite, as a diverged training leaves it.
    """
    resized = resize(image, detector.config.data.size)
    batch = to_batch(resized[None], device)
    started = time.perf_counter()
    anomaly_map, scores, reconstruction = detector(batch)
    score = scores.item()  # waits for the device
    milliseconds = (time.perf_counter() - started) * 1000
    if not np.isfinite(score):
        raise UserError(f"the detector gave the score {score}: its training has diverged")
    return Inspection(
        resized,
        None if reconstruction is None else to_pixels(reconstruction[0]),
        anomaly_map[0, 0].float().cpu().numpy(),
        score,
        image.shape[:2],
        milliseconds,
    )


def full_size_map(inspection: Inspection) -> np.ndarray:
    """The anomaly map at the size of the original image, bilinearly: float32 [H, W]."""
    small = torch.from_numpy(inspection.anomaly_map)[None, None]
    return F.interpolate(small, inspection.size, mode="bilinear", align_corners=False)[0, 0].numpy()


def strongest_region(
    inspection: Inspection, pixel_threshold: float
) -> tuple[int, int, int, int] | None:
    """Box of the region around the highest pixel, of all pixels above the threshold.

    Returns:
        (x, y, width, height) in pixels of the original image; None if no pixel is above.
    """
    anomaly_map = inspection.anomaly_map
    regions, count = ndimage.label(anomaly_map > pixel_threshold, structure=np.ones((3, 3)))
    if count == 0:
        return None
    strongest = regions[np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)]
    rows, columns = ndimage.find_objects(regions)[strongest - 1]
    y_scale = inspection.size[0] / anomaly_map.shape[0]
    x_scale = inspection.size[1] / anomaly_map.shape[1]
    left, right = int(columns.start * x_scale), round(columns.stop * x_scale)
    top, bottom = int(rows.start * y_scale), round(rows.stop * y_scale)
    return left, top, max(1, right - left), max(1, bottom - top)
