"""Checkpoints: one folder a run, with all that is needed to resume it or to use it.

    checkpoints/<run>/last.pt       weights, optimiser, progress, calibration, settings, versions
    checkpoints/<run>/config.yaml   the effective settings, to read
    checkpoints/<run>/history.csv   loss and seconds of each epoch
    checkpoints/<run>/fit.json      seconds and peak memory of a finished run

A checkpoint holds tensors and plain data only and is read with `weights_only=True`: opening one
from a stranger runs none of its code.
"""

import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml

from models.features.weights import read_plain
from utils.calibration import Calibration
from utils.config import Config, config_from
from utils.errors import UserError
from utils.files import replacing
from utils.runs import FORMAT, refuse_other

VERSION = 4


@dataclass
class Progress:
    """How far a run has come.

    Attributes:
        epoch: the epoch under way, from 0; equal to `train.epochs` when all are done.
        step: the next step of that epoch, from 0.
        loss_sum: loss of the epoch so far, summed over images.
        seconds: time spent in the epoch so far.
        micro_batch: images at once; kept, since another split would change the last bits.
        images: images that the run learns from.
    """

    epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    micro_batch: int = 0
    images: int = 0


@dataclass
class Checkpoint:
    """What last.pt holds; `calibration` is None until the run is finished."""

    config: Config
    model: dict[str, Any]
    optimizer: dict[str, Any] | None
    progress: Progress
    history: list[dict[str, float]] = field(default_factory=list)
    calibration: Calibration | None = None


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Write a run's files; each replaces the old one whole: a kill leaves either, never a part."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": checkpoint.config.model_dump(mode="json"),
        "model": checkpoint.model,
        "optimizer": checkpoint.optimizer,
        "progress": asdict(checkpoint.progress),
        "history": checkpoint.history,
        "calibration": checkpoint.calibration and asdict(checkpoint.calibration),
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }
    settings = yaml.safe_dump(content["config"], sort_keys=False)
    columns = list(checkpoint.history[0]) if checkpoint.history else ["epoch"]
    with replacing(run / "config.yaml") as file:
        file.write(settings.encode())
    with replacing(run / "history.csv") as file:
        lines = [columns, *([row[column] for column in columns] for row in checkpoint.history)]
        file.write("".join(",".join(map(str, line)) + "\n" for line in lines).encode())
    with replacing(run / "last.pt") as file:
        torch.save(content, file)


def load_checkpoint(file: Path) -> Checkpoint:
    """Read a checkpoint, its tensors on the CPU.

    Raises:
        UserError: if the file is missing, is none of ours, is damaged or is from another version.
    """
    try:
        content = read_plain(file)
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {file}") from None
    ours = isinstance(content, dict) and content.get("format") == FORMAT
    if not ours or not isinstance(content.get("version"), int):
        raise UserError(f"{file} is damaged or is no checkpoint written by train.py")
    refuse_other(file, content["version"], VERSION, "train it anew")
    try:
        calibration = content["calibration"]
        return Checkpoint(
            config=config_from(content["config"], source=str(file)),
            model=content["model"],
            optimizer=content["optimizer"],
            progress=Progress(**content["progress"]),
            history=content["history"],
            calibration=None if calibration is None else Calibration(**calibration),
        )
    except (KeyError, TypeError):
        raise UserError(f"{file} is damaged or is no checkpoint written by train.py") from None
