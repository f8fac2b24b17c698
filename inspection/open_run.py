"""Opening the run, or the export, that the flags name; giving it other calibrations."""

import argparse
import math
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from data.mvtec import Category
from inspection.inspector import Inspector
from inspection.threshold import Calibration
from models import check_model
from training.folders import add_checkpoint_flag, find_run
from utils.config import ALL, Config, category_names, load_config, nearest
from utils.errors import UserError
from utils.files import new_file, write_whole
from utils.flags import add_setting_flags, overrides_from

FORMER = "former-calibration.yaml"  # of a run, for calibrations that others replace; then -2, ...


def add_run_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which run is meant, and what it works on."""
    add_checkpoint_flag(parser)
    add_setting_flags(parser, ["--model", "--data-root", "--device"])


def add_category_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--category`, which picks the run and, of a run of several categories, those meant."""
    text = "the newest run that knows this category, and of several it alone; or some, by commas"
    parser.add_argument(
        "--category", dest="data.category", type=category_names, metavar="NAME", help=text
    )


def finite_threshold(text: str) -> float:
    """Return the threshold that a flag gives; raises `UserError` if it is no finite number."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    # "nan" and "inf" are numbers to float(), but would call every part good, or none.
    if not math.isfinite(value):
        raise UserError(f"--threshold is {text!r} but should be a number, on the scale of scores")
    return value


def parse_checked(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Parse the command line; raises `UserError` for a flag whose setting is not right."""
    args = parser.parse_args()
    config = load_config(overrides=overrides_from(args))
    check_model(config.model)
    return args


def named_run(args: argparse.Namespace) -> Path:
    """Return what the flags name, or the newest run that fits them.

    Raises:
        UserError: if there is none.
    """
    return find_run(args.checkpoint, vars(args)["data.category"], args.model)


def open_run(args: argparse.Namespace) -> tuple[Path, Inspector]:
    """Open the detector that the flags name; returns its file, too.

    Raises:
        UserError: if there is none, or it does not fit `--model` or `--category`.
    """
    file = named_run(args)
    inspector = open_inspector(file, args.device or "auto", getattr(args, "batch", "auto"))
    select_categories(inspector, args)
    threshold = getattr(args, "threshold", None)
    if threshold is not None:
        inspector.calibrations = {
            category: calibration.with_threshold(threshold)
            for category, calibration in inspector.calibrations.items()
        }
    return file, inspector


def select_categories(inspector: Inspector, args: argparse.Namespace) -> None:
    """Leave an inspector the categories that `--category` names; all of them where it is not given.

    Raises:
        UserError: if it knows one of them not, or is not of the detector that `--model` names.
    """
    if args.model not in (None, inspector.config.model):
        raise UserError(
            f"--model is {args.model}, but this run is of {inspector.config.model}; leave out one "
            "of --model and --checkpoint"
        )
    known, chosen = list(inspector.calibrations), vars(args)["data.category"]
    if chosen in (None, ALL):
        return
    for category in chosen.split(","):
        if category not in known:
            raise UserError(
                f"--category is {category}, but the run knows: {', '.join(known)}"
                f"{nearest(category, known)}"
            )
    inspector.calibrations = {
        category: inspector.calibrations[category] for category in chosen.split(",")
    }


def open_categories(args: argparse.Namespace, inspector: Inspector) -> list[Category]:
    """Open the data sets of the categories that an inspector knows, below `--data-root` if given.

    Raises:
        UserError: if a folder is missing.
    """
    data = inspector.config.data
    root = vars(args)["data.root"] or data.root
    return [Category(root, category, data) for category in inspector.calibrations]


def open_inspector(file: Path, device: str, batch: int | str = "auto") -> Inspector:
    """Open the detector in a file: a checkpoint, run by torch, or an export, run by onnxruntime.

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


def set_calibrations(
    file: Path, changed: dict[str, Calibration], config: Config | None = None
) -> None:
    """Give a run, or an export, other calibrations; the former ones are kept in it.

    Args:
        file: last.pt of a finished run, or an .onnx file of export.py.
        changed: the new ones; categories that are not among them keep theirs.
        config: settings that go with it, of a run; None leaves them as they are.
    """
    if file.suffix == ".onnx":
        from inspection.onnx_inspector import set_in_export

        set_in_export(file, changed)
        return
    from training.checkpoint import load_checkpoint, save_checkpoint

    checkpoint = load_checkpoint(file)
    # The former ones are on disk before they are replaced: a kill in between loses none.
    former = yaml.safe_dump(checkpoint.calibrations, sort_keys=False)
    write_whole(new_file(file.parent / FORMER), former)
    calibrations = checkpoint.calibrations | {
        category: asdict(one) for category, one in changed.items()
    }
    after = replace(checkpoint, calibrations=calibrations)
    save_checkpoint(file.parent, after if config is None else replace(after, config=config))
