"""Taking things in batches."""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")


def batches(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items in order, `size` at a time; the last ones may be fewer."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch
