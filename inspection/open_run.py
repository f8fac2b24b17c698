"""Opening the run, or the export, that the flags name."""

import argparse
import math
from pathlib import Path
from typing import Any

from data.mvtec import Category
from inspection.inspector import Inspector
from models import check_model
from training.folders import add_checkpoint_flag, find_run
from utils.config import ALL, load_config
from utils.errors import UserError
from utils.flags import add_setting_flags, overrides_from


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which run is meant, and what it works on."""
    add_checkpoint_flag(parser)
    add_setting_flags(parser, ["--model", "--category", "--data-root", "--device"])


def add_part_flag(parser: argparse.ArgumentParser, **others: Any) -> None:
    """Add `--part`, for scripts that give verdicts on a run of several categories."""
    text = "the part that is shown, of a run that knows several; default: as folders are named"
    parser.add_argument("--part", metavar="NAME", help=text, **others)


def finite_threshold(text: str) -> float:
    """A threshold as a flag gives it; raises `UserError` if it is no finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"--threshold is {text!r} but should be a number, on the scale of scores")
    return value


def parse_checked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The arguments of a script; raises `UserError` for a setting among them that is not right."""
    args = parser.parse_args()
    config = load_config(overrides=overrides_from(args))
    check_model(config.model)
    return args


def named_run(args: argparse.Namespace) -> Path:
    """What the flags name, or the newest run that fits them; raises `UserError` without any."""
    return find_run(args.checkpoint, vars(args)["data.category"], args.model)


def open_run(args: argparse.Namespace) -> tuple[Path, Inspector]:
    """The file that the flags name, and the detector in it; raises `UserError` if there is none."""
    file = named_run(args)
    inspector = open_inspector(file, args.device or "auto", getattr(args, "batch", "auto"))
    keep_part(inspector, getattr(args, "part", None))
    threshold = getattr(args, "threshold", None)
    if threshold is not None:
        moved = {
            part: one.with_threshold(threshold) for part, one in inspector.calibrations.items()
        }
        inspector.calibrations = moved
    return file, inspector


def keep_part(inspector: Inspector, told: str | None) -> None:
    """Let a detector know but the part that `--part` names, if it does."""
    if told is not None:
        part = inspector.category_of("", told)
        inspector.calibrations = {part: inspector.calibrations[part]}


def chosen_categories(args: argparse.Namespace, inspector: Inspector) -> list[Category]:
    """The categories that a detector knows, but for what `--category` and `--data-root` say."""
    settings, data = vars(args), inspector.config.data
    names = settings["data.category"]
    if names in (None, ALL, data.category):
        names = ",".join(inspector.calibrations)
    return Category.chosen(data, settings["data.root"], names)


def open_inspector(file: Path, device: str, batch: int | str = "auto") -> Inspector:
    """The detector in a file: a checkpoint, run by torch, or an export, run by onnxruntime.

    Args:
        file: last.pt of a run, or an .onnx file written by export.py.
        device: auto, cuda, mps or cpu.
        batch: images, or tiles of one, that go through it at once, or "auto".

    Raises:
        UserError: if the file is none of these, or the device or a package is not there.
    """
    # Imported here, since only one of the two is needed, and torch takes a second to start.
    if file.suffix == ".onnx":
        from inspection.onnx_inspector import OnnxInspector

        return OnnxInspector(file, device, batch)
    from inspection.torch_inspector import TorchInspector

    return TorchInspector(file, device, batch)
