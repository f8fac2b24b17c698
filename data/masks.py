"""Ground-truth masks: finding that of an image, and reading it."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from data.images import DEFAULTS, ImageError, opened
from data.listing import list_images
from utils.config import DataConfig

MAX_LABEL = 15  # a mask whose highest whole number is no higher holds labels of defects
MAX_LABELS = 32  # kinds of defects in one mask at most; soft masks have more values


def find_masks(images: Sequence[Path], kind: Path, masks: Path) -> list[Path | None]:
    """Return the mask of each image, or None: named <stem>_mask or <stem>, in the same subfolder.

    Instead of in the subfolder it may lie flat, if only one image has that stem. A folder <stem> of
    several masks (MVTec LOCO) stands for their union.

    Args:
        images: files in `kind` and below.
        kind: test/<kind>.
        masks: ground_truth/<kind>.
    """
    files: dict[tuple[Path, str], Path] = {}
    folders = set()
    for mask in list_images(masks):
        files.setdefault((mask.parent.relative_to(masks), mask.stem), mask)
        folders.add(mask.parent)
    stems = Counter(image.stem for image in images)

    def find(image: Path) -> Path | None:
        places = [image.parent.relative_to(kind)]
        places += [Path()] if stems[image.stem] == 1 else []
        for place in places:
            for name in (f"{image.stem}_mask", image.stem):
                if (place, name) in files:
                    return files[place, name]
            if masks / place / image.stem in folders:
                return masks / place / image.stem
        return None

    return [find(image) for image in images]


def read_mask(path: Path, size: tuple[int, int], data: DataConfig = DEFAULTS) -> np.ndarray:
    """Read a ground-truth mask: bool [H, W], True on the defect; see `read_marked`.

    Args:
        path: the file, or a folder of several, whose union is the mask.
        size: (height, width) of its image.
        data: settings; `max_megapixels` is read.

    Raises:
        ImageError: if it cannot be read, is not of the size of its image, or marks nothing or
            everything.
    """
    mask = np.zeros(size, bool)
    for file in list_images(path) if path.is_dir() else [path]:
        marked = read_marked(file, data)
        if marked.shape != size:
            raise ImageError(
                f"mask {file} is {marked.shape[1]}x{marked.shape[0]} but its image is "
                f"{size[1]}x{size[0]}"
            )
        mask |= marked
    if not mask.any():
        raise ImageError(f"mask {path} is empty, but its image is one of a defect")
    if mask.all():
        raise ImageError(f"mask {path} has no background, which is 0; it marks the whole image")
    return mask


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
