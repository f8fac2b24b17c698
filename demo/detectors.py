"""Runs that the page offers, their detectors, and examples of the test split."""

import threading
from pathlib import Path

from PIL import Image

from data.images import ImageError, read_ahead, read_image
from data.mvtec import Category, TestImage
from data.region import read_with_region
from inspection.inspector import Inspection, Inspector
from inspection.open_run import open_inspector
from training import folders as runs
from utils.config import DataConfig
from utils.errors import UserError

THUMBNAIL = 192  # longer side, pixels
EXAMPLES = 16


def list_runs(named: Path | None = None) -> list[tuple[str, str]]:
    """Return (name, path) of runs and exports: `named`, then the newest first, unfinished last.

    Left out are links to missing files, and folders without the settings of a run.
    """
    files = [file for file in runs.ROOT.glob("*/last.pt") if file.is_file() and _has_config(file)]
    files += [file for file in runs.ROOT.glob("*/[!.]*.onnx") if file.is_file()]

    def rank(file: Path) -> tuple[bool, float]:
        finished = file.suffix == ".onnx" or file.with_name(runs.FINISHED).exists()
        return finished, file.stat().st_mtime

    files = [*([named] if named else []), *sorted(files, key=rank, reverse=True)]
    unique = {file.resolve(): file for file in files}.values()
    return [(runs.run_name(file), str(file)) for file in unique]


def _has_config(file: Path) -> bool:
    try:
        runs.run_config(file.parent)
    except UserError:
        return False
    return True


def pick_examples(images: list[TestImage], count: int = EXAMPLES) -> list[TestImage]:
    """Return the first images of each kind, as many of each; at most `count`."""
    kinds: dict[str, list[TestImage]] = {}
    for image in images:
        kinds.setdefault(image.defect, []).append(image)
    each = max(1, count // max(1, len(kinds)))
    return [image for kind in kinds.values() for image in kind[:each]][:count]


def thumbnails(data: DataConfig, category: str) -> list[tuple[TestImage, Image.Image]]:
    """Return examples of a category that a run was trained on, if its data are there."""
    try:
        examples = pick_examples(Category(data.root, category, data).test_images())
    except UserError:  # a run may have come without its data
        return []
    small = []
    for example, image in read_ahead(examples, lambda example: read_image(example.path, data)):
        if not isinstance(image, ImageError):
            picture = Image.fromarray(image)
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            small.append((example, picture))
    return small


class Detectors:
    """Opens detectors, keeps the last one, and inspects one image at a time.

    Args:
        device: auto, cuda, mps or cpu.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        # An image of the largest size takes gigabytes while it is resized: two may not fit.
        self.lock = threading.RLock()  # `inspect` holds it while it calls `open`
        self.kept: tuple[object, Inspector] | None = None

    def open(self, run: str) -> Inspector:
        """Return the detector in a file; raises `UserError` if it cannot be opened."""
        with self.lock:
            file = runs.find_run(Path(run))
            # Training and calibrate.py replace files of the run, which changes its folder's time.
            key = (file, file.stat().st_mtime_ns, file.parent.stat().st_mtime_ns)
            if self.kept is None or self.kept[0] != key:
                self.kept = None  # frees the memory of the former one first
                self.kept = (key, open_inspector(file, self.device))
            return self.kept[1]

    def inspect(self, run: str, path: Path) -> Inspection:
        """Inspect an image file; raises `UserError` if it or the run cannot be read."""
        with self.lock:
            inspector = self.open(run)
            try:
                image = read_with_region(path, inspector.config.data)
            except ImageError as error:  # visitors need not know where uploads are stored
                raise ImageError(str(error).replace(str(path), path.name)) from None
            return inspector.inspect(image)
