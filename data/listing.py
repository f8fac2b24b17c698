"""Finding image files: in a folder and all below it, and by patterns."""

import glob
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from utils.errors import UserError, say_once

SUFFIXES = {
    ".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp", ".gif", ".jp2",
    ".pgm", ".ppm", ".pnm"
}  # fmt: skip
VIDEO_SUFFIXES = {
    ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"
}  # fmt: skip
FORMATS = "png, jpg, bmp, tif, webp, gif, jp2, pgm or ppm"  # for messages: one suffix a format

# Images of formats that are not read: their owner believes that they are.
UNREAD = {
    ".heic", ".heif", ".avif", ".jxl", ".dng", ".raw", ".cr2", ".cr3", ".nef", ".arw", ".orf",
    ".rw2", ".exr", ".hdr", ".dcm", ".svg", ".j2k", ".jpx", ".tga", ".pcx", ".psd"
}  # fmt: skip

# Folders and files of archives, operating systems and file servers, in lower case. Some hold
# thumbnails or deleted copies of the images beside them, which would be learned and counted again.
CLUTTER = {
    "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "lost+found",
    "$recycle.bin", "recycler", "recycled", "system volume information",  # Windows
    "@eadir", "#recycle", "#snapshot", "@tmp",  # Synology
    "@recycle", "@recently-snapshot", "@thumb", "@upload_cache",  # QNAP
    "~snapshot", "network trash folder", "temporary items",  # NetApp, Apple
    "trashbox", "dfsrprivate"  # Buffalo, replication between servers of Windows
}  # fmt: skip


def is_clutter(name: str) -> bool:
    """Return whether the name of a file or folder is hidden or one of `CLUTTER`, in any case."""
    return name.startswith(".") or name.lower() in CLUTTER


def is_image(path: Path) -> bool:
    """Return whether the file's name is that of an image, and not clutter."""
    return path.suffix.lower() in SUFFIXES and not is_clutter(path.name)


def is_video(argument: str) -> bool:
    """Return if a file or a pattern is of videos, by its suffix."""
    return Path(argument).suffix.lower() in VIDEO_SUFFIXES and not Path(argument).is_dir()


def subfolders(folder: Path) -> list[Path]:
    """Return the folders directly in a folder, by name and without clutter."""
    return sorted(path for path in folder.glob("*") if path.is_dir() and not is_clutter(path.name))


def list_images(folder: Path) -> list[Path]:
    """Return the image files in a folder and all below it, by name; none if there is no folder.

    Files of other kinds are named in a line on stderr: one may have meant them.

    Raises:
        UserError: if a folder below it may not be read.
    """
    found, others = [], Counter()
    for path in _walk(folder):
        if not path.is_file():  # a pipe would block for ever, a dangling link is no file
            others["no regular file"] += 1
        elif is_image(path):
            found.append(path)
        else:
            others[path.suffix.lower() or "without a suffix"] += 1
    if others:
        # Unread images first, so that many other kinds do not crowd them out of the line.
        kinds = sorted(others.items(), key=lambda kind: (kind[0] not in UNREAD, -kind[1], kind[0]))
        named = ", ".join(f"{count} {kind}" for kind, count in kinds[:5])
        rest = sum(count for _, count in kinds[5:])
        more = f", {rest} of other kinds" if rest else ""
        say_once(f"passed over in {folder}: {named}{more}; images are read as {FORMATS}")
    return sorted(found)


def expand(arguments: Iterable[str]) -> list[Path]:
    """Return the image files of files, folders (with all below them) and patterns, each once.

    An argument without any image, such as a path that does not exist or a pattern that nothing
    matches, is kept as it is, so that whoever reads it reports it.

    Raises:
        UserError: if an argument is empty, as a script's unset variable is, or is the address of a
            stream.
    """
    found: list[Path] = []
    for argument in arguments:
        if not argument:
            raise UserError("the name of an image or folder is empty; this folder is named '.'")
        path = Path(argument)
        if "://" in argument and not path.exists():
            raise UserError(f"{argument} is no file; python stream.py --camera takes it")
        matches: list[Path] = []
        if path.is_dir():
            matches = list_images(path)
        elif not path.exists() and glob.has_magic(argument):
            for match in matching(argument):
                if match.is_dir():
                    matches += list_images(match)
                elif is_image(match) and match.is_file():
                    matches.append(match)
        found += matches or [path]
    return list(dict.fromkeys(found))


def matching(pattern: str) -> list[Path]:
    """Return the files and folders that a pattern matches, by name; clutter only if it is named."""
    named = Path(pattern).parts
    found = [Path(name) for name in glob.glob(pattern, recursive=True)]  # noqa: PTH207  (absolute)
    return sorted(
        path
        for path in found
        if not any(is_clutter(part) for part in path.parts if part not in named)
    )


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and below, without clutter; links to folders are followed."""
    seen: set[Path] = set()  # a link may lead back up

    def refuse(error: OSError) -> None:
        if isinstance(error, PermissionError):
            raise UserError(f"cannot read the folder {error.filename}: {error.strerror}")

    for where, folders, names in os.walk(folder, onerror=refuse, followlinks=True):
        real = Path(where).resolve()
        folders[:] = [] if real in seen else [name for name in folders if not is_clutter(name)]
        if real not in seen:
            yield from (Path(where, name) for name in names if not is_clutter(name))
        seen.add(real)
