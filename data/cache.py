"""The training images, decoded once and kept at training size."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.images import ImageError, read_ahead, read_resized
from utils.config import DataConfig
from utils.errors import UserError

MEMORY_GIB = 4.0
"""Up to this size decoded images are kept in memory."""


def decode_all(
    paths: Sequence[Path], data: DataConfig, quiet: bool = False, memory_gib: float = MEMORY_GIB
) -> tuple[np.ndarray, list[Path]]:
    """Decode images and resize them, once for all that is done with them.

    Unreadable files are reported on stderr and left out.

    Args:
        paths: image files.
        data: how to read them, and the size of the result.
        quiet: no progress bar and no reports.
        memory_gib: up to this size the images are kept in memory, beyond it in a temporary file
            that the operating system deletes with the process.

    Returns:
        uint8 [N, h, w, 3] of `data.size`, in the order of `paths`.

    Raises:
        UserError: if not a single file can be read, or the disk cannot hold them.
    """
    shape = (len(paths), *data.size, 3)
    needed = int(np.prod(shape, dtype=np.int64))
    images: np.ndarray
    if needed <= memory_gib * 2**30:
        images = np.empty(shape, np.uint8)
    else:
        try:
            file = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the array)
            if hasattr(os, "posix_fallocate"):  # a full disk is told now, not by a crash later
                os.posix_fallocate(file.fileno(), 0, needed)
            images = np.memmap(file, np.uint8, "w+", shape=shape)
        except OSError as error:
            raise UserError(
                f"{needed / 2**30:.1f} GiB of decoded images do not fit the temporary "
                f"folder {tempfile.gettempdir()} ({error.strerror}); lower --size, or set TMPDIR"
            ) from None
    failure, readable = "", []
    reader = read_ahead(paths, lambda path: read_resized(path, data))
    for path, image in tqdm(reader, "decoding", len(paths), unit="image", disable=quiet or None):
        if isinstance(image, ImageError):
            if not quiet:
                print(f"left out: {image}", file=sys.stderr)
            failure = str(image)
            continue
        images[len(readable)] = image
        readable.append(path)
    if not readable:
        raise UserError(
            f"none of the {len(paths)} images in {paths[0].parent} can be read; the last: {failure}"
        )
    return images[: len(readable)], readable
