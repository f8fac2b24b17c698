"""Changing the calibrations of a finished run, or of an export of one."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from inspection.inspector import Inspector
from inspection.onnx_inspector import described, write_model
from inspection.threshold import Calibration
from utils.config import Config, changed
from utils.errors import UserError
from utils.files import new_file, write_whole
from utils.optional_packages import need

FORMER = "former-calibration.yaml"  # of a run, for calibrations that others replace; then -2, ...


def rescored_config(config: Config, overrides: dict[str, Any]) -> Config:
    """Return a finished run's settings with `overrides`; raises `UserError` for learned ones."""
    for key in overrides:
        if not key.startswith("score.") and key != "data.max_megapixels":
            raise UserError(
                f"{key} is learned, or given by a flag of its own; only score.* and "
                "data.max_megapixels can be set without training"
            )
    return changed(config, overrides)


def rescore(inspector: Inspector, config: Config, root: str) -> dict[str, Calibration]:
    """Calibrate all categories of a run again, with scores computed in another way.

    Args:
        inspector: a checkpoint, which gets the settings.
        config: its settings, with others below `score`.
        root: folder that holds the categories; all good images that the run knows are needed.
    """
    from data.good_images import (
        decode_all,  # late, as below: an export needs no torch
        in_folds,
    )
    from inspection.calibration import calibrate_detector

    images, _ = decode_all(inspector.good.paths(root), config.data)
    # Weights and maps stay; only the step from a map to its score reads these settings.
    inspector.detector.config = config
    folds = in_folds(images, inspector.good, inspector.batch, inspector.device)
    return calibrate_detector(inspector.detector, images, inspector.good, folds)


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
        _set_in_export(file, changed)
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


def _set_in_export(file: Path, changed: dict[str, Calibration]) -> None:
    model = need("onnx").load(str(file))
    about = {entry.key: entry.value for entry in model.metadata_props}
    # The file is all there is: the former ones are kept in its metadata, the oldest first.
    former = json.loads(about["calibrations"])
    formers = [*json.loads(about.get("former_calibrations", "[]")), former]
    about |= described({category: Calibration(**one) for category, one in former.items()} | changed)
    write_model(model, about | {"former_calibrations": json.dumps(formers)}, file)
