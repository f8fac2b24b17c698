"""A category of parts in the layout of MVTec AD (Bergmann et al., CVPR 2019).

<root>/<category>/train/good/*.png
<root>/<category>/test/good/*.png
<root>/<category>/test/<defect>/*.png
<root>/<category>/ground_truth/<defect>/<stem>_mask.png      (or <stem>.png)

Below each of these folders there may be others, such as one a camera.
"""

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.images import DEFAULTS, ImageError
from data.listing import FORMATS, is_image, list_images, subfolders
from data.region import read_marked, read_with_region
from utils.config import ALL, DataConfig, nearest
from utils.errors import UserError, say_once

# Names that others give to the folder of good parts, as `_plain` returns them.
SYNONYMS = {
    "good", "ok", "okay", "gut", "fine", "normal", "nominal", "negative", "pass", "passed",
    "clean", "io", "nodefect", "nodefects", "defectfree", "nondefect", "nondefective", "undamaged",
    "intact"
}  # fmt: skip


@dataclass(frozen=True)
class TestImage:
    """One image of the test split.

    Attributes:
        path: the file.
        defect: name of its folder; "good" for good parts.
        mask: the ground-truth file, or folder of several; None for good parts and if it is missing.
        data: how to read both.
    """

    __test__ = False  # not a test case, whatever its name says to pytest

    path: Path
    defect: str
    mask: Path | None
    data: DataConfig = DEFAULTS

    def __fspath__(self) -> str:
        """Return the file, for `read_ahead`."""
        return str(self.path)

    @property
    def is_defect(self) -> bool:
        """True if the part is defective."""
        return self.defect != "good"

    def read(self) -> tuple[np.ndarray, np.ndarray | ImageError | None]:
        """Read the image, see `read_with_region`, and its mask, bool [H, W].

        Instead of the mask: None for good parts, an error where it is missing or refused.

        Raises:
            ImageError: if the image cannot be read.
        """
        image = read_with_region(self.path, self.data)
        if not self.is_defect:
            return image, None
        if self.mask is None:
            return image, ImageError(f"no mask for {self.path}")
        try:
            return image, read_mask(self.mask, image.shape[:2], self.data)
        except ImageError as error:
            return image, error


class Category:
    """The files of one category.

    Args:
        root: folder that holds the categories.
        name: folder of the category.
        data: how to read the images of its test split.

    Raises:
        UserError: if there is no such folder, saying where to get the data or which name was meant.
    """

    def __init__(self, root: str | Path, name: str, data: DataConfig = DEFAULTS) -> None:
        self.folder = Path(root) / name
        self.name = name
        self.data = data
        if not self.folder.is_dir():
            raise UserError(_missing(Path(root), name))

    @classmethod
    def chosen(
        cls, data: DataConfig, root: str | None = None, names: str | None = None
    ) -> list["Category"]:
        """Return the categories of the settings, or those that flags give instead."""
        root, names = root or data.root, names or data.category
        # If there are none, any name leads to the error that says where to get the data.
        found = (list_categories(root) or ["tile"]) if names == ALL else names.split(",")
        return [cls(root, name, data) for name in found]

    def train_images(self) -> list[Path]:
        """Return the files of train/good and below, by name.

        Raises:
            UserError: if there are fewer than two.
        """
        train = self.folder / "train"
        images = [image for folder in _good_folders(train) for image in list_images(folder)]
        if len(images) < 2:
            found = "no images" if not images else "a single image"
            raise UserError(
                f"{found} in {train / 'good'}; training needs good parts there, one of them to "
                f"calibrate on ({FORMATS}){'' if images else _instead(train)}"
            )
        return images

    def test_images(self) -> list[TestImage]:
        """Return the files of the test split, good ones first, then by kind and name.

        Raises:
            UserError: if there are none, or good parts lie in a folder of another name than good.
        """
        test = self.folder / "test"
        good, kinds = _good_folders(test), subfolders(test)
        # Good parts in a folder of another name would be counted as missed defects.
        others = [kind.name for kind in kinds if kind not in good and means_good(kind.name)]
        if kinds and (others or not good):
            way = "rename that of the good parts, or make an empty one if there are none"
            raise UserError(
                f"good parts to measure on belong in {test / 'good'}, but in {test} there are: "
                f"{', '.join(repr(kind.name) for kind in kinds)}; "
                + (f"rename {others[0]!r}, or move its images" if others else way)
            )
        images = []
        for kind in sorted(kinds, key=lambda kind: kind not in good):
            if kind in good:
                paths = list_images(kind)
                images += [TestImage(path, "good", None, self.data) for path in paths]
            else:
                images += images_of_kind(kind, self.folder / "ground_truth", self.data)
        if not images:
            raise UserError(
                f"no images in the folders of {test}; put good parts into test/good and defective "
                f"ones into test/<defect>{_instead(test)}"
            )
        if strays := _images_directly_in(test):
            say_once(f"left out: {strays} images of {test} that lie in none of its folders")
        return images


def images_of_kind(kind: Path, masks: Path, data: DataConfig) -> list[TestImage]:
    """Return the images of a kind of defect, with their masks.

    Args:
        kind: folder of the images, test/<kind>.
        masks: folder of the masks of all kinds, ground_truth.
        data: how to read both.
    """
    paths = list_images(kind)
    found = zip(paths, find_masks(paths, kind, masks / kind.name), strict=True)
    return [TestImage(path, kind.name, mask, data) for path, mask in found]


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


def category_in_path(path: str | Path, parts: Sequence[str]) -> str | None:
    """Return the category of a file, by its nearest folder of that name; a single one is enough."""
    names = Path(os.path.abspath(path)).parts  # noqa: PTH100  (links)
    named = next((name for name in reversed(names) if name in parts), None)
    return parts[0] if named is None and len(parts) == 1 else named


def list_categories(root: str | Path) -> list[str]:
    """Return the names of the categories in a folder: those that have a folder train."""
    return [folder.name for folder in subfolders(Path(root)) if (folder / "train").is_dir()]


def _good_folders(folder: Path) -> list[Path]:
    """Return the subfolders named good, in any case: none, one, or two that differ by it."""
    return [path for path in subfolders(folder) if path.name.lower() == "good"]


def means_good(name: str) -> bool:
    """Return whether a folder's name says that it holds good parts."""
    return _plain(name) in SYNONYMS


def _plain(name: str) -> str:
    """Return a name without case, digits, signs and what does not matter: 0_OK-parts -> ok."""
    words = re.findall(r"[a-z]+", name.lower())
    return "".join(word for word in words if word not in ("part", "parts", "image", "images"))


def _images_directly_in(folder: Path) -> int:
    return sum(is_image(path) and path.is_file() for path in folder.glob("*"))


def _instead(folder: Path) -> str:
    """Return the end of a sentence about a missing folder: what lies in the nearest one above."""
    while not folder.is_dir():
        folder = folder.parent
    names = [path.name for path in subfolders(folder)]
    if images := _images_directly_in(folder):
        names.append(f"{images} images")
    return f"; in {folder} there is: {', '.join(names)}" if names else ""


def _missing(root: Path, name: str) -> str:
    others = list_categories(root)
    if others:
        return (
            f"no category {name} in {root}{nearest(name, others)}; there are: {', '.join(others)}"
        )
    return (
        f"no dataset at {(root / name).resolve()}; download MVTec AD from "
        "https://www.mvtec.com/company/research/datasets/mvtec-ad and unpack it so that "
        f"{root / name / 'train' / 'good'} exists, or make a small sample set with: "
        "python -m data.sample"
    )
