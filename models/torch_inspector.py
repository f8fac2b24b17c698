"""Inspecting images with a checkpoint, through torch."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from models import load_detector
from utils.device import pick_device
from utils.inspection import Inspector
from utils.pixels import to_batch, to_pixels


class TorchInspector(Inspector):
    """A detector as train.py left it.

    Args:
        file: last.pt of a finished run.
        device: auto, cuda, mps or cpu.
    """

    def __init__(self, file: Path, device: str) -> None:
        self.device = pick_device(device)
        self.detector, self.calibration = load_detector(file, self.device)
        self.config = self.detector.config

    @torch.inference_mode()
    def predict(self, image: np.ndarray) -> tuple[np.ndarray, float, np.ndarray | None]:
        """See `Inspector.predict`."""
        anomaly_map, scores, reconstruction = self.detector(to_batch(image[None], self.device))
        score = scores.item()  # waits for the device
        pixels = None if reconstruction is None else to_pixels(reconstruction[0])
        return anomaly_map[0, 0].float().cpu().numpy(), score, pixels

    @torch.inference_mode()
    def standardise(self, images: Iterable[np.ndarray]) -> None:
        """See `Inspector.standardise`."""
        self.detector.standardise(to_batch(image[None], self.device) for image in images)
