"""Inspecting images with a checkpoint, through torch."""

from pathlib import Path

import numpy as np
import torch

from data.tensors import to_batch, to_pixels
from inspection.inspector import Inspector
from models import load_detector
from training.batch_size import pick_inference_batch
from utils.device import pick_device


class TorchInspector(Inspector):
    """A detector as train.py left it.

    Args:
        file: last.pt of a finished run.
        device: auto, cuda, mps or cpu.
        batch: images that go through it at once, or "auto"; see `pick_inference_batch`.
    """

    def __init__(self, file: Path, device: str, batch: int | str = 1) -> None:
        self.device = pick_device(device)
        self.detector, checkpoint = load_detector(file, self.device)
        self.calibrations, self.good = checkpoint.calibrations, checkpoint.good
        self.config = self.detector.config
        self.batch = pick_inference_batch(batch, self.detector, self.device)

    @torch.inference_mode()
    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Inspector.predict`."""
        anomaly_maps, scores, reconstructions = self.detector(to_batch(images, self.device))
        pixels = None if reconstructions is None else to_pixels(reconstructions)
        maps = anomaly_maps[:, 0].float().cpu().numpy()  # waits for the device
        return maps, scores.float().cpu().numpy(), pixels
