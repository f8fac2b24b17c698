"""Small defects in large images: shrunk to one size, and cut into tiles.

    python -m benchmarks.tiles

Draws images of 2048x2048, a grained surface, and on some of them a defect that covers a thousandth:
a pit, a scratch, and a patch that was rubbed smooth. PatchCore learns from the good ones, all at
128x128: of the whole image, and of tiles that are shrunk less and less. Prints a row for each.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage
from tqdm import tqdm

from benchmarks.experiment import Experiment
from benchmarks.table import markdown
from utils.config import load_config
from utils.errors import UserError, run_script
from utils.flags import script_parser

SIDE = 2048
AREA = SIDE * SIDE / 1000
TRAIN, GOOD, OF_EACH = 6, 8, 4
TILES = [0, 1024, 512]
SETTINGS = {
    "model": "patchcore",
    "data.category": "surface",
    "data.size": 128,
    "patchcore.candidates": 20_000,
}


def surface(rng: np.random.Generator) -> np.ndarray:
    """A grained grey surface in uneven light: float32 [SIDE, SIDE] around 0.5."""
    image = np.full((SIDE, SIDE), 0.5, np.float32)
    for sigma, contrast in ((1.5, 0.05), (8, 0.03), (200, 0.03)):
        size = SIDE // max(1, int(sigma))  # coarse noise is drawn coarsely
        grain = ndimage.gaussian_filter(rng.standard_normal((size, size), np.float32), 1.5)
        coarse = Image.fromarray(grain / grain.std())
        image += contrast * np.asarray(coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    return image


def _place(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Turned coordinates [SIDE, SIDE] in pixels, around a point well inside the image."""
    y, x = np.indices((SIDE, SIDE), np.float32)
    (top, left), turn = rng.uniform(0.25 * SIDE, 0.75 * SIDE, 2), rng.uniform(0, np.pi)
    u = (x - left) * np.cos(turn) + (y - top) * np.sin(turn)
    return u, (y - top) * np.cos(turn) - (x - left) * np.sin(turn)


def pit(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A round spot that is a little darker."""
    u, v = _place(rng)
    return image - 0.06 * (u * u + v * v < AREA / np.pi)


def scratch(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A straight bright line, six pixels wide."""
    u, v = _place(rng)
    return image + 0.15 * ((np.abs(v) < 3) & (np.abs(u) < AREA / 12))


def rubbed(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """A square without grain."""
    u, v = _place(rng)
    inside = np.maximum(np.abs(u), np.abs(v)) < AREA**0.5 / 2
    return np.where(inside, ndimage.gaussian_filter(image, 6), image)


DEFECTS: list[Callable[[np.random.Generator, np.ndarray], np.ndarray]] = [pit, scratch, rubbed]


def draw(folder: Path) -> None:
    """Write the images, in the layout of MVTec AD but for masks."""
    splits = [("train/good", TRAIN, None), ("test/good", GOOD, None)]
    splits += [(f"test/{defect.__name__}", OF_EACH, defect) for defect in DEFECTS]
    jobs = [(name, number, how) for name, count, how in splits for number in range(count)]
    for seed, (name, number, defect) in enumerate(tqdm(jobs, "drawing", disable=None)):
        rng = np.random.default_rng(seed)
        image = surface(rng)
        image = image if defect is None else defect(rng, image)
        file = folder / name / f"{number:03d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        Image.fromarray(pixels).save(file, compress_level=1)


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
