"""Which files are images: those of a folder, however deep, and those that patterns mean."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils.errors import UserError, masked, say_once

SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2",
    ".pgm", ".ppm", ".pnm"
}  # fmt: skip
FORMATS = "png, jpg, bmp, tif, webp, gif, jp2, pgm or ppm"
"""The suffixes, to tell a user; of those that mean the same, one."""

CLUTTER = {"__macosx", "thumbs.db", "desktop.ini"}
"""What archives and file managers leave behind, besides hidden files."""


def is_image(path: Path) -> bool:
    """Whether the file's name says image; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not _is_clutter(path.name)


def subfolders(folder: Path) -> list[Path]:
    """Folders directly in a folder, by name; hidden ones are none, nor is what archives add."""
    return sorted(path for path in folder.glob("*") if path.is_dir() and not _is_clutter(path.name))


def list_images(folder: Path) -> list[Path]:
    """Image files in a folder and all below it, by name; none where there is no such folder.

    Files that are no images are told on stderr, in a line: one may have meant them.

    Raises:
        UserError: if a folder below it may not be read.
    """
    found, others = [], Counter()
    for path in _walk(folder):
        if not path.is_file():  # a pipe would wait for ever, a dangling link is no file
            others["no regular file"] += 1
        elif is_image(path):
            found.append(path)
        else:
            others[path.suffix.lower() or "without a suffix"] += 1
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common(5))
        say_once(f"passed over in {folder}: {kinds}; images are read as {FORMATS}")
    return sorted(found)


def expand(arguments: Iterable[str]) -> list[Path]:
    """Image files meant by files, folders (with all below them) and glob patterns, each once.

    What gives no image, such as a path that does not exist or a pattern that nothing matches, is
    kept as it is, so that whoever reads it reports it.

    Raises:
        UserError: if an argument is empty, which a script's unset variable would be, or is the
            address of a stream.
    """
    found: list[Path] = []
    for argument in arguments:
        if not argument:
            raise UserError("the name of an image or folder is empty; this folder is named '.'")
        path = Path(argument)
        if "://" in argument and not path.exists():
            raise UserError(f"{masked(argument)} is no file; python stream.py --camera takes it")
        matches: list[Path] = []
        if path.is_dir():
            matches = list_images(path)
        elif not path.exists() and glob.has_magic(argument):
            for name in sorted(glob.glob(argument, recursive=True)):  # noqa: PTH207  (may be absolute)
                matches += _meant(Path(name))
        found += matches or [path]
    return list(dict.fromkeys(found))


def _meant(path: Path) -> list[Path]:
    """The images that a path stands for which matches a pattern."""
    if path.is_dir():
        return [] if _is_clutter(path.name) else list_images(path)
    return [path] if is_image(path) and path.is_file() else []


def _is_clutter(name: str) -> bool:
    return name.startswith(".") or name.lower() in CLUTTER


def _walk(folder: Path) -> Iterator[Path]:
    """All but folders in a folder and below, without clutter; links to folders are followed."""
    seen: set[Path] = set()  # a link may lead back up

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise UserError(f"cannot read the folder {error.filename}: {error.strerror}")

    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = Path(where).resolve()
        folders[:] = [] if real in seen else [name for name in folders if not _is_clutter(name)]
        if real not in seen:
            yield from (Path(where, name) for name in names if not _is_clutter(name))
        seen.add(real)
