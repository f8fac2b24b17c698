"""Checkpoints: one folder a run, with all that is needed to resume it or to use it.

    checkpoints/<run>/last.pt       weights, optimiser, progress, calibrations, settings, versions
    checkpoints/<run>/config.yaml   the effective settings, to read
    checkpoints/<run>/history.csv   loss and seconds of each epoch
    checkpoints/<run>/calibration.yaml   thresholds of each category, once the run is finished
    checkpoints/<run>/suspects/     panels of good images that may be defective, if there are any
    checkpoints/<run>/tensorboard/  events, with train.log
    checkpoints/<run>/fit.json      seconds that it took, and peak memory of the start that ended it

A checkpoint holds tensors and plain data only and is read with `weights_only=True`: a foreign one
runs no code.
"""

import platform
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml
from pydantic import Field
from torch import nn

from data.good_images import GoodImages
from training.folders import FINISHED, FORMAT, checked, refuse_other
from utils.config import Config, changed, default_config, write_config
from utils.errors import UserError
from utils.files import read_plain, replacing, write_whole

OLDEST, VERSION = 10, 10  # of the format, see `refuse_other`

Count = Annotated[int, Field(ge=0)]


@dataclass
class Progress:
    """The state of a training between two steps; that of a fit, which is one pass, stays at 0.

    Attributes:
        epoch: the one under way, from 0; equal to `train.epochs` once all are done.
        step: the next one of that epoch, from 0.
        loss_sum: of the epoch so far, summed over images.
        seconds: spent in the epoch so far.
        first_loss: loss of the very first step.
        micro_batch: images at once; kept, since another split would change the last bits.
    """

    epoch: Count = 0
    step: Count = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    first_loss: float = 0.0
    micro_batch: Count = 0


@dataclass
class Checkpoint:
    """The content of last.pt.

    Attributes:
        config: the effective settings.
        good: the good images of the run.
        model: the detector's `state_dict`.
        optimizer: that of the optimiser, None for fitted detectors.
        progress: how far a training has come.
        history: loss and seconds of each epoch.
        calibrations: numbers of the `Calibration` of each category; none until the run is finished.
        known_defects: `pixel_digest` of each image of `data.defects`, which is never measured on.
    """

    config: Config
    good: GoodImages
    model: dict[str, Any]
    optimizer: dict[str, Any] | None
    progress: Progress
    history: list[dict[str, float]] = field(default_factory=list)
    calibrations: dict[str, dict[str, Any]] = field(default_factory=dict)
    known_defects: list[str] = field(default_factory=list)


def save_checkpoint(run: Path, checkpoint: Checkpoint) -> None:
    """Write the files of a run; each replaces the old one whole, so that a kill leaves either."""
    content = {
        "format": FORMAT,
        "version": VERSION,
        "config": checkpoint.config.model_dump(mode="json"),
        "good": asdict(checkpoint.good),
        "model": checkpoint.model,
        "optimizer": checkpoint.optimizer,
        "progress": asdict(checkpoint.progress),
        "history": checkpoint.history,
        "calibrations": checkpoint.calibrations,
        "known_defects": checkpoint.known_defects,
        "versions": {"python": platform.python_version(), "torch": str(torch.__version__)},
    }
    write_config(checkpoint.config, run / "config.yaml")
    (run / FINISHED).unlink(missing_ok=True)  # first: no moment may call an unfinished run finished
    columns = list(checkpoint.history[0]) if checkpoint.history else ["epoch"]
    rows = [columns, *([row[column] for column in columns] for row in checkpoint.history)]
    write_whole(run / "history.csv", "".join(",".join(map(str, row)) + "\n" for row in rows))
    with replacing(run / "last.pt") as file:
        torch.save(content, file)
    if checkpoint.calibrations:
        write_whole(run / FINISHED, yaml.safe_dump(checkpoint.calibrations, sort_keys=False))


def load_checkpoint(file: Path) -> Checkpoint:
    """Read a checkpoint, its tensors on the CPU.

    Raises:
        UserError: if the file is missing, is none of ours, is damaged or is from another version.
    """
    try:
        content = read_plain(file)
    except FileNotFoundError:
        raise UserError(f"no checkpoint at {file}") from None
    damaged = f"{file} is damaged or is no checkpoint written by train.py"
    ours = isinstance(content, dict) and content.get("format") == FORMAT
    if not ours or not isinstance(content.get("version"), int):
        raise UserError(damaged)
    refuse_other(file, content["version"], OLDEST, VERSION, "train a new run")
    parts = [content.get("config"), content.get("model")]
    if not _whole(file) or not all(isinstance(part, dict) for part in parts):
        raise UserError(damaged)
    optimizer, calibrations = content.get("optimizer"), content.get("calibrations")
    defects = content.get("known_defects", [])
    return Checkpoint(
        config=changed(default_config(), content["config"], source=str(file)),
        good=checked(GoodImages, content.get("good"), file, "good"),
        model=content["model"],
        optimizer=optimizer if isinstance(optimizer, dict) else None,
        progress=checked(Progress, content.get("progress"), file, "progress"),
        history=checked(list[dict[str, float]], content.get("history"), file, "history"),
        calibrations=checked(dict[str, dict[str, Any]], calibrations, file, "calibrations"),
        known_defects=checked(list[str], defects, file, "known_defects"),
    )


def restore(
    file: Path,
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Load the state of a checkpoint into a model, and into its optimiser.

    Raises:
        UserError: if the checkpoint, which was read from `file`, holds the state of another one.
    """
    try:
        model.load_state_dict(checkpoint.model)
        if optimizer is not None:
            optimizer.load_state_dict(checkpoint.optimizer)
    except Exception as error:  # of many kinds, by what is missing or of another type
        raise UserError(
            f"{file} does not fit its settings: {(str(error) or 'damaged').splitlines()[-1]}"
        ) from None


def _whole(file: Path) -> bool:
    """Return whether all checksums are right: a flipped bit in a weight is a weight, too."""
    try:
        with zipfile.ZipFile(file) as parts:  # PyTorch writes CRC-32, but never compares it
            return parts.testzip() is None
    except Exception:  # readers raise whatever they stumble over
        return False
