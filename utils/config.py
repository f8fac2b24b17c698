"""Settings: their types and bounds. The defaults stand in config.yaml alone.

Validated by pydantic. Imports nothing heavy, so that a typo is answered at once.
"""

import difflib
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
)

from utils.errors import UserError
from utils.files import read_yaml, write_whole

CONFIG_FILE = Path(__file__).resolve().parent.parent / "config.yaml"

MIN_FALSE_ALARMS = 1e-6  # nobody has images to tell less; far below it the threshold is infinite
ALL = "all"  # the category that stands for all there are


def category_names(value: Any) -> Any:
    """Return categories joined by commas sorted, each without the slash that a shell completes."""
    if not isinstance(value, str):
        return value
    names = {name.strip().rstrip("/\\") for name in value.split(",")}
    if any(name in ("", ".", "..") or set(name) & set("/\\") for name in names):
        raise UserError(
            f"data.category is {value!r:.80} but should be the name of a folder under data.root, "
            "or several joined by commas; --data-root names the folder that holds them"
        )
    return ",".join(sorted(names))


def _pair(value: Any) -> Any:
    """A single number is a square: 512 -> (512, 512)."""
    return (value, value) if isinstance(value, int | str) else value


def _listed(value: Any) -> Any:
    """Names joined by a plus: "clean+stain" -> ["clean", "stain"]."""
    return value.split("+") if isinstance(value, str) else value


def _pattern(value: str) -> str:
    try:
        re.compile(value)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"a regular expression ({error})") from None
    return value


# Where pydantic has no plain words for a type, its description says what is right.
Name = Annotated[str, Field(min_length=1, max_length=4096)]
Side = Annotated[int, Field(ge=32, le=8192)]
Size = Annotated[
    tuple[Side, Side],
    BeforeValidator(_pair),
    Field(description="a side from 32 to 8192 pixels, or [height, width]"),
]
SideOrNone = Annotated[Literal[0] | Side, Field(description="0 or a side from 32 to 8192 pixels")]
Count = Annotated[int, Field(ge=1, le=10**9)]
CountOrNone = Annotated[int, Field(ge=0, le=10**9)]
CountOrAuto = Annotated[
    Literal["auto"] | Count, Field(description="auto or a whole number from 1 on")
]
Weight = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Switch = Annotated[bool, Field(description="true or false")]
Kind = Literal["clean", "stain", "perlin", "crack", "cut_paste", "remove", "displace"]


