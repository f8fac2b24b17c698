"""The region of interest (`data.region`): pixels of an image that are learned, scored and ringed.

Its mask is read as those of defects are, by `read_marked`. An image with a region is read as uint8
[H, W, 4]. Its alpha is 255 inside of the region and 0 outside, where colours are black and have no
weight in resizing. A detector gets `OUTSIDE` there.
"""

import base64
import io
import os
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data.images import DEFAULTS, ImageError, opened, read_image, upright_size
from utils.config import Config, DataConfig, changed
from utils.errors import UserError

# Grey as bright as the mean of ImageNet, between two values of 8 bits: no photograph has it, so
# that a detector can tell the region from its input alone.
OUTSIDE = 114.5 / 255

MIN_SHARE = 0.01  # of the image that a region covers: an outline that is not filled covers less

KEPT = "data:image/png;base64,"  # how data.region begins in a run, which keeps the mask itself

MAX_LABEL = 15  # a mask whose highest whole number is no higher holds labels of defects
MAX_LABELS = 32  # kinds of defects in one mask at most; soft masks have more values


def read_with_region(path: Path, data: DataConfig) -> np.ndarray:
    """Read an image, as `read_image` does, with its region; see `with_region`."""
    return with_region(read_image(path, data), data, path)


def with_region(image: np.ndarray, data: DataConfig, path: Path | None = None) -> np.ndarray:
    """Return an image with its region.

    Args:
        image: uint8 [H, W, 3]; one that has its region already stays as it is.
        data: settings of a run, as `keep_region` leaves them.
        path: file of the image, by which its own mask is found in a folder of masks.

    Returns:
        uint8 [H, W, 4] as the head of this file says, or the image where no region is set.

    Raises:
        ImageError: if its mask is missing, damaged, too small or of another ratio.
        UserError: if masks lie in a folder, one for each file, and the image is no file.
    """
    if data.region is None or image.shape[2] == 4:
        return image
    if data.region.startswith(KEPT):
        try:
            mask = _kept(data.region, image.shape[:2])
        except ImageError as error:
            raise ImageError(f"{path}: {error}" if path else str(error)) from None
    elif path is None:
        raise UserError(
            f"data.region is {data.region}, a folder with a mask for each file, which frames of a "
            "video or a camera are not; train with one mask for all"
        )
    else:
        mask = _resized(_read(_mask_of(path, Path(data.region)), data), image.shape[:2])
    return np.dstack([image * mask[..., None], mask * np.uint8(255)])


def valid_pixels(pixels: np.ndarray) -> np.ndarray:
    """Return the valid mask, bool [...], of pixels uint8 [..., 3], all of them, or [..., 4]."""
    if pixels.shape[-1] == 4:
        return pixels[..., 3] > 127
    return np.ones(pixels.shape[:-1], bool)


def keep_region(config: Config, paths: Sequence[Path]) -> Config:
    """Return the settings with the mask itself in place of its file, as a run keeps them.

    The name of a folder of masks stays.

    Raises:
        UserError: if the mask cannot be read, is too small, or not of the first image's ratio.
    """
    region = config.data.region
    if region is None or region.startswith(KEPT) or Path(region).is_dir():
        return config
    mask = _read(Path(region), config.data)
    with suppress(OSError):  # a damaged image is reported by whoever decodes it
        _resized(mask, upright_size(paths[0]))
    stream = io.BytesIO()
    Image.fromarray(mask).save(stream, "PNG", optimize=True)
    kept = KEPT + base64.b64encode(stream.getvalue()).decode()
    return changed(config, {"data.region": kept})


@lru_cache(maxsize=4)
def _kept(region: str, size: tuple[int, int]) -> np.ndarray:
    """Return the mask in the settings of a run, bool [H, W], for images of this (height, width)."""
    with Image.open(io.BytesIO(base64.b64decode(region.removeprefix(KEPT)))) as picture:
        return _resized(np.asarray(picture), size)


