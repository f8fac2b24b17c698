"""Which images show one part: those whose names share what `calibration.group` matches."""

import os
import re
from pathlib import PurePath


def part_name(path: str | PurePath, category: str, pattern: str | None) -> str:
    """Return the name of the part that an image shows; the images of one part share it.

    Args:
        path: the image's file.
        category: that of the image.
        pattern: a regular expression, searched for in what `below_split` returns. None: each image
            shows a part of its own.

    Returns:
        The folder, and behind a slash the match or, of an expression with (groups), their values:
        equal numbers in two folders are two parts. The path itself if nothing is matched.
    """
    folder, below = below_split(path, category)
    match = re.search(pattern, below) if pattern else None
    if match is None or not match[0]:
        return PurePath(path).as_posix()
    found = "/".join(value or "" for value in match.groups()) or match[0]
    return f"{folder}/{found}" if folder else found


def below_split(path: str | PurePath, category: str) -> tuple[str, str]:
    """Return the folder of the split that an image is of, and its path below, with slashes.

    That is train/good or test/<kind> of the category; any other file has its own folder and name.
    """
    name = PurePath(path).as_posix()
    # Of the whole path: a relative one may start below the category, or below test.
    whole = PurePath(os.path.abspath(path)).as_posix()  # noqa: PTH100  (links)
    split = rf"(.*/{re.escape(category)}/(?:train/good|test/[^/]+))/(.+)"
    if found := re.fullmatch(split, whole, re.IGNORECASE | re.DOTALL):  # Good, as data.mvtec allows
        folder, below = found.groups()
        is_relative = not PurePath(path).is_absolute()
        return PurePath(os.path.relpath(folder)).as_posix() if is_relative else folder, below
    folder, _, below = name.rpartition("/")
    return folder, below
