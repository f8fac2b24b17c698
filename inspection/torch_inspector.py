"""Inspecting images with a checkpoint, through torch."""

from pathlib import Path

import numpy as np
import torch

from data.tensors import to_batch, to_pixels
from inspection.inspector import Inspector
from inspection.threshold import Calibration
from models import build_model
from models.detector import Detector
from training.checkpoint import Checkpoint, load_checkpoint, restore
from training.folders import checked
from utils.device import free_memory, peak_memory, pick_device, place
from utils.errors import UserError

MAX_BATCH = 32  # images inspected at once on a GPU; more would not be faster


class TorchInspector(Inspector):
    """A detector as train.py left it.

    Args:
        file: last.pt of a finished run.
        device: auto, cuda, mps or cpu.
        batch: images that pass through it at once, or "auto"; see `pick_inference_batch`.
    """

    def __init__(self, file: Path, device: str, batch: int | str = 1) -> None:
        self.device = pick_device(device)
        self.detector, checkpoint = load_detector(file, self.device)
        self.calibrations = read_calibrations(file, checkpoint)
        self.known_defects = checkpoint.known_defects
        self.good = checkpoint.good  # for programs that calibrate the run again or export it
        self.config = self.detector.config
        self.batch = pick_inference_batch(batch, self.detector, self.device)

    @torch.inference_mode()
    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """See `Inspector.predict`."""
        anomaly_maps, scores, reconstructions = self.detector(to_batch(images, self.device))
        pixels = None if reconstructions is None else to_pixels(reconstructions)
        # .cpu() waits for the device, so that the time which the caller measures is the whole.
        maps = anomaly_maps[:, 0].float().cpu().numpy()
        return maps, scores.float().cpu().numpy(), pixels


def load_detector(file: Path, device: torch.device) -> tuple[Detector, Checkpoint]:
    """Load a trained detector, ready to inspect on the device, and the checkpoint it is from.

    Raises:
        UserError: if the file is no checkpoint, or that of a run that is not finished.
    """
    checkpoint = load_checkpoint(file)
    detector = build_model(checkpoint.config)
    if not checkpoint.calibrations:
        ways = f"go on with: python train.py --resume {file.parent}"
        if done := checkpoint.progress.epoch:
            ways += f" (or finish it as it is by adding --epochs {done})"
        raise UserError(f"the run {file.parent} is not finished; {ways}")
    restore(file, checkpoint, detector)
    return place(detector, device).eval(), checkpoint


def read_calibrations(file: Path, checkpoint: Checkpoint) -> dict[str, Calibration]:
    """Return the calibrations in a checkpoint; raises `UserError`, naming its file, if damaged."""
    return checked(dict[str, Calibration], checkpoint.calibrations, file, "calibrations")


@torch.inference_mode()
def pick_inference_batch(setting: int | str, model: Detector, device: torch.device) -> int:
    """Resolve "auto" to the number of images that a detector inspects at once.

    On a CPU it is 1. On a GPU it is what fits half of the free memory, `MAX_BATCH` at most, judged
    by the peak of one image. That of more images is lower than as many times that, for search
    blocks and scratch space do not grow with them.

    Args:
        setting: a number, or "auto".
        model: the detector, on its device, in evaluation mode.
        device: that device.
    """
    if setting != "auto":
        return int(setting)
    if device.type == "cpu":
        return 1
    image = torch.zeros(1, 3, *model.config.data.size, device=device)
    peak = peak_memory(device, lambda: model(image))  # before the rest: it also loads libraries
    # Half: images of the next batch, and other programs, take memory meanwhile.
    return max(1, min(MAX_BATCH, free_memory(device) // 2 // max(1, peak)))