def _mask_of(path: Path, folder: Path) -> Path:
    """Return the mask of an image, <stem>_mask.png or <stem>.png, in the most alike subfolder.

    For train/good/1.png that is train/good/1.png in the folder, else good/1.png, else 1.png.
    """
    parts = Path(os.path.abspath(path)).parts[1:]  # noqa: PTH100  (a link goes by its own name)
    for start in range(len(parts)):
        same = folder.joinpath(*parts[start:])
        for end in ("_mask.png", ".png"):
            if (file := same.with_name(same.stem + end)).is_file():
                return file
    raise ImageError(f"no mask of {path} in data.region, which is {folder}")


def _read(file: Path, data: DataConfig) -> np.ndarray:
    mask = read_marked(file, data)
    if (share := mask.mean()) < MIN_SHARE:
        covers = f"covers {100 * share:.2g}% of the image" if share else "is empty"
        raise ImageError(f"the region in {file} {covers}; fill at least {MIN_SHARE:.0%} with white")
    return mask


def _resized(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    (rows, columns), (height, width) = mask.shape, size
    if abs(rows * width - columns * height) > max(rows, columns, height, width):  # by a pixel
        raise ImageError(
            f"the mask of data.region is {columns}x{rows} and the image {width}x{height}, which is "
            "another ratio; draw the mask on such an image"
        )
    return np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST))


def read_marked(path: Path, data: DataConfig = DEFAULTS) -> np.ndarray:
    """Read what a mask marks: bool [H, W] of its own size.

    A mask has two values, of which the higher marks; or it is soft, and marks what lies above half
    of its highest value; or it holds labels, such as a palette's, and marks all but label 0.

    Raises:
        ImageError: if the file cannot be read, or it leaves open what the background is.
    """
    with opened(path, data) as image:
        lossy = image.format in ("JPEG", "MPO")
        ImageOps.exif_transpose(image, in_place=True)
        values = _values(image)
    highest = values.max()
    if not lossy and np.issubdtype(values.dtype, np.integer) and _are_labels(values):
        return values > 0
    return values > highest / 2


def _are_labels(values: np.ndarray) -> bool:
    """Return whether whole numbers [H, W] are labels of defects, and not shades of a soft edge."""
    if values.max() <= MAX_LABEL:
        return True
    present = np.unique(values)
    if not 2 < len(present) <= MAX_LABELS:
        return False
    # A soft edge climbs: its shades have both lower and higher neighbours. Labels are plateaus.
    between = (values > 0) & (values < values.max())
    from scipy import ndimage  # late: a verdict needs no mask

    lower, higher = ndimage.minimum_filter(values, 3), ndimage.maximum_filter(values, 3)
    on_edge = (lower < values) & (values < higher)
    return bool(on_edge[between].mean() < 0.5)


def _values(image: Image.Image) -> np.ndarray:
    """Return the values of a mask [H, W]: labels, brightness, or alpha where all is of one colour.

    Raises:
        ImageError: if its palette leaves open what the background is.
    """
    if image.mode.startswith(("I", "F")):
        return np.asarray(image)
    if image.has_transparency_data:
        pixels = np.asarray(image.convert("RGBA"))
        colours, alpha = pixels[..., :3], pixels[..., 3]
        if (colours == colours[0, 0]).all() and alpha.min() < alpha.max():
            return alpha
        return (colours.max(axis=2).astype(np.uint16) * alpha // 255).astype(np.uint8)
    brightness = np.asarray(image.convert("RGB")).max(axis=2)
    if image.mode != "P":
        return brightness
    # Of a palette the indices count, for its colours are arbitrary: 0 may well be white. But tools
    # that shrink files give any grey mask a palette, in any order.
    labels = np.asarray(image)
    black = labels[brightness == 0]
    if black.size and black.any():
        raise ImageError(
            f"its palette draws label {black.max()} black, but label 0 is the background; save it "
            "as greyscale with a black background"
        )
    is_grey = np.ptp(np.asarray(image.convert("RGB")), axis=2).max() == 0
    return brightness if black.size and is_grey else (labels > 0).astype(np.uint8)
