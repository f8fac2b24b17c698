"""Files that appear whole or not at all, and never in the place of those of an earlier start."""

import itertools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file beside `path` for writing; on success it takes the place of `path`."""
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, text: str) -> None:
    """Write a text file; a kill on the way leaves the old one."""
    with replacing(path) as file:
        file.write(text.encode())


def new_file(path: Path) -> Path:
    """Create an empty file, and the folders above it; raises `OSError` where that cannot be.

    Returns:
        `path`, or where that exists `name-2.suffix` beside it, or -3, and so on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        fresh = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
        try:
            fresh.touch(exist_ok=False)
        except FileExistsError:
            continue
        return fresh
    raise AssertionError  # count() has no end


def printable(name: str) -> str:
    """A file's name as text: bytes in it that are not UTF-8 are spelt out."""
    return name.encode("utf-8", "backslashreplace").decode()
