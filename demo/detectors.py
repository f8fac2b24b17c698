"""What the page offers: runs, their detectors, and images to try them on."""

import threading
from itertools import zip_longest
from pathlib import Path

import numpy as np
from PIL import Image

from data.images import ImageError, read_ahead, read_image
from data.mvtec import Category, TestImage
from data.region import read_with_region
from inspection.inspector import Inspection, Inspector
from inspection.open_run import open_inspector
from training import folders as runs
from utils.config import DataConfig, config_from
from utils.errors import UserError
from utils.yaml_files import read_yaml

THUMBNAIL = 192  # longer side, pixels
EXAMPLES = 16


def list_runs(named: Path | None = None) -> list[tuple[str, str]]:
    """Runs and exports to choose from, (name, path) each: `named`, then the newest first.

    Runs that are not finished come last. Passed over: links to what is gone, and folders without
    the settings of a run.
    """
    files = [file for file in runs.ROOT.glob("*/last.pt") if file.is_file() and _has_config(file)]
    files += [file for file in runs.ROOT.glob("*/[!.]*.onnx") if file.is_file()]
    files.sort(key=lambda file: (_is_finished(file), file.stat().st_mtime), reverse=True)
    paths = {file.resolve(): file for file in [*([named] if named else []), *files]}  # each once
    return [(runs.run_name(file), str(file)) for file in paths.values()]


def _is_finished(file: Path) -> bool:
    return file.suffix == ".onnx" or (file.parent / runs.FINISHED).exists()


def _has_config(file: Path) -> bool:
    try:
        config_from(read_yaml(file.with_name("config.yaml")))
    except UserError:
        return False
    return True


def pick_examples(images: list[TestImage], count: int = EXAMPLES) -> list[TestImage]:
    """About as many images of each kind, the first ones, in their order; at most `count`."""
    kinds: dict[str, list[TestImage]] = {}
    for image in images:
        kinds.setdefault(image.defect, []).append(image)
    turns = zip_longest(*kinds.values())  # one of each kind, then the next of each kind
    picked = [image for turn in turns for image in turn if image is not None][:count]
    return [image for image in images if image in picked]


def thumbnails(data: DataConfig, part: str) -> list[tuple[TestImage, Image.Image]]:
    """Test images of a part that a run was trained on, if they are there, each made small."""
    try:
        examples = pick_examples(Category(data.root, part, data).test_images())
    except UserError:  # the data need not be there
        return []
    small = []
    for example, image in read_ahead(examples, lambda example: read_image(example.path, data)):
        if not isinstance(image, ImageError):
            picture = Image.fromarray(image)
            picture.thumbnail((THUMBNAIL, THUMBNAIL))
            small.append((example, picture))
    return small


def read_upload(path: Path, data: DataConfig) -> np.ndarray:
    """Read an image as `read_with_region` does; its error does not tell where uploads are kept."""
    try:
        return read_with_region(path, data)
    except ImageError as error:
        raise ImageError(str(error).replace(str(path), path.name)) from None


class Detectors:
    """Opens detectors, keeps the last one, and reads and inspects one image at a time.

    An image of the size that is still read takes gigabytes while it is resized: two do not fit.

    Args:
        device: auto, cuda, mps or cpu.
    """

    def __init__(self, device: str) -> None:
        self.device = device
        self.lock = threading.Lock()
        self.kept: tuple[object, Inspector] | None = None

    def open(self, run: str) -> Inspector:
        """The detector in a file; raises `UserError` if it cannot be opened."""
        with self.lock:
            return self._open(run)

    def inspect(self, run: str, path: Path) -> Inspection:
        """Inspect an image file; raises `UserError` if it or the run cannot be read."""
        with self.lock:
            inspector = self._open(run)
            return inspector.inspect(read_upload(path, inspector.config.data))

    def _open(self, run: str) -> Inspector:
        file = runs.find_run(Path(run))
        # A run that was trained on, or calibrated anew, is opened anew: its folder tells.
        key = (file, file.stat().st_mtime_ns, file.parent.stat().st_mtime_ns)
        if self.kept is None or self.kept[0] != key:
            self.kept = None  # not two at once in memory
            self.kept = (key, open_inspector(file, self.device))
        return self.kept[1]
