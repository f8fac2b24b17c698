"""Detectors, and the registry through which the scripts build them by name.

The registry imports no detector, so that a script can answer a wrong flag before torch is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

from utils.config import Config, nearest
from utils.errors import UserError

if TYPE_CHECKING:
    from models.detector import Detector


class Entry(NamedTuple):
    """A detector of the registry.

    Attributes:
        path: its module and its class.
        reads: settings that it reads beside `ALL_READ`: sections or dotted keys. A setting of
            `NAMED` is not read with its section.
    """

    path: str
    reads: tuple[str, ...]


# Settings that every detector reads.
ALL_READ = (
    *("model", "seed", "device", "data", "score", "calibration"),
    *("train.batch", "train.micro_batch"),
)
NAMED = ("data.defects",)

DETECTORS = {
    "unet": Entry(
        "models.unet:UNetAutoencoder",
        ("unet", "corruption", "loss", "backbone.weights", "train", "data.defects"),
    ),
    "draem": Entry(
        "models.draem:Draem", ("unet.width", "corruption", "draem", "train", "data.defects")
    ),
    "dinomaly": Entry("models.dinomaly:Dinomaly", ("backbone", "train")),
    "patchcore": Entry("models.patchcore:PatchCore", ("backbone", "patchcore", "data.defects")),
    "padim": Entry("models.padim:Padim", ("backbone", "padim")),
    "fastflow": Entry("models.fastflow:FastFlow", ("backbone", "train")),
    "patch_memory": Entry(
        "models.patch_memory:PatchMemory", ("backbone", "patch_memory", "data.defects")
    ),
}


def check_model(name: str) -> None:
    """Raise `UserError` if there is no detector of this name."""
    if name not in DETECTORS:
        there = list(DETECTORS)
        raise UserError(
            f"model is {name!r} but should be one of: {', '.join(there)}" + nearest(name, there)
        )


def reads(model: str, key: str) -> bool:
    """Return whether a detector reads the setting of this dotted key."""
    own = (*ALL_READ, *DETECTORS[model].reads)
    return key in own or (key not in NAMED and key.partition(".")[0] in own)


def refuse_unread(model: str, keys: Iterable[str]) -> None:
    """Raise `UserError` if there is no such detector, or it does not read one of these settings."""
    check_model(model)
    for key in keys:
        if not reads(model, key):
            others = ", ".join(name for name in DETECTORS if reads(name, key))
            raise UserError(f"{key} is not used by {model}; it is used by: {others}")


def build_model(config: Config) -> Detector:
    """Build the untrained detector that `config.model` names; `UserError` if there is none."""
    check_model(config.model)
    module, _, name = DETECTORS[config.model].path.partition(":")
    return getattr(import_module(module), name)(config)
