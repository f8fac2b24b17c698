"""Detectors, and the registry through which the scripts build them by name."""

from pathlib import Path

import torch

from models.detector import Detector, TrainedDetector
from models.features.padim import Padim
from models.features.patch_memory import PatchMemory
from models.features.patchcore import PatchCore
from models.reconstruction.draem import Draem
from models.reconstruction.unet import UNetAutoencoder
from utils.checkpoint import Checkpoint, load_checkpoint
from utils.config import Config, nearest
from utils.device import place
from utils.errors import UserError

DETECTORS: dict[str, type[Detector]] = {
    "unet": UNetAutoencoder,
    "draem": Draem,
    "patchcore": PatchCore,
    "padim": Padim,
    "patch_memory": PatchMemory,
}


def detector_class(name: str) -> type[Detector]:
    """The detector of this name; raises `UserError` if there is none."""
    if name not in DETECTORS:
        there = list(DETECTORS)
        raise UserError(
            f"model is {name!r} but should be one of: {', '.join(there)}" + nearest(name, there)
        )
    return DETECTORS[name]


def build_model(config: Config) -> Detector:
    """The untrained detector that `config.model` names; raises `UserError` if there is none."""
    return detector_class(config.model)(config)


def load_detector(file: Path, device: torch.device) -> tuple[Detector, Checkpoint]:
    """A trained detector, ready to inspect images on the device, and the checkpoint it is from.

    Raises:
        UserError: if the file is no checkpoint, or that of a run that is not finished.
    """
    checkpoint = load_checkpoint(file)
    detector = build_model(checkpoint.config)
    if checkpoint.calibration is None:
        done = checkpoint.progress.epoch
        ways = f"go on with: python train.py --resume {file.parent}"
        if done and isinstance(detector, TrainedDetector):
            ways += f" (or finish it as it is by adding --epochs {done})"
        raise UserError(f"the run {file.parent} is not finished; {ways}")
    try:
        detector.load_state_dict(checkpoint.model)
    except RuntimeError as error:
        raise UserError(
            f"{file} does not fit its settings: {str(error).splitlines()[-1]}"
        ) from None
    return place(detector, device).eval(), checkpoint
