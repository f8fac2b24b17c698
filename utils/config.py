"""Settings: their types and bounds. The defaults stand in config.yaml alone.

Validated by pydantic. Imports nothing heavy, so that a typo is answered at once.
"""

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, ValidationError

from utils.errors import UserError
from utils.files import write_whole
from utils.yaml_files import read_yaml

CONFIG_FILE = Path(__file__).resolve().parent.parent / "config.yaml"

ALL = "all"  # the category that stands for all there are


def category_names(value: Any) -> Any:
    """Categories joined by commas, sorted, each without the slash that a shell completes it by."""
    if not isinstance(value, str):
        return value
    names = {name.strip().rstrip("/\\") for name in value.split(",")}
    if any(name in ("", ".", "..") or set(name) & set("/\\") for name in names):
        raise UserError(
            f"data.category is {value!r} but should be the name of a folder under data.root, or "
            "several joined by commas; where that is, --data-root says"
        )
    return ",".join(sorted(names))


def _pair(value: Any) -> Any:
    """A single number is a square: 512 -> (512, 512)."""
    return (value, value) if isinstance(value, int | str) else value


def _listed(value: Any) -> Any:
    """Names joined by a plus: "clean+stain" -> ["clean", "stain"]."""
    return value.split("+") if isinstance(value, str) else value


def _pattern(value: str) -> str:
    """A regular expression that compiles, as it was written."""
    try:
        re.compile(value)
    except re.error as error:
        raise ValueError(f"a regular expression ({error})") from None
    return value


