"""Test images as they are and under drawn light, by detectors that have learned drawn light or not.

    python -m benchmarks.light --categories bottle tile_patches tile --size 256
    python -m benchmarks.light --categories magnetic_tile --size 128 --set data.limit=300
    python -m benchmarks.light --models unet --categories tile_patches --lights 0 0.2 \\
        --size 128 --epochs 10 --batch 8 --lr 1e-3

Prints a row for each detector, category and `data.light`: image AUROC, and F1 at the threshold, on
the test split as it is; the share of its good images called defective, as they are and under drawn
light of 0.2 and 0.4; and AUROC with all of its images under such light, which is drawn with another
seed than what is learned.
"""

from itertools import product

import numpy as np
import torch

from benchmarks.experiment import markdown
from benchmarks.verdict import Splits, scored
from data.good_images import decode_all
from data.light import draw_light, relight
from data.mvtec import Category
from data.tensors import to_batch, to_pixels
from data.tiles import resize_to_input
from evaluation.metrics import auroc, count_above, precision_recall_f1
from utils.config import changed, load_config
from utils.errors import run_script
from utils.flags import add_setting_flags, overrides_from, script_parser

TESTED = (0.0, 0.2, 0.4)  # light that the test images are put under
SEED = 1  # of that light


def lit(images: np.ndarray, light: float) -> np.ndarray:
    """Return images, uint8 [N, H, W, 3], each under drawn light."""
    factors = draw_light(len(images), light, torch.Generator().manual_seed(SEED))
    batch = to_batch(images, torch.device("cpu"))
    return to_pixels(relight(batch, factors))  # with a light of 0 the same to the bit


def main() -> int:
    """Learn and measure, then print the table."""
    parser = script_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["patchcore", "padim"], metavar="NAME")
    parser.add_argument("--categories", nargs="+", default=["tile"], metavar="NAME")
    parser.add_argument("--lights", nargs="+", type=float, default=[0, 0.2, 0.4], metavar="X")
    flags = ["--data-root", "--size", "--epochs", "--batch", "--lr", "--device", "--set"]
    add_setting_flags(parser, flags)
    args, rows = parser.parse_args(), []
    for name in args.categories:
        given = load_config(overrides=overrides_from(args) | {"data.category": name})
        category = Category(given.data.root, name, given.data)
        good = decode_all(category.train_images(), given.data)[0].tiles
        order = np.random.default_rng(given.seed).permutation(len(good))
        good = good[np.sort(order[: given.data.limit or None])]
        tests = category.test_images()
        images = np.stack([resize_to_input(test.read()[0], given.data) for test in tests])
        is_defect = np.array([test.is_defect for test in tests])
        splits = Splits(good, {f"{light:g}": lit(images, light) for light in TESTED})
        for model, light in product(args.models, args.lights):
            config = changed(given, {"model": model, "data.light": light})
            found, calibration = scored(config, splits)
            pairs = [(np.array(s)[~is_defect], np.array(s)[is_defect]) for s in found.values()]
            f1 = precision_recall_f1(*pairs[0], calibration.threshold)[2]
            alarms = [count_above(pair[0], calibration.threshold) for pair in pairs]
            first, *others = (f"{auroc(*pair):.3f}" for pair in pairs)
            shares = [f"{count / sum(~is_defect):.1%}" for count in alarms]
            rows.append([model, name, f"{light:g}", first, f"{f1:.3f}", *shares, *others])
            print(*rows[-1], flush=True)
    under = [f"at {light:g}" for light in TESTED[1:]]
    headings = ["detector", "category", "data.light", "AUROC", "F1", "false alarms", *under]
    print(markdown([*headings, *(f"AUROC {where}" for where in under)], rows))
    return 0


if __name__ == "__main__":
    run_script(main)
