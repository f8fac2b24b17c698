"""Run folders under checkpoints/: naming a new one, finding the one that flags mean, its format."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from utils.config import ALL, Config, changed, default_config
from utils.errors import UserError
from utils.files import new_folder, read_yaml
from utils.flags import file_or_folder, not_empty

Kind = TypeVar("Kind")
ROOT = Path("checkpoints")
FINISHED = "calibration.yaml"  # file of a run that is there once the run is finished
FORMAT = "visual-defect-detection"  # in every checkpoint and export
# Characters of the categories in the name of a run: file systems take no more than 255 in all.
MAX_NAME = 100


def refuse_other(file: Path, version: int, oldest: int, newest: int, remedy: str) -> None:
    """Raise `UserError` unless a file is of a version from `oldest` to `newest`.

    The format is stable: a version is read for as long as its contents can be mapped to today's.
    Settings and fields that are added later take their defaults by themselves; what is renamed
    raises `newest` and is mapped where it is read; `oldest` rises when that cannot be done.
    """
    formats = f"format {version}, this one reads {oldest} to {newest}"
    if version > newest:
        raise UserError(f"{file} was written by a newer version ({formats}); update with git pull")
    if version < oldest:
        raise UserError(f"{file} was written by an older version ({formats}); {remedy}")


def named_checkpoint(name: str | Path) -> Path:
    """Return the checkpoint, or export, that a flag names; raises `UserError` if there is none."""
    path = file_or_folder(str(name))
    file = path / "last.pt" if path.is_dir() else path
    if not file.is_file() or file.suffix not in (".pt", ".onnx"):
        raise UserError(f"no checkpoint at {file}")
    return file


def add_checkpoint_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--checkpoint`, for scripts that take a run or an export of one."""
    parser.add_argument(
        "--checkpoint",
        type=named_checkpoint,
        metavar="RUN",
        help="run folder, its last.pt, or an .onnx file of export.py",
    )


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add `--config`, for a new run, and `--resume` and `--add`, which go on with one."""
    parser.add_argument(
        "--config", type=file_or_folder, metavar="FILE", help="YAML file over config.yaml"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const=Path(),
        type=_resumable,
        metavar="RUN",
        help="go on with a run folder, by default the newest; --epochs may change its length",
    )
    parser.add_argument(
        "--add",
        nargs="+",
        type=not_empty,
        default=[],
        metavar="FOLDER",
        help="learn further good images, or folders of them, in a finished run: that of --resume, "
        "or the newest; a network goes on for a quarter of its epochs, or up to --epochs",
    )


def _resumable(name: str) -> Path:
    file = named_checkpoint(name)
    if file.suffix == ".onnx":
        raise UserError(f"{file} is an export, which cannot be trained; name its run")
    return file


def new_run(config: Config) -> Path:
    """Create a folder for a new run, named by category, detector and time."""
    category = config.data.category.replace(",", "+")[:MAX_NAME]
    stem = f"{category}-{config.model}-{time.strftime('%Y%m%d-%H%M%S')}"
    try:
        return new_folder(ROOT / stem)
    except OSError as error:
        raise UserError(f"cannot create {ROOT / stem}: {error.strerror}") from None


def run_name(file: Path) -> str:
    """Return the name of a run, given its checkpoint, or that of an export, with .onnx."""
    return file.resolve().parent.name if file.name == "last.pt" else file.name


def run_config(folder: Path) -> Config:
    """Read the settings of a run; raises `UserError` if there are none."""
    file = folder / "config.yaml"
    if file.exists() and not file.is_file():  # a pipe would be waited for
        raise UserError(f"{file} is no file")
    settings = read_yaml(file)
    if not settings:  # which would be the defaults
        raise UserError(f"{file} is empty")
    return changed(default_config(), settings, source=str(file))


def find_run(
    named: Path | None,
    category: str | None = None,
    model: str | None = None,
    finished: bool = True,
    exact: bool = False,
) -> Path:
    """Return the checkpoint that `named` gives, or else the newest one under checkpoints/.

    Newer ones that are passed over are named on stderr.

    Args:
        named: a run folder or a file; None for the newest run.
        category: only runs that know this category count, or all of several joined by commas.
        model: only runs of this detector count.
        finished: prefer a run that is finished to those that broke off.
        exact: only runs of this category alone count, not those of several with it among them.

    Raises:
        UserError: if there is none.
    """
    if named is not None:
        return named_checkpoint(named)
    files = [file for file in ROOT.glob("*/last.pt") if file.is_file()]  # no dangling link
    files.sort(key=lambda file: file.stat().st_mtime, reverse=True)
    unfinished: list[Path] = []
    for file in files:
        try:
            config = run_config(file.parent)
            fits = category in (None, config.data.category) or (
                not exact and set(category.split(",")) <= _categories(file, config)
            )
        except UserError as error:
            print(f"passed over {file.parent}: {error}", file=sys.stderr)
            continue
        if not fits or model not in (None, config.model):
            continue
        if not finished or (file.parent / FINISHED).exists():
            for newer in unfinished:
                print(f"passed over {newer.parent}, which is not finished", file=sys.stderr)
            return file
        unfinished.append(file)
    if unfinished:
        return unfinished[0]
    wanted = " ".join(word for word in (model, category) if word)
    raise UserError(
        f"no {wanted + ' ' if wanted else ''}run in {ROOT.resolve()}; "
        "train one with python train.py, or name one with --checkpoint"
    )


def _categories(file: Path, config: Config) -> set[str]:
    """Names of the categories that a run knows; of an unfinished one of all, none."""
    if config.data.category != ALL:
        return set(config.data.category.split(","))
    calibrations = file.parent / FINISHED
    return set(read_yaml(calibrations)) if calibrations.is_file() else set()


def checked(kind: type[Kind], content: Any, file: Path, name: str) -> Kind:
    """Return content that a file holds under a name as a type, such as a dataclass.

    Raises:
        UserError: naming the entry, if its type is another one or a number is not finite.
    """
    try:
        adapter = TypeAdapter(kind)
        found = adapter.validate_python(content)
        json.dumps(adapter.dump_python(found), allow_nan=False)
        return found
    except ValidationError as error:
        entry = ".".join(map(str, (name, *error.errors()[0]["loc"])))
        raise UserError(f"{file} is damaged: {entry} is not of the right type") from None
    except ValueError:
        raise UserError(
            f"{file} is damaged, or its training diverged: {name} are not finite"
        ) from None
