"""The region of interest (`data.region`): what of an image is learned, scored and ringed.

Such an image is read as uint8 [H, W, 4]. Its alpha is 0 outside of the region and 255 in it; what
lies outside is black, and has no weight in resizing. A detector sees `OUTSIDE` there.
"""

import base64
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from data.images import ImageError, read_image, upright_size
from data.masks import read_marked
from utils.config import Config, DataConfig, changed
from utils.errors import UserError

OUTSIDE = 114.5 / 255
"""The grey, as bright as the mean of ImageNet, that a detector sees outside of the region: between
two values of 8 bits, so that no pixel of a photograph has it."""

LEAST = 0.01
"""Share of the image that a region has to cover: one that is forgotten to be filled covers less."""

HELD = "data:image/png;base64,"
"""How `data.region` begins in the settings of a run, which hold the mask itself."""


def read_with_region(path: Path, data: DataConfig) -> np.ndarray:
    """Read an image, as `read_image` does, and what of it counts; see `with_region`."""
    return with_region(read_image(path, data), data, path)


def with_region(image: np.ndarray, data: DataConfig, path: Path | None = None) -> np.ndarray:
    """An image with its region.

    Args:
        image: uint8 [H, W, 3]; one that has its region already stays as it is.
        data: settings of a run, as `keep_region` leaves them.
        path: file of the image, by which a folder of masks has its own.

    Returns:
        uint8 [H, W, 4] as the head of this file says, or the image where no region is set.

    Raises:
        ImageError: if there is no mask for it, or one that is damaged, too small or of another
            ratio.
        UserError: if it is no file, and the masks are one a file.
    """
    if data.region is None or image.shape[2] == 4:
        return image
    if data.region.startswith(HELD):
        mask = _held(data.region, image.shape[:2])
    elif path is None:
        raise UserError(
            f"data.region is {data.region}, a folder with a mask for each file, which frames of a "
            "video or a camera are not; train with one mask for all"
        )
    else:
        mask = _fitted(_read(_mask_of(path, Path(data.region)), data), image.shape[:2])
    return np.dstack([image * mask[..., None], mask * np.uint8(255)])


def valid_pixels(pixels: np.ndarray) -> np.ndarray:
    """What counts of pixels uint8 [..., 3], all of them, or [..., 4]: bool [...]."""
    if pixels.shape[-1] == 4:
        return pixels[..., 3] > 127
    return np.ones(pixels.shape[:-1], bool)


def keep_region(config: Config, paths: Sequence[Path]) -> Config:
    """The settings with the mask itself in place of its file, as it is kept with a run.

    The name of a folder of masks stays. Raises `UserError` if the mask cannot be read, covers too
    little, or is not of the first image's ratio.
    """
    region = config.data.region
    if region is None or region.startswith(HELD) or Path(region).is_dir():
        return config
    mask = _read(Path(region), config.data)
    with suppress(OSError):  # a damaged image is told of by whoever decodes it
        _fitted(mask, upright_size(paths[0]))
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG", optimize=True)
    held = HELD + base64.b64encode(stream.getvalue()).decode()
    return changed(config, {"data.region": held})


@lru_cache(maxsize=4)
def _held(region: str, size: tuple[int, int]) -> np.ndarray:
    """The mask that the settings of a run hold, bool [H, W], for images of this (height, width)."""
    with Image.open(io.BytesIO(base64.b64decode(region.removeprefix(HELD)))) as picture:
        return _fitted(np.asarray(picture), size)


def _mask_of(path: Path, folder: Path) -> Path:
    """The mask of an image: <stem>_mask.png or <stem>.png, below as many of its folders as can be.

    That of train/good/1.png is train/good/1.png in the folder, else good/1.png, else 1.png.
    """
    parts = Path(os.path.abspath(path)).parts[1:]  # noqa: PTH100  (a link goes by its own name)
    for start in range(len(parts)):
        place = folder.joinpath(*parts[start:])
        for end in ("_mask.png", ".png"):
            if (file := place.with_name(place.stem + end)).is_file():
                return file
    raise ImageError(f"no mask of {path} in data.region, which is {folder}")


def _read(file: Path, data: DataConfig) -> np.ndarray:
    mask = read_marked(file, data)
    if (share := mask.mean()) < LEAST:
        covers = f"covers {100 * share:.2g}% of the image" if share else "is empty"
        raise ImageError(f"the region in {file} {covers}; fill at least {LEAST:.0%} with white")
    return mask


def _fitted(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    (rows, columns), (height, width) = mask.shape, size
    if abs(rows * width - columns * height) > max(rows, columns, height, width):  # by a pixel
        raise ImageError(
            f"the mask of data.region is {columns}x{rows} and the image {width}x{height}, which is "
            "another ratio; draw the mask on such an image"
        )
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))
