"""Run folders under checkpoints/: a name for a new one, finding the one to use, and its format."""

import argparse
import time
from pathlib import Path

from utils.config import Config, config_from, read_yaml
from utils.errors import UserError

ROOT = Path("checkpoints")
FORMAT = "visual-defect-detection"
"""What checkpoints and exports say that they are."""


def refuse_other(file: Path, version: int, known: int, remedy: str) -> None:
    """Raise `UserError` if a file has another version of its format than the one known here.

    Args:
        file: the file.
        version: what it says.
        known: what is read here.
        remedy: what to do about an older file.
    """
    formats = f"format {version}, this one reads {known}"
    if version > known:
        raise UserError(f"{file} was written by a newer version ({formats}); update with git pull")
    if version < known:
        raise UserError(f"{file} was written by an older version ({formats}); {remedy}")


def add_checkpoint_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--checkpoint`, for scripts that take a run or an export of one."""
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="RUN",
        help="run folder, its last.pt, or an .onnx file of export.py",
    )


def new_run(config: Config) -> Path:
    """A folder for a new run, named by category, detector and time; created."""
    stem = f"{config.data.category}-{config.model}-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in ["", *(f"-{number}" for number in range(2, 100))]:
        run = ROOT / (stem + suffix)
        try:
            run.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            raise UserError(f"cannot create {run}: {error.strerror}") from None
        return run
    raise UserError(f"too many runs named {stem} in {ROOT}")


def run_name(file: Path) -> str:
    """What a run is called, given its checkpoint, or an export of it."""
    return file.resolve().parent.name if file.name == "last.pt" else file.stem


def find_run(named: Path | None, category: str | None = None, model: str | None = None) -> Path:
    """The run folder to use: the one that `named` gives, or else the newest under checkpoints/.

    Args:
        named: a run folder or a checkpoint file in it; None for the newest run.
        category: only runs of this category count as the newest.
        model: only runs of this detector count as the newest.

    Raises:
        UserError: if there is none.
    """
    if named is not None:
        file = named / "last.pt" if named.is_dir() else named
        if not file.is_file():
            raise UserError(f"no checkpoint at {file}")
        return file
    files = [file for file in ROOT.glob("*/last.pt") if file.is_file()]  # no dangling link
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    for file in files:
        if category is None and model is None:
            return file
        settings = file.with_name("config.yaml")
        config = config_from(read_yaml(settings), source=str(settings))
        if category in (None, config.data.category) and model in (None, config.model):
            return file
    wanted = " ".join(word for word in (model, category) if word)
    raise UserError(
        f"no {wanted + ' ' if wanted else ''}run in {ROOT.resolve()}; "
        "train one with python train.py, or name one with --checkpoint"
    )
