"""Ground-truth masks: finding that of an image, and reading it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data.images import DEFAULTS, ImageError, opened
from data.listing import list_images
from utils.config import DataConfig

LABELS = 15
"""Where a mask's highest whole number is no higher, its values number kinds of defects."""


def find_masks(images: Sequence[Path], kind: Path, masks: Path) -> list[Path | None]:
    """The mask of each image: named <stem>_mask or <stem>, in the same subfolder.

    In place of the subfolder it may lie flat, if but one image has that stem.

    Args:
        images: files in `kind` and below.
        kind: test/<kind>.
        masks: ground_truth/<kind>.
    """
    there: dict[tuple[Path, str], Path] = {}
    for mask in list_images(masks):
        there.setdefault((mask.parent.relative_to(masks), mask.stem), mask)
    stems = Counter(image.stem for image in images)

    def find(image: Path) -> Path | None:
        places = [image.parent.relative_to(kind)]
        places += [Path()] if stems[image.stem] == 1 else []
        keys = [(place, image.stem + end) for place in places for end in ("_mask", "")]
        return next((there[key] for key in keys if key in there), None)

    return [find(image) for image in images]


def read_mask(path: Path, size: tuple[int, int], data: DataConfig = DEFAULTS) -> np.ndarray:
    """Read a ground-truth mask: bool [H, W], True where the defect is; see `read_marked`.

    Args:
        path: the file.
        size: (height, width) of its image.
        data: settings; `max_megapixels` is read.

    Raises:
        ImageError: if it cannot be read, is not of the size of its image, or marks nothing.
    """
    mask = read_marked(path, data)
    if mask.shape != size:
        raise ImageError(
            f"mask {path} is {mask.shape[1]}x{mask.shape[0]} but its image is {size[1]}x{size[0]}"
        )
    if not mask.any():
        raise ImageError(f"mask {path} is empty, but its image is one of a defect")
    return mask


def read_marked(path: Path, data: DataConfig = DEFAULTS) -> np.ndarray:
    """What a mask marks: bool [H, W] of its own size; raises `ImageError`.

    That is above half of the mask's highest value, be it 0 and 1, 0 and 255, or soft; in a mask
    of small whole numbers, which are kinds of defects, it is above 0.
    """
    with opened(path, data) as image:
        ImageOps.exif_transpose(image, in_place=True)
        values = _values(image)
    highest = values.max()
    are_labels = np.issubdtype(values.dtype, np.integer) and highest <= LABELS
    return values > (0 if are_labels else highest / 2)


def _values(image: Image.Image) -> np.ndarray:
    """What a mask says at each pixel [H, W]; its alpha channel alone if its colour is all one."""
    if image.mode.startswith(("I", "F")):
        return np.asarray(image)
    if not image.has_transparency_data:
        return np.asarray(image.convert("RGB")).max(axis=2)
    pixels = np.asarray(image.convert("RGBA"))
    colours, alpha = pixels[..., :3], pixels[..., 3]
    if (colours == colours[0, 0]).all() and alpha.min() < alpha.max():
        return alpha
    return (colours.max(axis=2).astype(np.uint16) * alpha // 255).astype(np.uint8)
