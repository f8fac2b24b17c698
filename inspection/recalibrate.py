"""Changing the verdict of a finished run, or of an export of one."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import yaml

from inspection.onnx_inspector import NO_DIGEST, sealed
from utils.calibration import Calibration
from utils.config import Config
from utils.files import new_file, replacing, write_whole
from utils.optional_packages import need

FORMER = "former-calibration.yaml"
"""File of a run that a calibration goes to when another one takes its place; then -2 and so on."""


def set_calibration(file: Path, calibration: Calibration, config: Config | None = None) -> None:
    """Give a run, or an export, another calibration; the former one is kept in it.

    Args:
        file: last.pt of a finished run, or an .onnx file of export.py.
        calibration: the new one.
        config: settings that go with it, of a run; None leaves them as they are.
    """
    if file.suffix == ".onnx":
        _set_in_export(file, calibration)
    else:
        _set_in_run(file, calibration, config)


def _set_in_run(file: Path, calibration: Calibration, config: Config | None) -> None:
    from runs.checkpoint import load_checkpoint, save_checkpoint  # torch

    checkpoint = load_checkpoint(file)
    former = yaml.safe_dump(asdict(checkpoint.calibration), sort_keys=False)
    write_whole(new_file(file.parent / FORMER), former)
    config = checkpoint.config if config is None else config
    save_checkpoint(file.parent, replace(checkpoint, calibration=calibration, config=config))


def _set_in_export(file: Path, calibration: Calibration) -> None:
    onnx = need("onnx", "deploy")
    model = onnx.load(str(file))
    about = {entry.key: entry.value for entry in model.metadata_props}
    formers = [
        *json.loads(about.get("former_calibrations", "[]")),
        json.loads(about["calibration"]),
    ]
    about |= {
        "threshold": repr(calibration.threshold),
        "calibration": json.dumps(asdict(calibration)),
        "former_calibrations": json.dumps(formers),
        "digest": NO_DIGEST.decode(),
    }
    onnx.helper.set_model_props(model, about)
    with replacing(file) as stream:
        stream.write(sealed(model.SerializeToString()))
