"""Settings: their types, bounds and defaults, read from config.yaml and overridden by flags.

Validated by pydantic. Imports nothing heavy, so that a typo is answered at once.
"""

import argparse
import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)
from pydantic_core import PydanticCustomError

from utils.errors import UserError
from utils.files import write_whole

CONFIG_FILE = Path(__file__).resolve().parent.parent / "config.yaml"


def _pair(value: Any) -> Any:
    """A single number is a square: 512 -> (512, 512)."""
    return (value, value) if isinstance(value, int | str) else value


Side = Annotated[int, Field(ge=32, le=8192)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A group of settings: no unknown keys, no changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(Section):
    """Where the images are and how they are read."""

    root: str = "data/mvtec"
    category: str = Field("tile", min_length=1)
    size: Annotated[tuple[Side, Side], BeforeValidator(_pair)] = (512, 512)
    limit: int = Field(0, ge=0)
    cache_gib: float = Field(4.0, ge=0, allow_inf_nan=False)
    depth: Literal["auto", 8, 10, 12, 14, 16] = "auto"
    max_megapixels: float = Field(178.0, gt=0, allow_inf_nan=False)


class UNetConfig(Section):
    """The U-Net autoencoder; width and depth also of DRAEM's networks."""

    encoder: str = Field("efficientnet_lite0", min_length=1)
    width: int = Field(32, ge=1, le=1024)
    depth: int = Field(5, ge=4, le=8)
    memory: int = Field(10_000, ge=3)


class CorruptionConfig(Section):
    """How often good images are corrupted in which way while training, relative to one another."""

    clean: Weight = 1.0
    stain: Weight = 1.0
    perlin: Weight = 1.0
    crack: Weight = 1.0
    cut_paste: Weight = 1.0
    gone: Weight = 1.0
    displace: Weight = 1.0
    more: int = Field(1, ge=0, le=100)
    variation: float = Field(1.0, ge=0, le=5)
    textures: str | None = None


def _named_kinds(value: Any) -> Any:
    """Short forms: `corruption: none` for clean images alone, `stain+crack` for these kinds."""
    if not isinstance(value, str | None):
        return value
    kinds = [] if value in (None, "none") else value.split("+")
    not_kinds = ("clean", "more", "variation", "textures")
    every = [key for key in CorruptionConfig.model_fields if key not in not_kinds]
    return dict.fromkeys(every, 0.0) | dict.fromkeys(kinds, 1.0)


class LossConfig(Section):
    """Weights of the terms of the U-Net's loss."""

    l1: Weight = 1.0
    ssim: Weight = 1.0
    perceptual: Weight = 0.0
    vgg16: str | None = None
    focal: Weight = 20.0
    balance: float = Field(8.0, ge=0, le=100)


class DraemConfig(Section):
    """DRAEM."""

    focal: Weight = 1.0
    balance: float = Field(0.0, ge=0, le=100)


class BackboneConfig(Section):
    """The pretrained network of the detectors that learn from features."""

    name: str = Field("auto", min_length=1)
    layers: Literal["auto"] | Annotated[tuple[int | str, ...], Field(min_length=1)] = "auto"
    weights: str | None = None


class PatchCoreConfig(Section):
    """PatchCore."""

    candidates: int = Field(200_000, ge=1)
    coreset: float = Field(0.1, gt=0, le=1)
    projection: int = Field(128, ge=1)
    density: int = Field(50, ge=0)
    reweight: int = Field(0, ge=0)


class PadimConfig(Section):
    """PaDiM."""

    channels: int = Field(100, ge=1)
    choose: Literal["random", "variance"] = "random"
    shrinkage: float = Field(0.01, gt=0, le=1)


class PatchMemoryConfig(Section):
    """The memory of a vision transformer's patches."""

    patches: int = Field(20_000, ge=1)
    rotations: int = Field(1, ge=1, le=36)


class SearchConfig(Section):
    """Search for nearest neighbours in a bank."""

    memory_mib: float = Field(8.0, gt=0, allow_inf_nan=False)


class TrainConfig(Section):
    """Optimisation."""

    epochs: int = Field(75, ge=1)
    batch: int = Field(24, ge=1)
    crop: Literal[0] | Side = 0
    lr: float = Field(1e-4, gt=0, allow_inf_nan=False)
    cooldown: float = Field(0.3, ge=0, le=1)
    micro_batch: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class ScoreConfig(Section):
    """From anomaly maps to one score an image, and to regions."""

    smooth: float = Field(4.0, ge=0, le=100)
    reduce: Literal["top1", "max", "mean"] = "top1"
    least_area: int = Field(0, ge=0)


def _pattern(value: str) -> str:
    """A regular expression that compiles, as it was written."""
    try:
        re.compile(value)
    except re.error as error:
        raise PydanticCustomError(
            "pattern", "a regular expression ({reason})", {"reason": str(error)}
        ) from None
    return value


class CalibrationConfig(Section):
    """How the threshold is set on good images.

    One in n is the least share of false alarms that n good images can promise at all. With the few
    hundred that are common, 2% comes out between 0.7 and 4%, while 0.5% would be anybody's guess.
    """

    holdout: float = Field(0.1, gt=0, lt=1)
    false_alarms: float = Field(0.02, gt=0, lt=0.5)
    group: Annotated[str, AfterValidator(_pattern)] | None = None


class Config(Section):
    """Every setting of a run; config.yaml says in a line what each one does."""

    model: str = "unet"
    seed: int = Field(0, ge=0, lt=2**31)
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    data: DataConfig = DataConfig()
    unet: UNetConfig = UNetConfig()
    corruption: Annotated[CorruptionConfig, BeforeValidator(_named_kinds)] = CorruptionConfig()
    loss: LossConfig = LossConfig()
    draem: DraemConfig = DraemConfig()
    backbone: BackboneConfig = BackboneConfig()
    patchcore: PatchCoreConfig = PatchCoreConfig()
    padim: PadimConfig = PadimConfig()
    patch_memory: PatchMemoryConfig = PatchMemoryConfig()
    search: SearchConfig = SearchConfig()
    train: TrainConfig = TrainConfig()
    score: ScoreConfig = ScoreConfig()
    calibration: CalibrationConfig = CalibrationConfig()


FLAGS = {
    "--model": ("model", "NAME", "detector to train"),
    "--category": ("data.category", "NAME", "category of parts, a folder under --data-root"),
    "--data-root": ("data.root", "DIR", "folder that holds the categories"),
    "--size": ("data.size", "N", "side of the square that images are resized to, in pixels"),
    "--epochs": ("train.epochs", "N", "passes over train/good"),
    "--batch": ("train.batch", "N", "images per optimiser step"),
    "--lr": ("train.lr", "X", "learning rate"),
    "--seed": ("seed", "N", "seed of everything random"),
    "--device": ("device", "NAME", "auto, cuda, mps or cpu"),
}
"""Flags that override a setting: flag -> (dotted key, placeholder, help)."""


def add_setting_flags(parser: argparse.ArgumentParser, flags: list[str] | None = None) -> None:
    """Add the named flags, those of `FLAGS` and `--set KEY=VALUE`; by default all of them."""
    for flag in [*FLAGS, "--set"] if flags is None else flags:
        if flag == "--set":
            parser.add_argument(
                flag,
                action="append",
                default=[],
                metavar="KEY=VALUE",
                help="any setting of config.yaml by its dotted name, such as train.lr=3e-4",
            )
        else:
            key, placeholder, text = FLAGS[flag]
            parser.add_argument(flag, dest=key, metavar=placeholder, help=f"{text} ({key})")


def overrides_from(arguments: argparse.Namespace) -> dict[str, Any]:
    """The settings that the flags of `add_setting_flags` gave, by dotted key.

    Raises:
        UserError: if a `--set` is not of the form KEY=VALUE.
    """
    values = {}
    for key, _, _ in FLAGS.values():
        if getattr(arguments, key, None) is not None:
            values[key] = getattr(arguments, key)
    for text in getattr(arguments, "set", []):
        key, value = assignment("--set", text)
        values[key] = value
    return values


def assignment(flag: str, text: str) -> tuple[str, Any]:
    """Dotted key and value of the text KEY=VALUE that a flag was given.

    Raises:
        UserError: if it is not of this form.
    """
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{flag} {text}: write it as KEY=VALUE, such as train.lr=3e-4")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise UserError(f"{flag} {text}: the value cannot be read") from None


def load_config(path: Path | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """Settings from config.yaml, then from `path` (which may name only a few), then `overrides`.

    Args:
        path: another YAML file, or None.
        overrides: values by dotted key, such as {"train.lr": 3e-4}.

    Raises:
        UserError: for an unreadable file, an unknown key, a wrong type or an impossible value.
    """
    settings: dict[str, Any] = {}
    for file in (CONFIG_FILE, path):
        if file is not None and (file is path or file.exists()):
            settings = _merge(settings, read_yaml(file))
            config_from(settings, source=str(file))
    return config_from(_merge(settings, _nested(overrides or {})))


RESUMABLE = [
    "device",
    "data.root",
    "data.cache_gib",
    "data.max_megapixels",
    "patchcore.reweight",
    "search.memory_mib",
    "train.epochs",
    "train.cooldown",
    *(f"score.{name}" for name in ScoreConfig.model_fields),
    "calibration.false_alarms",
]
"""Settings that a resumed run may change: they alter nothing that it has learned so far."""


def resumed_config(config: Config, overrides: dict[str, Any]) -> Config:
    """The settings of a run with `overrides` (by dotted key) applied.

    Raises:
        UserError: for a value that is not valid or a setting that cannot change in mid-run.
    """
    changed = config_from(_merge(config.model_dump(), _nested(overrides)))
    for key, (old, new) in differences(config, changed).items():
        if key not in RESUMABLE:
            raise UserError(
                f"{key} is {old!r} in this run and cannot change to {new!r} on --resume (only "
                f"{', '.join(RESUMABLE)} can); leave out --resume to start a new run"
            )
    return changed


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, by dotted key: (old, new)."""
    pairs = {key: (_get(old, key), _get(new, key)) for key in all_keys()}
    return {key: pair for key, pair in pairs.items() if pair[0] != pair[1]}


PATHS = ["data.root", "corruption.textures", "loss.vgg16", "backbone.weights"]
"""Settings that name a file or a folder."""


def with_absolute_paths(config: Config) -> Config:
    """The same settings for a process that starts in another folder."""
    named = {key: _get(config, key) for key in PATHS}
    whole = {key: str(Path(path).resolve()) for key, path in named.items() if path is not None}
    return config_from(_merge(config.model_dump(), _nested(whole)))


def write_config(config: Config, path: Path) -> None:
    """Write settings as a file for `--config`."""
    write_whole(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds; raises `UserError` if there is none."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {reason}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{path} must hold settings as 'key: value' lines")
    return content


def config_from(settings: dict[str, Any], source: str = "") -> Config:
    """Validate nested settings read from `source` (a file, or "" for flags).

    Raises:
        UserError: naming the key and what would be right.
    """
    try:
        return Config.model_validate(settings)
    except ValidationError as error:
        where = f"{source}: " if source else ""
        raise UserError(where + _explain(error.errors()[0])) from None


def all_keys(section: type[BaseModel] = Config, prefix: str = "") -> list[str]:
    """Dotted names of all settings, such as 'train.lr'."""
    keys = []
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            keys += all_keys(field.annotation, f"{prefix}{name}.")
        else:
            keys.append(prefix + name)
    return keys


def nearest(word: str, choices: list[str]) -> str:
    """A hint at the choice that is spelt most like `word`: ' (did you mean ...?)' or ''."""
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _merge(base: dict[str, Any], extra: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in extra.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _nested(overrides: dict[str, Any]) -> dict[str, Any]:
    """{"train.lr": 1} -> {"train": {"lr": 1}}."""
    settings: dict[str, Any] = {}
    for key, value in overrides.items():
        for part in reversed(key.split(".")):
            value = {part: value}
        settings = _merge(settings, value)
    return settings


def _get(config: BaseModel, key: str) -> Any:
    """The setting of a dotted name."""
    for part in key.split("."):
        config = getattr(config, part)
    return config


def _explain(error: Any) -> str:
    """One line for a pydantic error."""
    # The location of a union's branch ends in the branch's name, that of a pair in an index.
    keys = all_keys()
    parts = [str(part) for part in error["loc"]]
    key = ".".join(parts)
    while error["type"] != "extra_forbidden" and len(parts) > 1 and key not in keys:
        parts.pop()
        key = ".".join(parts)
        if any(name.startswith(key + ".") for name in keys):
            break
    if error["type"] == "extra_forbidden":
        # Compared by its last part too: `--set epochs=3` means train.epochs.
        ends = {name.rpartition(".")[2]: name for name in keys}
        last = key.rpartition(".")[2]
        hint = f"; did you mean {ends[last]}?" if last in ends else nearest(key, keys)
        return f"unknown setting {key}{hint}"
    value = error["input"]
    message = error["msg"].removeprefix("Input should be ")
    if error["type"] == "string_too_short":
        message = "a name"
    if error["type"] in ("int_parsing", "int_type", "int_from_float"):
        message = "a whole number"
    if error["type"] in ("float_parsing", "float_type"):
        message = "a number"
    if error["type"] in ("model_type", "model_attributes_type"):
        message = "a group of settings, written as 'key: value' lines below it"
    if key == "train.micro_batch":
        message = "auto or a whole number from 1"
    choices = [str(choice) for choice in error.get("ctx", {}).get("expected", "").split("'")[1::2]]
    hint = nearest(str(value), choices) if choices else ""
    return f"{key} is {value!r} but should be {message}{hint}"
