"""Changing the verdict of a finished run, or of an export of one."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from inspection.onnx_inspector import described, write_model
from inspection.threshold import Calibration
from utils.config import Config
from utils.files import new_file, write_whole
from utils.optional_packages import need

FORMER = "former-calibration.yaml"
"""File of a run that calibrations go to when others take their place; then -2 and so on."""


def set_calibrations(
    file: Path, changed: dict[str, Calibration], config: Config | None = None
) -> None:
    """Give parts of a run, or of an export, another calibration; the former ones are kept in it.

    Args:
        file: last.pt of a finished run, or an .onnx file of export.py.
        changed: the new ones; parts that are not among them keep theirs.
        config: settings that go with it, of a run; None leaves them as they are.
    """
    if file.suffix == ".onnx":
        _set_in_export(file, changed)
        return
    from training.checkpoint import load_checkpoint, save_checkpoint  # torch

    checkpoint = load_checkpoint(file)
    former = yaml.safe_dump(checkpoint.calibrations, sort_keys=False)
    write_whole(new_file(file.parent / FORMER), former)
    calibrations = checkpoint.calibrations | {part: asdict(one) for part, one in changed.items()}
    after = replace(checkpoint, calibrations=calibrations)
    save_checkpoint(file.parent, after if config is None else replace(after, config=config))


def _set_in_export(file: Path, changed: dict[str, Calibration]) -> None:
    model = need("onnx").load(str(file))
    about = {entry.key: entry.value for entry in model.metadata_props}
    former = json.loads(about["calibrations"])
    formers = [*json.loads(about.get("former_calibrations", "[]")), former]
    about |= described({part: Calibration(**one) for part, one in former.items()} | changed)
    write_model(model, about | {"former_calibrations": json.dumps(formers)}, file)
