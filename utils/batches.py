"""Taking things in batches, and the flag that says how many images are inspected at once."""

import argparse
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

from utils.errors import UserError

Item = TypeVar("Item")


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in order, `size` at a time; the last ones may be fewer."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def add_batch_flag(parser: argparse.ArgumentParser) -> None:
    """Add `--batch`, for scripts that inspect images: a number, or "auto", the default."""
    parser.add_argument(
        "--batch",
        type=_batch,
        default="auto",
        metavar="N",
        help="images that go through the detector at once; auto (default): 1 on a CPU, on a GPU "
        "what fits its memory",
    )


def _batch(text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--batch is {text!r} but should be auto or a whole number from 1")
    return int(text)
