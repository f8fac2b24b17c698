"""Changing the calibration of a finished run."""

from dataclasses import replace
from pathlib import Path

from utils.calibration import Calibration
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.errors import UserError


def set_calibration(file: Path, calibration: Calibration) -> None:
    """Write a calibration into last.pt of a run; raises `UserError` if that cannot be."""
    if file.suffix != ".pt":
        raise UserError(f"{file} is an export; set the threshold of the run that it was made of")
    save_checkpoint(file.parent, replace(load_checkpoint(file), calibration=calibration))
