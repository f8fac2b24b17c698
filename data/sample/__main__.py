"""Draw a small category in the MVTec AD layout, for trying the code without a download.

Images are drawn from nothing but a seed, and defects are put on some of them, with masks:

    <root>/<category>/train/good/000.png
    <root>/<category>/test/good/000.png
    <root>/<category>/test/<defect>/000.png
    <root>/<category>/ground_truth/<defect>/000_mask.png

Two kinds can be drawn: ``tile``, a texture that fills the frame, and ``part``, an object that lies
anywhere on a plain ground. Run as ``python -m data.sample --root data/mvtec --kind part``.

The layout is that of Bergmann et al., "MVTec AD -- A Comprehensive Real-World Dataset for
Unsupervised Anomaly Detection", CVPR 2019; no pixel of it is used. Scores on drawn images are not
comparable with scores on the real ones.
"""

import argparse
import math
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from data.drawing import frame, seeded, uniform
from data.sample import part, tile
from data.tensors import to_pixels
from utils.errors import UserError, run_script
from utils.flags import file_or_folder

# Kinds of image to draw: a module each, with its `DEFECTS` by name and its `draw`.
KINDS = {"tile": tile, "part": part}

# Least pixels a side to draw with, for the details need some; smaller images are shrunk.
MIN_DRAWN = 256


def photographed(image: Tensor) -> Tensor:
    """Photograph a picture [1, 3, S, S]: uneven light, exposure and sensor noise, in [0, 1]."""
    size = image.shape[-1]
    x, y = frame(image, torch.full((1, 2), size / 2), uniform(0, 2 * math.pi, 1))
    x, y = 2 * x / size, 2 * y / size
    slope, gain = float(torch.rand(1)), float(torch.randn(1))
    light = 1 + 0.06 * slope * x - 0.02 * (x * x + y * y)  # darker to a side and to the corners
    light = light * (1 + 0.025 * gain)
    return (image * light + 0.008 * torch.randn(image.shape)).clamp(0, 1)


def _save(path: Path, image: Tensor) -> None:
    """Write values in [0, 1], [1, C, S, S], as an 8-bit PNG, and make its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(to_pixels(image)[0].squeeze()).save(path)


def write_sample(
    root: Path,
    category: str | None = None,
    size: int = 512,
    train: int = 60,
    good: int = 16,
    defects: int = 8,
    seed: int = 0,
    quiet: bool = False,
    kind: str = "tile",
) -> Path:
    """Write a drawn category in the MVTec AD layout.

    Every image has a seed of its own, made of the seed, its split, its label (good or the defect)
    and its number: asking for more images does not change the others. The folder appears only once
    complete.

    Args:
        root: folder of the data set; made if missing.
        category: name of the category's folder; that of its kind where None.
        size: side of the square images in pixels, at least 64.
        train: good images to train on, at least 1.
        good: good images to test on.
        defects: test images of each kind of defect.
        seed: of the whole set.
        quiet: show no progress bar.
        kind: what to draw, a name among `KINDS`.

    Returns:
        The folder of the category.

    Raises:
        UserError: the kind is unknown, or a size, count or seed is out of range.
        FileExistsError: the category's folder is there and is not empty.
    """
    if kind not in KINDS:
        raise UserError(f"kind must be one of {', '.join(KINDS)}, not {kind}")
    if size < 64:
        raise UserError(f"size must be at least 64 pixels, not {size}")
    if train < 1:
        raise UserError(f"train must be at least 1, not {train}")
    for name, value in (("good", good), ("defects", defects), ("seed", seed)):
        if value < 0:
            raise UserError(f"{name} must not be negative, not {value}")
    folder = Path(root) / (category or kind)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"{folder} already exists and is not empty: nothing was written")

    labels = ["good", *KINDS[kind].DEFECTS]
    jobs = [("train", "good", i) for i in range(train)]
    jobs += [("test", "good", i) for i in range(good)]
    jobs += [("test", label, i) for label in labels[1:] for i in range(defects)]
    factor = math.ceil(MIN_DRAWN / size)

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-", dir=folder.parent) as scratch:
        draft = Path(scratch) / folder.name
        for split, label, index in tqdm(jobs, str(folder), unit="image", disable=quiet or None):
            with seeded(seed, int(split == "test"), labels.index(label), index):
                image, mask = KINDS[kind].draw(size * factor, label)
                image = photographed(F.avg_pool2d(image, factor))
            _save(draft / split / label / f"{index:03d}.png", image)
            if label != "good":
                mask = F.max_pool2d(mask.float(), factor)
                _save(draft / "ground_truth" / label / f"{index:03d}_mask.png", mask)
        if folder.exists():
            folder.rmdir()  # it is empty; not every system renames over an empty folder
        draft.rename(folder)
    return folder


def main() -> int:
    """Write the sample that the flags describe; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data.sample",
        description="Draw a category in the MVTec AD layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--root", type=file_or_folder, default=Path("data/mvtec"), help="data set folder")
    add("--kind", choices=list(KINDS), default="tile", help="what to draw")
    text = "name of the category (default: its kind)"
    add("--category", type=file_or_folder, default=argparse.SUPPRESS, help=text)
    add("--size", type=int, default=512, help="side of the images in pixels")
    add("--train", type=int, default=60, help="good training images")
    add("--good", type=int, default=16, help="good test images")
    add("--defects", type=int, default=8, help="test images of each defect type")
    add("--seed", type=int, default=0, help="seed of the whole set")
    args = parser.parse_args()
    # Threads gain nothing on single images, and one gives the same bytes on every machine.
    torch.set_num_threads(1)
    print(f"wrote {write_sample(**vars(args))}")
    return 0


if __name__ == "__main__":
    run_script(main)