class Section(BaseModel, extra="forbid", frozen=True):
    """A group of settings: no unknown keys, no changes once it is read."""

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_as_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python, and pydantic with it, takes True for 1."""
        if isinstance(value, bool) and cls.model_fields[info.field_name].annotation is not bool:
            raise ValueError("a number or a name, not true or false")
        return value


class DataConfig(Section):
    root: Name
    category: Annotated[Name, BeforeValidator(category_names)]
    size: Size
    resize: Literal["auto", "squash", "pad", "crop"]
    region: Name | None
    defects: Name | None
    tile: SideOrNone
    limit: CountOrNone
    light: float = Field(ge=0, lt=1)
    contaminated: float = Field(ge=0, le=0.5)
    depth: Literal["auto", 8, 10, 12, 14, 16]
    max_megapixels: Positive
    mm_per_pixel: Weight


class UNetConfig(Section):
    encoder: Name
    width: int = Field(ge=1, le=1024)


class CorruptionConfig(Section):
    kinds: Annotated[tuple[Kind, ...], BeforeValidator(_listed), Field(min_length=1)]


class LossConfig(Section):
    l1: Weight
    ssim: Weight
    perceptual: Weight
    vgg16: Name | None
    focal: Weight


class DraemConfig(Section):
    sharper: Switch


class BackboneConfig(Section):
    name: Name
    layers: Annotated[
        Literal["auto"] | Annotated[tuple[int, ...], Field(min_length=1)],
        Field(description="auto or a list of layers, such as [2,4]"),
    ]
    weights: Name | None


class PatchCoreConfig(Section):
    paper: Switch
    coreset: float = Field(gt=0, le=1)


class PadimConfig(Section):
    channels: Count


class PatchMemoryConfig(Section):
    rotations: int = Field(ge=1, le=36)


class TrainConfig(Section):
    epochs: Count
    batch: Count
    crop: SideOrNone
    lr: Positive
    micro_batch: CountOrAuto
    precision: Literal["auto", "float32", "bfloat16"]
    log: Literal["tensorboard"] | None


class ScoreConfig(Section):
    smooth: float = Field(ge=0, le=0.25)
    reduce: Literal["top1", "max"]
    least_area: CountOrNone


class CalibrationConfig(Section):
    holdout: float = Field(gt=0, lt=1)
    false_alarms: Annotated[
        Literal["auto"] | Annotated[float, Field(ge=MIN_FALSE_ALARMS, lt=0.5)],
        Field(description="auto or a share from 1e-6 to below 0.5"),
    ]
    group: Annotated[Name, AfterValidator(_pattern)] | None


class Config(Section):
    """Every setting of a run; config.yaml says in a line what each one does."""

    model: Name
    seed: int = Field(ge=0, lt=2**31)
    device: str = Field(
        pattern=r"^(auto|cuda|cuda:[0-9]{1,3}|mps|cpu)$",
        description="auto, cuda, cuda:1 (a certain GPU), mps or cpu",
    )
    data: DataConfig
    unet: UNetConfig
    corruption: CorruptionConfig
    loss: LossConfig
    draem: DraemConfig
    backbone: BackboneConfig
    patchcore: PatchCoreConfig
    padim: PadimConfig
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
        if data.tile and data.resize in ("pad", "crop"):
            raise UserError(
                f"data.resize={data.resize} is not used by tiles, which keep the ratio by "
                "themselves; set data.resize=auto, or data.tile=0"
            )
        if set(self.corruption.kinds) == {"clean"}:
            raise UserError(
                "corruption.kinds names nothing but clean, which leaves no defect to learn from; "
                "add some of stain, perlin, crack, cut_paste, remove and displace"
            )
        if not (loss.l1 or loss.ssim or loss.perceptual or loss.focal):
            raise UserError(
                "loss.l1, loss.ssim, loss.perceptual and loss.focal are all 0, which leaves "
                "nothing to learn from; raise one of them"
            )


SECTIONS = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if issubclass(field.annotation, Section)
}


@cache
def default_config() -> Config:
    """Return the settings of config.yaml alone."""
    return config_from(read_yaml(CONFIG_FILE), source=CONFIG_FILE.name)


def load_config(path: Path | None = None, overrides: dict[str, Any] | None = None) -> Config:
    """Read config.yaml, then another file over it, then `overrides` such as {"train.lr": 1}.

    Raises:
        UserError: for an unreadable file, an unknown key, a wrong type or an impossible value.
    """
    config = default_config()
    if path is not None:
        config = changed(config, read_yaml(path), source=str(path))
    return changed(config, overrides or {})


def changed(config: Config, changes: dict[Any, Any], source: str = "") -> Config:
    """Return settings with others in their place, nested or by dotted key."""
    return config_from(_flat(config.model_dump()) | _flat(changes), source)


def differences(old: Config, new: Config) -> dict[str, tuple[Any, Any]]:
    """Return the settings that differ, by dotted key: (old, new)."""
    before, after = _flat(old.model_dump()), _flat(new.model_dump())
    return {key: (before[key], after[key]) for key in before if before[key] != after[key]}


def write_config(config: Config, path: Path) -> None:
    """Write settings as a file for `--config`."""
    write_whole(path, yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False))


def config_from(settings: dict[Any, Any], source: str = "") -> Config:
    """Validate all settings, nested or by dotted key, read from `source` (a file, or "" for flags).

    Raises:
        UserError: naming the key and what would be right.
    """
    flat = _flat(settings)
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        section, dot, name = key.partition(".")
        if dot and isinstance(nested.setdefault(section, {}), dict):
            nested[section][name] = value
        else:
            nested[key] = value
    try:
        return Config.model_validate(nested)
    except ValidationError as error:
        line = _explain(error.errors()[0], flat)
        raise UserError(f"{source}: {line}" if source else line) from None


def nearest(word: str, choices: list[str]) -> str:
    """Return a hint at the choice spelt most like `word`: '; did you mean ...?', or ''."""
    close = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def _flat(settings: dict[Any, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"lr": 1}} -> {"train.lr": 1}."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        # An empty group changes nothing; as the value of a setting it is an error, not lost.
        is_group = isinstance(value, dict) and not prefix and (value or key in SECTIONS)
        flat |= _flat(value, f"{key}.") if is_group else {key: value}
    return flat


def _explain(error: Any, settings: dict[str, Any]) -> str:
    """One line for a pydantic error in settings by dotted key: key, value, what would be right."""
    # A location goes on into branches of unions and items of pairs; the setting is its beginning.
    section, *rest = map(str, error["loc"])
    key = f"{section}.{rest[0]}" if rest and section not in settings else section
    if error["type"] == "extra_forbidden":
        known = [f"{name}.{field}" for name, one in SECTIONS.items() for field in one.model_fields]
        known += [name for name in Config.model_fields if name not in SECTIONS]
        # Compared by its last part too: `--set epochs=3` means train.epochs.
        same = [name for name in known if name.rpartition(".")[2] == key.rpartition(".")[2]]
        hint = f"; did you mean {same[-1]}?" if same else nearest(key, known)
        return f"unknown setting {key:.80}{hint}"
    if key not in settings:
        return f"{key} is missing"
    # "Input should be a valid integer", "String should have at least 1 character", ...
    right = re.sub(r"^(\w+ should |Value error, )|, unable to .*", "", error["msg"])
    right = right.replace("valid tuple", "list")
    if error["type"] == "value_error":
        right = f"be {right}"
    if key in SECTIONS:
        right = "be a group of settings, written as 'key: value' lines below it"
    else:
        fields = SECTIONS[section].model_fields if rest else Config.model_fields
        if about := fields[rest[0] if rest else key].description:
            right = f"be {about}"
    choices = error.get("ctx", {}).get("expected", "").split("'")[1::2]
    hint = nearest(str(error["input"]), choices)
    return f"{key} is {settings[key]!r:.80} but should {right}{hint}"
