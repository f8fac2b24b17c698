"""Flags that several scripts share: those that override settings, and the size of a batch."""

import argparse
from pathlib import Path
from typing import Any, NoReturn

from utils.config import category_names
from utils.errors import UserError
from utils.files import read_value

FLAGS = {
    "--model": ("model", "NAME", "detector, such as patchcore"),
    "--category": ("data.category", "NAME", "folder of --data-root; several by commas, or all"),
    "--data-root": ("data.root", "DIR", "folder that holds the categories"),
    "--size": ("data.size", "N", "side of the square that images are resized to, in pixels"),
    "--epochs": ("train.epochs", "N", "passes over train/good"),
    "--batch": ("train.batch", "N", "images per optimiser step"),
    "--lr": ("train.lr", "X", "learning rate"),
    "--seed": ("seed", "N", "seed of everything random"),
    "--device": ("device", "NAME", "auto, cuda, cuda:1 and so on, mps or cpu"),
}
"""Flags that override a setting: flag -> (dotted key, placeholder, help)."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; see python {self.prog} --help")


def script_parser(about: str | None) -> argparse.ArgumentParser:
    """Return a parser whose --help shows the docstring of its script, and whose errors are lines.

    Flags are not abbreviated: a flag to come could make another one of today's abbreviations.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    return _Parser(description=about, formatter_class=formatter, allow_abbrev=False)


def not_empty(text: str) -> str:
    """Return what a flag names; an unset variable of a shell must not mean this folder."""
    if not text:
        raise argparse.ArgumentTypeError("is empty, but should name a file or folder")
    return text


def file_or_folder(text: str) -> Path:
    """Return the path that a flag names, see `not_empty`."""
    return Path(not_empty(text))


def add_setting_flags(parser: argparse.ArgumentParser, flags: list[str] | None = None) -> None:
    """Add the named flags, of those of `FLAGS` and `--set KEY=VALUE`; by default all of them."""
    for flag in [*FLAGS, "--set"] if flags is None else flags:
        if flag == "--set":
            about = "any setting of config.yaml by its dotted name, such as train.lr=3e-4"
            several = {"action": "append", "default": [], "type": assignment}
            parser.add_argument(flag, **several, metavar="KEY=VALUE", help=about)
            continue
        key, placeholder, text = FLAGS[flag]
        kind = category_names if flag == "--category" else str
        parser.add_argument(flag, dest=key, type=kind, metavar=placeholder, help=f"{text} ({key})")


def overrides_from(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the settings that the flags of `add_setting_flags` give, by dotted key."""
    given = vars(arguments)
    named = {key: given[key] for key, *_ in FLAGS.values() if given.get(key) is not None}
    return named | dict(given.get("set", []))


def assignment(text: str, flag: str = "--set") -> tuple[str, Any]:
    """Split the text KEY=VALUE into dotted key and value; raises `UserError` for another form."""
    key, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{flag} {text}: write it as KEY=VALUE, such as train.lr=3e-4")
    if not value.strip():  # YAML takes that for null, which a shell's unset variable must not mean
        raise UserError(f"{flag} {text} has no value; write {key.strip()}=null for none")
    return key.strip(), read_value(value, f"{flag} {text}")


def add_batch_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--batch`, for scripts that inspect images: a number, or "auto", the default."""
    about = (
        "images that go through the detector at once; auto (default): 1 on a CPU, on a GPU what "
        "fits its memory"
    )
    parser.add_argument("--batch", type=_batch, default="auto", metavar="N", help=about)


def _batch(text: str) -> int | str:
    if text != "auto" and (not text.isdecimal() or int(text) < 1):
        raise UserError(f"--batch is {text!r} but should be auto or a whole number from 1")
    return text if text == "auto" else int(text)
