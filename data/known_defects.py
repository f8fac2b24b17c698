"""Known defects (`data.defects`): a few defective parts that a detector learns from.

<data.defects>/test/<kind>/*.png            laid out as a category, with masks in ground_truth
<data.defects>/*.png                        without masks
<data.defects>/<category>/...               either of them for each category, of several
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.images import ImageError, pixel_digest
from data.listing import is_image, subfolders
from data.mvtec import TestImage, images_of_kind, means_good
from data.tiles import Grid
from utils.config import DataConfig
from utils.errors import UserError


class KnownDefect(NamedTuple):
    """An image of a defective part at the size of the detector.

    Attributes:
        path: its file.
        tiles: uint8 [T, h, w, C], the whole image or those of its tiles that the mask marks; all
            of them without a mask. C is 3, or 4 with a region of interest.
        masks: uint8 [T, h, w], the share of each pixel that is defective, 255 being the whole; None
            without a mask.
        digest: `pixel_digest` of the image, by which it is known again.
    """

    path: Path
    tiles: np.ndarray
    masks: np.ndarray | None
    digest: str


def load_known_defects(
    data: DataConfig, categories: Sequence[str], good: Collection[str]
) -> list[KnownDefect]:
    """Read the images of `data.defects`; none if it is not set.

    Args:
        data: settings of a run, as `load_images` leaves them.
        categories: that the run learns.
        good: digests of its good images.

    Raises:
        UserError: if the folder is missing or holds no defects of these categories, if an image or
            a mask cannot be read, marks nothing that is inspected, or is also a good image.
    """
    if data.defects is None:
        return []
    root = Path(data.defects)
    if not root.is_dir():
        needed = "name or restore it: a run needs it until it is finished, and for --add"
        raise UserError(f"data.defects is {root}, which is no folder; {needed}")
    folders = [root / name for name in categories if (root / name).is_dir()]
    if not folders and len(categories) > 1:
        names = ", ".join(categories)
        raise UserError(f"{root} of data.defects needs a subfolder for one category of: {names}")
    tests = [test for folder in folders or [root] for test in _listed(folder, data)]
    defects = [known_defect(test, data) for test in tests]
    for path in (one.path for one in defects if one.digest in good):
        raise UserError(f"{path} of data.defects is also a good image of the run; remove one")
    return defects


def _listed(folder: Path, data: DataConfig) -> list[TestImage]:
    """Return the images of one category; raises `UserError` if there are none, or others."""
    kinds, masks = subfolders(folder / "test"), folder / "ground_truth"
    for kind in (kind for kind in kinds if means_good(kind.name)):
        raise UserError(f"{kind} holds good parts; name a folder of defective ones by data.defects")
    direct = [path for path in sorted(folder.glob("*")) if is_image(path)]
    found = [test for kind in kinds for test in images_of_kind(kind, masks, data)]
    found += [TestImage(path, "defect", None, data) for path in direct]
    if not found or any(path.stem.endswith("_mask") for path in direct):
        raise UserError(
            f"data.defects finds {'masks among the' if found else 'no'} images in {folder}; put "
            f"them into {folder / 'test'}/<kind>, masks into {masks}/<kind>"
        )
    return found


def known_defect(test: TestImage, data: DataConfig) -> KnownDefect:
    """Read a defect, of which a mask may be missing, at the size of the detector.

    Raises:
        UserError: if image or mask cannot be read, or the mask marks nothing that is inspected.
    """
    image, mask = test.read()
    grid = Grid.over(image.shape[:2], data)
    tiles, digest = grid.cut(image, data), pixel_digest(image)
    if isinstance(mask, ImageError) and test.mask is not None:
        raise mask
    if not isinstance(mask, np.ndarray):
        return KnownDefect(test.path, tiles, None, digest)
    # Resized as the image is: a pixel that the defect covers in part is marked in part.
    shares = grid.cut(np.repeat(np.uint8(255) * mask[..., None], 3, axis=2), data)[..., 0]
    shares = shares * grid.valid_pixels(tiles)
    shown = shares.any(axis=(1, 2))
    if not shown.any():
        reason = f"data.region or data.resize={data.resize} leaves its mask out"
        raise UserError(f"{test.path} of data.defects teaches nothing: {reason}; remove it")
    return KnownDefect(test.path, tiles[shown], shares[shown], digest)
