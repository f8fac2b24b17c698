"""Detectors that learn from 1, 2, 4, 8 or 16 good images.

    python -m benchmarks.few_images --vit vit.pt --categories bottle tile_patches magnetic_tile tile

Five draws from train/good for each number; a larger number adds to the images of a smaller one.
Prints, for each category, detector and number of images, image AUROC on the test split and F1 at
the threshold, which takes two images: mean of the draws, lowest and highest. Of a large test split
40 random good images and 20 of each kind of defect are measured. All at 256x256.
"""

import math
from collections import Counter

import numpy as np
import torch

from benchmarks.experiment import markdown
from data.good_images import DecodedImages, GoodImages, deal, decode_all, in_folds
from data.mvtec import Category
from data.tensors import to_batch
from evaluation.metrics import auroc, precision_recall_f1
from inspection.calibration import calibrate_detector
from models import build_model
from models.detector import FittedDetector
from models.feature_detector import FeatureCache
from utils.config import load_config
from utils.errors import run_script
from utils.flags import add_setting_flags, overrides_from, script_parser

DETECTORS = {
    "patchcore": {"model": "patchcore"},
    "patch_memory": {"model": "patch_memory"},
    "patch_memory, 8 turns": {"model": "patch_memory", "patch_memory.rotations": 8},
}
NUMBERS, DRAWS = [1, 2, 4, 8, 16], 5
MOST = {True: 20, False: 40}  # images of a kind of defect, and good ones, of a test split
SIZE = {"data.size": 256}
CPU = torch.device("cpu")


def test_split(files: Category) -> tuple[np.ndarray, np.ndarray]:
    """Return test images, uint8 [N, H, W, 3], and whether each is defective; see `MOST`."""
    tests, seen, chosen = files.test_images(), Counter(), []
    for index in np.random.default_rng(0).permutation(len(tests)):
        seen[tests[index].defect] += 1
        if seen[tests[index].defect] <= MOST[tests[index].is_defect]:
            chosen.append(tests[index])
    images, _ = decode_all([test.path for test in chosen], files.data)
    return images.tiles, np.array([test.is_defect for test in chosen])


def learn(model: FittedDetector, images: np.ndarray) -> float:
    """Learn from good images, uint8 [N, H, W, 3]; return the threshold, infinite if N is 1."""
    numbers = list(range(len(images)))
    good = GoodImages(["good/"] * len(images), numbers, deal(numbers), [False] * len(images))
    learned = DecodedImages.whole(images)
    folds = in_folds(learned, good, 1, CPU)
    for fold in folds:
        for batch in fold:
            model.collect(batch, fold.number)
    model.eval().finish(folds)
    if len(images) == 1:
        return math.inf
    return calibrate_detector(model, learned, good, folds)["good"].threshold


def summary(values: list[float]) -> str:
    """Return the mean of the draws, and the lowest and highest of them."""
    return f"{np.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


@torch.inference_mode()
def main() -> int:
    """Print a row for each category, detector and number of images, as soon as it is measured."""
    parser = script_parser(__doc__)
    parser.add_argument("--categories", nargs="+", default=["tile"], metavar="NAME")
    parser.add_argument("--detectors", nargs="+", default=DETECTORS, choices=DETECTORS)
    parser.add_argument("--numbers", nargs="+", type=int, default=NUMBERS, metavar="N")
    parser.add_argument("--vit", metavar="FILE", help="weights of the transformer, else downloaded")
    add_setting_flags(parser, ["--data-root"])
    args = parser.parse_args()
    print(markdown(["category", "images", "detector", "image AUROC", "F1 at threshold"], []))
    for category in args.categories:
        data = load_config(overrides=overrides_from(args) | SIZE).data
        files = Category(data.root, category, data)
        tests, defective = test_split(files)
        images = decode_all(files.train_images(), data)[0].tiles
        computed: dict[str, FeatureCache] = {}  # of each backbone
        for name in args.detectors:
            weights = {} if name == "patchcore" else {"backbone.weights": args.vit}
            model = build_model(load_config(overrides=SIZE | DETECTORS[name] | weights))
            model.load_pretrained()
            cache = computed.setdefault(model.backbone.name, FeatureCache(model.compute_features))
            model.compute_features = cache.features
            for number in args.numbers:
                aurocs, f1s = [], []
                for draw in range(DRAWS):
                    torch.manual_seed(draw)
                    order = np.random.default_rng(draw).permutation(len(images))
                    threshold = learn(model, images[order[:number]])
                    scores = [model(to_batch(one[None], CPU)).score.item() for one in tests]
                    split = np.array(scores)[~defective], np.array(scores)[defective]
                    aurocs.append(auroc(*split))
                    f1s.append(precision_recall_f1(*split, threshold)[2])
                cells = [summary(aurocs), summary(f1s) if number > 1 else ""]
                print(f"| {' | '.join([category, str(number), name, *cells])} |", flush=True)
    return 0


if __name__ == "__main__":
    run_script(main)
