"""Files of a start that never take the place of those of an earlier one."""

import itertools
from pathlib import Path


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