Name = Annotated[str, Field(min_length=1)]
Side = Annotated[int, Field(ge=32, le=8192)]
Count = Annotated[int, Field(ge=1)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Kind = Literal["clean", "stain", "perlin", "crack", "cut_paste", "remove", "displace"]


class Section(BaseModel, extra="forbid", frozen=True):
    """A group of settings: no unknown keys, no changes once it is read."""


class DataConfig(Section):
    root: str
    category: Annotated[Name, BeforeValidator(category_names)]
    size: Annotated[tuple[Side, Side], BeforeValidator(_pair)]
    resize: Literal["squash", "pad", "crop"]
    region: Name | None
    tile: Literal[0] | Side
    limit: int = Field(ge=0)
    depth: Literal["auto", 8, 10, 12, 14, 16]
    max_megapixels: Positive


class UNetConfig(Section):
    encoder: Name
    width: int = Field(ge=1, le=1024)
    memory: int = Field(ge=3)


class CorruptionConfig(Section):
    kinds: Annotated[tuple[Kind, ...], BeforeValidator(_listed)]


class LossConfig(Section):
    l1: Weight
    ssim: Weight
    perceptual: Weight
    vgg16: str | None
    focal: Weight
    balance: float = Field(ge=0, le=100)


class DraemConfig(Section):
    focal: Weight
    balance: float = Field(ge=0, le=100)


class DinomalyConfig(Section):
    dropout: float = Field(ge=0, lt=1)
    blocks: int = Field(ge=2, le=64)
    hard: float = Field(gt=0, le=1)


class BackboneConfig(Section):
    name: Name
    layers: Literal["auto"] | Annotated[tuple[int, ...], Field(min_length=1)]
    weights: str | None


class PatchCoreConfig(Section):
    joined: bool
    candidates: Count
    coreset: float = Field(gt=0, le=1)
    density: int = Field(ge=0)
    reweight: int = Field(ge=0)


class PadimConfig(Section):
    channels: Count


class FastFlowConfig(Section):
    steps: Count
    ratio: float = Field(gt=0, le=4)


class PatchMemoryConfig(Section):
    patches: Count
    rotations: int = Field(ge=1, le=36)


class TrainConfig(Section):
    epochs: Count
    batch: Count
    crop: Literal[0] | Side
    lr: Positive
    micro_batch: Literal["auto"] | Count
    precision: Literal["auto", "float32", "bfloat16"]
    log: Literal["tensorboard"] | None


class ScoreConfig(Section):
    smooth: float = Field(ge=0, le=0.25)
    reduce: Literal["top1", "max"]
    least_area: int = Field(ge=0)


class CalibrationConfig(Section):
    holdout: float = Field(gt=0, lt=1)
    false_alarms: float = Field(gt=0, lt=0.5)
    group: Annotated[str, AfterValidator(_pattern)] | None


class Config(Section):
    """Every setting of a run; config.yaml says in a line what each one does."""

    model: str
    seed: int = Field(ge=0, lt=2**31)
    device: str = Field(pattern=r"^(auto|cuda|cuda:\d+|mps|cpu)$")
    data: DataConfig
    unet: UNetConfig
    corruption: CorruptionConfig
    loss: LossConfig
    draem: DraemConfig
    dinomaly: DinomalyConfig
    backbone: BackboneConfig
    patchcore: PatchCoreConfig
    padim: PadimConfig
    fastflow: FastFlowConfig
    patch_memory: PatchMemoryConfig
    train: TrainConfig
    score: ScoreConfig
    calibration: CalibrationConfig

    def model_post_init(self, context: Any) -> None:
        """Raise `UserError` for settings that are right by themselves, and wrong together."""
        data, loss = self.data, self.loss
        if data.tile and data.size[0] != data.size[1]:
            raise UserError(
                f"data.tile cuts squares, but data.size is {list(data.size)}; make it one number"
            )
        if data.tile and data.resize != "squash":
            raise UserError(
                f"data.resize={data.resize} is not used by tiles, which keep the ratio by "
                "themselves; set data.resize=squash, or data.tile=0"
            )
        if not (loss.l1 or loss.ssim or loss.perceptual or loss.focal):
            raise UserError(
                "loss.l1, loss.ssim, loss.perceptual and loss.focal are all 0, which leaves "
                "nothing to learn from; raise one of them"
            )


RESUMABLE = ["device", "data.root", "data.max_megapixels", "train.epochs"]
"""Settings that a resumed run may change: they alter nothing that it has learned so far."""

WORDS = {
    "int": "a whole number",
    "float": "a number",
    "string": "a name",
    "bool": "true or false",
    "tuple": "a list",
    "model": "a group of settings, written as 'key: value' lines below it",
}
"""What to say of a value of the wrong type, by the type that pydantic misses."""

EXPECTED = {
    "device": "auto, cuda, cuda:1 (a certain GPU), mps or cpu",
    "data.size": "a side from 32 to 8192 pixels, or [height, width]",
    "backbone.layers": "auto or a list of layers, such as [2,3]",
    "data.tile": "0 or a side from 32 to 8192 pixels",
    "train.crop": "0 or a side from 32 to 8192 pixels",
    "train.micro_batch": "auto or a whole number from 1",
}
"""What to say of settings that pydantic has no plain words for."""


@cache
def default_config() -> Config:
    """The settings of config.yaml alone."""
    return config_from(read_yaml(CONFIG_FILE), source=CONFIG_FILE.name)


def load_config(path: Path | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """Settings from config.yaml, then from another file, then `overrides` such as {"train.lr": 1}.

    Raises:
        UserError: for an unreadable file, an unknown key, a wrong type or an impossible value.
    """
    config = default_config()
    if path is not None:
        config = changed(config, read_yaml(path), source=str(path))
    return changed(config, overrides or {})


def changed(config: Config, changes: dict[Any, Any], source: str = "") -> Config:
    """The settings with others in their place; see `config_from` for what these may look like."""
    return config_from(_flat(config.model_dump()) | _flat(changes), source)


def resumed_config(config: Config, overrides: dict[str, Any]) -> Config:
    """A run's settings with `overrides`; raises `UserError` for what cannot change in mid-run."""
    resumed = changed(config, overrides)
    for key, (old, new) in differences(config, resumed).items():
        if key not in RESUMABLE:
            raise UserError(
                f"{key} is {old!r:.80} in this run and cannot change to {new!r:.80} on --resume "
                f"(only {', '.join(RESUMABLE)} can); leave out --resume to start a new run"
            )
    return resumed


def rescored_config(config: Config, overrides: dict[str, Any]) -> Config:
    """A finished run's settings with `overrides`; raises `UserError` for what is learned."""
    for key in overrides:
        if not key.startswith(("score.", "data.max_megapixels")):
            raise UserError(
                f"{key} is learned, or given by a flag of its own; only score.* and "
                "data.max_megapixels can be set without training"
            )
    return changed(config, overrides)


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """The settings that differ, by dotted key: (old, new)."""
    before, after = _flat(old.model_dump()), _flat(new.model_dump())
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def with_absolute_paths(config: Config) -> Config:
    """The same settings for a process that starts in another folder."""
    paths = ["data.root", "data.region", "loss.vgg16", "backbone.weights"]
    settings = _flat(config.model_dump())
    given = {key: settings[key] for key in paths if settings[key]}
    return changed(config, {key: str(Path(path).resolve()) for key, path in given.items()})


def write_config(config: Config, path: Path) -> None:
    """Write settings as a file for `--config`."""
    write_whole(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def config_from(settings: dict[Any, Any], source: str = "") -> Config:
    """Validate all settings, nested or by dotted key, read from `source` (a file, or "" for flags).

    Raises:
        UserError: naming the key and what would be right.
    """
    flat, nested = _flat(settings), {}
    for key, value in flat.items():
        section, dot, name = key.partition(".")
        inner = nested.setdefault(section, {}) if dot else None
        if isinstance(inner, dict):
            inner[name] = value
        else:
            nested[key] = value
    try:
        return Config.model_validate(nested)
    except ValidationError as error:
        line = _explain(error.errors()[0], flat)
        raise UserError(f"{source}: {line}" if source else line) from None


def nearest(word: str, choices: list[str]) -> str:
    """A hint at the choice that is spelt most like `word`: ' (did you mean ...?)' or ''."""
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _flat(settings: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"lr": 1}} -> {"train.lr": 1}."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        inner = isinstance(value, dict)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _explain(error: Any, settings: dict[str, Any]) -> str:
    """One line for a pydantic error in settings, by dotted key."""
    # The location goes on into branches of unions and places of pairs: the setting is wanted.
    section, *rest = map(str, error["loc"])
    key = f"{section}.{rest[0]}" if rest and section not in settings else section
    if error["type"] == "extra_forbidden":
        known = [name for name in settings if not f"{name}.".startswith(f"{key}.")]
        # Compared by its last part too: `--set epochs=3` means train.epochs.
        last = key.rpartition(".")[2]
        meant = [name for name in known if name.rpartition(".")[2] == last]
        hint = f"; did you mean {meant[-1]}?" if meant else nearest(key, known)
        return f"unknown setting {key}{hint}"
    if key not in settings:
        return f"{key} is missing"
    kind, _, fault = error["type"].partition("_")
    message = re.sub("^(Input should be|Value error,) ", "", error["msg"])
    if fault in ("type", "parsing", "from_float", "too_short"):
        message = WORDS.get(kind, message)
    message = EXPECTED.get(key, message)
    choices = error.get("ctx", {}).get("expected", "").split("'")[1::2]
    hint = nearest(str(error["input"]), choices)
    return f"{key} is {settings[key]!r} but should be {message}{hint}"
