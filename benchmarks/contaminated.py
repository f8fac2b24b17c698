"""Detectors that learned from train/good with defects in it, and what `data.contaminated` is worth.

    python -m benchmarks.contaminated --size 128 --categories bottle tile_patches --seeds 3
    python -m benchmarks.contaminated --size 128 --categories magnetic_tile --set data.limit=300

Of each category a share of train/good is replaced by random defects of the test split, which leave
that. A detector learns with `data.contaminated` 0, and with the true share; from good images
alone also with 0.1, for what that costs. Prints a row for each, means over the seeds: image AUROC,
F1 and false alarms at the threshold on the remaining test split, and how many of the defects and of
the good images are left out, and are named as suspects. Every fit is also a line of the file that
--output names; the same command again goes on from there.
"""

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.experiment import markdown
from benchmarks.verdict import Splits, read_rows, scored, test_split
from data.good_images import decode_all
from data.images import pixel_digest
from data.mvtec import Category
from evaluation.metrics import auroc, count_above, precision_recall_f1
from inspection.threshold import suspicion
from utils.config import Config, changed, load_config
from utils.errors import run_script
from utils.flags import add_setting_flags, file_or_folder, overrides_from, script_parser

# Shares that are planted, and `data.contaminated`.
SHARES = [(0.0, 0.0), (0.0, 0.1), (0.05, 0.0), (0.05, 0.05), (0.1, 0.0), (0.1, 0.1)]
SHARES += [(0.2, 0.0), (0.2, 0.2)]
KEY = ["model", "category", "planted", "contaminated", "seed"]


def measure(
    config: Config, good: np.ndarray, planted: np.ndarray, tests: dict[str, np.ndarray]
) -> dict[str, Any]:
    """Learn as train.py does, score a test split, and return numbers by name.

    Args:
        config: all settings.
        good: uint8 [N, H, W, 3].
        planted: defects to learn from as if they were good, uint8 [K, H, W, 3].
        tests: "good" and "defective" test images.
    """
    images = np.concatenate([good, planted])
    # Not the last ones: the order decides folds and batches.
    order = np.random.default_rng(config.seed).permutation(len(images))
    scores, calibration = scored(config, Splits(images[order], tests))
    threshold, learned = calibration.threshold, set(calibration.digests)
    above, limit = suspicion(calibration)
    own = zip(calibration.digests, calibration.scores, strict=True)
    suspects = {digest for digest, score in own if above(score) < limit}
    of_good, of_planted = ({pixel_digest(one) for one in images} for images in (good, planted))
    return {
        "AUROC": auroc(scores["good"], scores["defective"]),
        "F1": precision_recall_f1(scores["good"], scores["defective"], threshold)[2],
        "false alarms": count_above(scores["good"], threshold) / len(scores["good"]),
        "defects left out": len(of_planted - learned),
        "good left out": len(of_good - learned),
        "defects named": len(of_planted & suspects),
        "good named": len(of_good & suspects),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Return the means over the seeds in Markdown."""
    cells: dict[tuple, list[list[float]]] = {}
    for row in rows:
        *cell, _ = (row.pop(key) for key in KEY)
        cells.setdefault(tuple(cell), []).append([*row.values()])
    lines = []
    for cell, own in sorted(cells.items()):
        area, f1, *rest = np.mean(own, axis=0)
        numbers = [f"{area:.3f}", f"{f1:.3f}", *(f"{value:.3g}" for value in rest)]
        lines.append([*map(str, cell), *numbers, str(len(own))])
    return markdown([*KEY[:4], *rows[0], "seeds"], lines)


def main() -> int:
    """Measure what is missing, then print the table."""
    parser = script_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=["patchcore"], metavar="NAME")
    parser.add_argument("--categories", nargs="+", default=["tile"], metavar="NAME")
    parser.add_argument("--seeds", type=int, default=3, metavar="N")
    output = {"type": file_or_folder, "default": Path("outputs/contaminated.jsonl")}
    parser.add_argument("--output", **output, metavar="FILE")
    add_setting_flags(parser, ["--data-root", "--size", "--epochs", "--batch", "--lr", "--set"])
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.touch()
    done = {tuple(row[key] for key in KEY) for row in read_rows(args.output)}
    for category in args.categories:
        given = load_config(overrides=overrides_from(args) | {"data.category": category})
        files = Category(given.data.root, category).train_images()
        chosen = np.random.default_rng(0).permutation(len(files))[: given.data.limit or None]
        images = decode_all([files[one] for one in chosen], given.data)[0].tiles
        tests = test_split(given)
        for seed, (share, excluded), model in product(range(args.seeds), SHARES, args.models):
            key = (model, category, share, excluded, seed)
            if key in done:
                continue
            settings = {"model": model, "seed": seed, "data.contaminated": excluded}
            count, rng = round(share * len(images)), np.random.default_rng(seed)
            good = rng.permutation(images)[count:]
            planted, rest = np.split(rng.permutation(tests["defective"]), [count])
            of_rest = tests | {"defective": rest}
            row = dict(zip(KEY, key, strict=True))
            row |= measure(changed(given, settings), good, planted, of_rest)
            with args.output.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
    print(table(read_rows(args.output)))
    return 0


if __name__ == "__main__":
    run_script(main)
