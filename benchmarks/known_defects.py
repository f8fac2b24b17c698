"""What a few known defects of one kind teach a memory bank about that kind, and about others.

    python -m benchmarks.known_defects --category tile_patches --size 256
    python -m benchmarks.known_defects --category magnetic_tile --size 128 --set data.limit=200
    python -m benchmarks.known_defects --category bottle --size 128 --drawn

The good parts are learned once. Then some known defects of a kind are drawn at random from the test
split, which they leave, and the rest is measured with them and without them: image AUROC,
and recall at the threshold, on that kind and on all others. A row is the mean of `--draws` draws.
Images whose mask cannot be read are left out.
With --drawn, by which the constants were chosen, the defects are drawn on good images that are not
learned, a quarter of them, and the test split is not touched.
"""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch

from benchmarks.experiment import markdown
from data.good_images import GoodImages, in_folds
from data.images import ImageError, read_ahead
from data.known_defects import known_defect
from data.mvtec import Category
from data.tensors import to_batch
from data.training_set import load_images
from evaluation.metrics import auroc
from inspection.calibration import calibrate_detector
from models import build_model
from models.drawn_defects.synthetic import pseudo_split
from training.loop import seed_step
from utils.config import Config, changed, load_config
from utils.errors import run_script
from utils.flags import add_setting_flags, overrides_from, script_parser

MIN_LEFT = 3  # of the kind, to measure on
BATCH = 8
CPU = torch.device("cpu")
RATES = ("AUROC of the kind", "recall of it", "AUROC of others", "recall of them", "false alarms")
HEADINGS = ["kind", "known", *(name for rate in RATES for name in (rate, "with known"))]


def rates(found: np.ndarray, threshold: float, kinds: np.ndarray, kind: str) -> list[float]:
    """Return AUROC and recall of a kind, the same of all others, and false alarms."""
    good = found[kinds == "good"]
    own, others = found[kinds == kind], found[(kinds != kind) & (kinds != "good")]
    pairs = [(auroc(good, part), np.mean(part > threshold)) for part in (own, others)]
    return [*pairs[0], *pairs[1], np.mean(good > threshold)]


@torch.inference_mode()
def measure(config: Config, numbers: Sequence[int], drawn: bool, draws: int) -> list[list[str]]:
    """Return the rows of the table, for these numbers of known defects."""
    config, good, images = load_images(config, GoodImages(), [], 0, quiet=True)
    tests = [] if drawn else Category.chosen(config.data)[0].test_images()
    if drawn:
        paths, rest = good.paths(config.data.root), np.flatnonzero(np.arange(len(good.names)) % 4)
        tests = pseudo_split(paths[::4], config.data)
        names, images = [good.names[one] for one in rest], images.only(rest)
        good = GoodImages().extended(names, list(range(len(names))), 0, config.seed)
    read = list(read_ahead(tests, lambda test: known_defect(test, config.data)))
    read = [(test.defect, one) for test, one in read if not isinstance(one, ImageError)]
    kinds = np.array([kind for kind, _ in read])
    tiles = np.concatenate([one.tiles for _, one in read])
    seed_step(config.seed, 0, 0)
    model, folds = build_model(config).eval(), in_folds(images, good, BATCH, CPU)
    model.load_pretrained()
    rng, rows = np.random.default_rng(config.seed), []

    def results() -> tuple[np.ndarray, float]:
        (one,) = calibrate_detector(model, images, good, folds).values()
        starts = range(0, len(tiles), BATCH)
        scores = [model(to_batch(tiles[start : start + BATCH], CPU)).score for start in starts]
        return torch.cat(scores).numpy(), one.threshold

    with model.caching():
        for fold in folds:
            for batch in fold:
                model.collect(batch, fold.number)
        model.finish(folds)
        before = results()
        for kind, number in product(sorted({*kinds} - {"good"}), numbers):
            own, found = np.flatnonzero(kinds == kind), []
            for _ in range(draws if number + MIN_LEFT <= len(own) else 0):
                known = rng.choice(own, number, replace=False)
                left = np.delete(np.arange(len(read)), known)
                model.take_defects([read[one][1] for one in known])
                for bank in model.banks:
                    bank.defects = bank.defects[:0]  # those of the draw before
                model.normalise(folds)
                pair = before, results()
                found.append([rates(one[left], at, kinds[left], kind) for one, at in pair])
            if found:
                rows.append([kind, number, *np.mean(found, axis=0).T.flatten()])
    for number in numbers:
        of_number = [row[2:] for row in rows if row[1] == number]
        rows.append([f"mean of {len(of_number)} kinds", number, *np.mean(of_number, axis=0)])
    return [[kind, str(number), *(f"{one:.3f}" for one in rest)] for kind, number, *rest in rows]


def main() -> int:
    """Print the table; return the exit status."""
    parser = script_parser(__doc__)
    add_setting_flags(parser)
    add = parser.add_argument
    add("--known", type=int, nargs="+", default=[1, 5, 10], metavar="N", help="default: 1 5 10")
    add("--draws", type=int, default=5, metavar="N", help="default: 5")
    add("--drawn", action="store_true", help="defects drawn on good images")
    args = parser.parse_args()
    config = load_config(overrides={"model": "patchcore"} | overrides_from(args))
    config = changed(config, {"data.defects": "drawn at random"})
    print(markdown(HEADINGS, measure(config, args.known, args.drawn, args.draws)))
    return 0


if __name__ == "__main__":
    run_script(main)
