"""Inspecting images with a checkpoint, through torch."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from data.tensors import to_batch, to_pixels
from inspection.inspector import Inspector
from models import load_detector
from utils.batches import batches
from utils.device import pick_device
from utils.micro_batch import pick_inference_batch


class TorchInspector(Inspector):
    """A detector as train.py left it.

    Args:
        file: last.pt of a finished run.
        device: auto, cuda, mps or cpu.
        batch: images that go through it at once, or "auto"; see `pick_inference_batch`.
    """

    def __init__(self, file: Path, device: str, batch: int | str = 1) -> None:
        self.device = pick_device(device)
        self.detector, self.calibration = load_detector(file, self.device)
        self.config = self.detector.config
        self.batch = pick_inference_batch(batch, self.detector, self.device)

    @torch.inference_mode()
    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Inspector.predict`."""
        anomaly_maps, scores, reconstructions = self.detector(to_batch(images, self.device))
        pixels = None if reconstructions is None else to_pixels(reconstructions)
        maps = anomaly_maps[:, 0].float().cpu().numpy()  # waits for the device
        return maps, scores.float().cpu().numpy(), pixels

    @torch.inference_mode()
    def standardise(self, images: Iterable[np.ndarray]) -> None:
        """See `Inspector.standardise`."""
        groups = batches(images, self.batch)
        self.detector.standardise(to_batch(np.stack(group), self.device) for group in groups)
