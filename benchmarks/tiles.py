"""Small defects in large images: shrunk to one size, and cut into tiles.

    python -m benchmarks.tiles

Draws images of 2048x2048, a grained surface, and on some of them a defect that covers a thousandth:
a pit, a scratch, and a patch that was rubbed smooth. PatchCore learns from the good ones, all at
128x128: of the whole image, and of tiles that are shrunk less and less. Prints a row for each.
"""

import math
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from benchmarks.experiment import Experiment, markdown
from data.drawing import blurred, frame, random_points, seeded, uniform
from data.tensors import to_pixels
from utils.config import load_config
from utils.errors import UserError, run_script
from utils.flags import script_parser

SIDE = 2048
AREA = SIDE * SIDE / 1000
TRAIN, GOOD, OF_EACH = 6, 8, 4
TILES = [0, 1024, 512]
SETTINGS = {"model": "patchcore", "data.category": "surface", "data.size": 128}


def surface() -> Tensor:
    """Draw a grained grey surface in uneven light: [1, 1, SIDE, SIDE] around 0.5."""
    image = torch.full((1, 1, SIDE, SIDE), 0.5)
    for pixels, contrast in ((1, 0.05), (8, 0.03), (200, 0.03)):
        side = SIDE // pixels  # coarse noise is drawn coarsely
        noise = blurred(torch.randn(1, 1, side, side), 1.5)
        noise = F.interpolate(noise / noise.std(), (SIDE, SIDE), mode="bicubic")
        image += contrast * noise
    return image


def _axes(image: Tensor) -> tuple[Tensor, Tensor]:
    """Draw coordinates along and across a random direction, from a point well inside."""
    return frame(image, random_points(image, margin=0.25), uniform(0, math.pi, 1))


def pit(image: Tensor) -> Tensor:
    """Draw a round spot that is a little darker."""
    return image - 0.06 * (torch.hypot(*_axes(image)) < math.sqrt(AREA / math.pi))


def scratch(image: Tensor) -> Tensor:
    """Draw a straight bright line, six pixels wide."""
    along, across = _axes(image)
    return image + 0.15 * ((across.abs() < 3) & (along.abs() < AREA / 12))


def rubbed(image: Tensor) -> Tensor:
    """Remove the grain of a square."""
    along, across = _axes(image)
    inside = torch.maximum(along.abs(), across.abs()) < AREA**0.5 / 2
    return torch.where(inside, blurred(image, 6), image)


DEFECTS: list[Callable[[Tensor], Tensor]] = [pit, scratch, rubbed]


def draw(folder: Path) -> None:
    """Write the images, in the layout of MVTec AD but for masks."""
    splits = [("train/good", TRAIN, None), ("test/good", GOOD, None)]
    splits += [(f"test/{defect.__name__}", OF_EACH, defect) for defect in DEFECTS]
    jobs = [(name, number, how) for name, count, how in splits for number in range(count)]
    for seed, (name, number, defect) in enumerate(tqdm(jobs, "drawing", disable=None)):
        with seeded(seed):
            image = surface()
            image = image if defect is None else defect(image)
        file = folder / name / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_pixels(image)[0, ..., 0]).save(file, compress_level=1)


def main() -> int:
    """Draw, learn, measure and print."""
    script_parser(__doc__).parse_args()
    names = [defect.__name__ for defect in DEFECTS]
    with tempfile.TemporaryDirectory() as scratch_folder:
        folder = Path(scratch_folder)
        draw(folder / "data/surface")
        lines = []
        for tile in tqdm(TILES, "learning", disable=None):
            settings = SETTINGS | {"data.root": str(folder / "data"), "data.tile": tile}
            found = Experiment(load_config(None, settings), folder / str(tile)).compute()
            if found["error"] is not None:
                raise UserError(found["error"])
            figures = [found["image_auroc"], *(found[f"auroc_{name}"] for name in names)]
            times = [f"{found['ms_per_image']:.0f}", f"{found['fit_seconds']:.0f} s"]
            size = f"{tile}x{tile}" if tile else "the whole image"
            lines.append([size, *(f"{figure:.3f}" for figure in figures), *times])
    print(markdown(["tile", "image AUROC", *names, "ms an image", "fit"], lines))
    return 0


if __name__ == "__main__":
    run_script(main)
