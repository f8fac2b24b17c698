"""A category of parts in the layout of MVTec AD (Bergmann et al., CVPR 2019).

<root>/<category>/train/good/*.png
<root>/<category>/test/good/*.png
<root>/<category>/test/<defect>/*.png
<root>/<category>/ground_truth/<defect>/<stem>_mask.png      (or <stem>.png)
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data.images import ImageError, list_images, read_image
from utils.config import DataConfig, nearest
from utils.errors import UserError


@dataclass(frozen=True)
class TestImage:
    """One image of the test split.

    Attributes:
        path: the file.
        defect: name of its folder; "good" for good parts.
        mask: the ground-truth file, None for good parts and where it is missing.
    """

    __test__ = False  # not a test case, whatever its name says to pytest

    path: Path
    defect: str
    mask: Path | None

    @property
    def is_defect(self) -> bool:
        """Whether the part is defective."""
        return self.defect != "good"

    def read(self) -> tuple[np.ndarray, np.ndarray | ImageError | None]:
        """Image uint8 [H, W, 3] and mask bool [H, W]; raises `ImageError` if the image is damaged.

        In place of the mask: None for good parts, and an error where it is missing or damaged.
        """
        image = read_image(self.path)
        if not self.is_defect:
            return image, None
        if self.mask is None:
            return image, ImageError(f"no mask for {self.path}")
        try:
            return image, read_mask(self.mask, image.shape[:2])
        except ImageError as error:
            return image, error


class Category:
    """The files of one category.

    Args:
        root: folder that holds the categories.
        name: folder of the category.

    Raises:
        UserError: if there is no such folder, saying where to get the data or which name was meant.
    """

    def __init__(self, root: str | Path, name: str) -> None:
        self.folder = Path(root) / name
        self.name = name
        if not self.folder.is_dir():
            raise UserError(_missing(Path(root), name))

    @classmethod
    def chosen(cls, data: DataConfig, root: str | None, name: str | None) -> "Category":
        """The category that a run was trained on, but for what flags give instead (or None)."""
        return cls(root or data.root, name or data.category)

    def train_images(self) -> list[Path]:
        """Files of train/good, by name; raises `UserError` if there are fewer than two."""
        folder = self.folder / "train" / "good"
        images = list_images(folder)
        if len(images) < 2:
            found = "no images" if not images else "a single image"
            raise UserError(
                f"{found} in {folder}; training needs good parts there, one of them to calibrate "
                "on (png, jpg, jpeg, bmp, tif or webp)"
            )
        return images

    def test_images(self) -> list[TestImage]:
        """Files of the test split, good ones first; raises `UserError` if there are none."""
        test = self.folder / "test"
        defects = sorted(path.name for path in test.glob("*") if path.is_dir())
        defects.sort(key=lambda defect: defect != "good")
        images = [
            TestImage(path, defect, None if defect == "good" else self._mask(defect, path.stem))
            for defect in defects
            for path in list_images(test / defect)
        ]
        if not images:
            raise UserError(
                f"no images in {test}; put good parts into test/good and defective ones into "
                "test/<defect>"
            )
        return images

    def _mask(self, defect: str, stem: str) -> Path | None:
        folder = self.folder / "ground_truth" / defect
        for name in (f"{stem}_mask", stem):
            for path in list_images(folder):
                if path.stem == name:
                    return path
        return None


def split_holdout(
    paths: list[Path], share: float, seed: int, limit: int = 0
) -> tuple[list[Path], list[Path]]:
    """Hold out a seeded share of the good images: (to train on, to calibrate on), neither empty.

    With a `limit` above 0, at most as many of the others are left to train on, at random; a higher
    limit adds to those of a lower one. What is held out stays the same.
    """
    count = min(max(1, round(share * len(paths))), len(paths) - 1)
    order = np.random.default_rng(seed).permutation(len(paths)).tolist()
    held_out = sorted(order[:count])
    train = sorted(order[count : count + limit] if limit else order[count:])
    return [paths[index] for index in train], [paths[index] for index in held_out]


def read_mask(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read a ground-truth mask: bool [H, W], True where the defect is.

    Args:
        path: the file; any non-zero pixel is a defect.
        size: (height, width) of its image.

    Raises:
        ImageError: if it cannot be read or is not of the size of its image.
    """
    mask = read_image(path).max(axis=2) > 0
    if mask.shape != size:
        raise ImageError(
            f"mask {path} is {mask.shape[1]}x{mask.shape[0]} but its image is {size[1]}x{size[0]}"
        )
    if not mask.any():
        raise ImageError(f"mask {path} is empty, but its image is one of a defect")
    return mask


def list_categories(root: str | Path) -> list[str]:
    """Names of the categories in a folder: those that have good parts to learn from."""
    return sorted(path.parent.parent.name for path in Path(root).glob("*/train/good"))


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
