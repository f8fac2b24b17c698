"""The verdict on images that the detector has never seen: false alarms, and defects that it finds.

    python -m benchmarks.verdict --data-root data/mvtec --categories bottle --size 128
    python -m benchmarks.verdict --models unet --set train.epochs=10 --batch 8 --lr 1e-3 --size 128
    python -m benchmarks.verdict --categories bottle --size 256 --numbers 40 --defects

Of each category a random fifth of train/good is hidden. A detector learns from the rest, or from as
many images of it as --numbers names, and sets its threshold on what it learned from; the share of
the hidden images above the threshold should be `calibration.false_alarms`. Prints a row for each
detector, category and number of images: mean and highest share over the seeds.

With --defects it also scores defects drawn on hidden images, and the test split, and prints what is
found where 0.5 to 10% of false alarms are promised. Every fit is a line of the file that --output
names, with all scores; the same command again goes on from there.
"""

import contextlib
import io
import json
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.experiment import markdown
from data.good_images import DecodedImages, GoodImages, decode_all, in_folds
from data.mvtec import Category
from data.tensors import to_batch
from data.tiles import resize_to_input
from evaluation.metrics import count_above, oracle_f1, precision_recall_f1
from inspection.calibration import calibrate_detector
from inspection.suspects import exclude
from inspection.threshold import Calibration, calibrate
from models import DETECTORS, build_model
from models.detector import TrainedDetector
from models.drawn_defects.synthetic import KINDS, spoil
from training.loop import finish, fit, seed_step, train
from training.run import Run
from utils.config import Config, changed, load_config
from utils.device import place
from utils.errors import run_script
from utils.flags import add_setting_flags, file_or_folder, overrides_from, script_parser

HIDDEN = 0.2  # share of the good images
MOST = 60  # good test images, and defective ones of a kind, that are scored
DRAWN_ON = 20  # hidden images, at most, on which a defect of each kind is drawn
PROMISED = [0.005, 0.01, 0.02, 0.05, 0.1]

# Model, category, images, seed and promised share; and scores of what the threshold is set on
# ("learned"), of "hidden" good images, and with --defects of "drawn" defects on these and of "good"
# and "defective" test images.
Row = dict[str, Any]


class Splits(NamedTuple):
    """Images to score, uint8 [N, H, W, 3] each, by the name of their scores in a row."""

    learned: np.ndarray
    others: dict[str, np.ndarray]


def scored(config: Config, splits: Splits) -> tuple[dict[str, list[float]], Calibration]:
    """Learn from good images as train.py does, and score others.

    Returns:
        The scores of each of the others, and the calibration.
    """
    run = Run(config)
    run.save = lambda *_: None  # it leaves no files
    seed_step(config.seed, epoch=-1, step=-1)
    model = place(build_model(config), run.device)
    model.load_pretrained()
    is_network = isinstance(model, TrainedDetector)
    share, groups = config.calibration.holdout if is_network else 0, [*range(len(splits.learned))]
    names = [f"{config.data.category}/{number}" for number in groups]
    run.good = GoodImages().extended(names, groups, share, config.seed)
    with model.caching():
        with contextlib.redirect_stdout(io.StringIO()):  # a line for each epoch
            decoded = exclude(run, DecodedImages.whole(splits.learned, config.data.light))
            folds = in_folds(decoded, run.good, 1, run.device)
            if is_network:
                learned = train(run, model, model.optimizer(), decoded)
            else:
                learned = fit(run, model, decoded)
        if not learned:
            raise KeyboardInterrupt
        finish(run, model, folds)
        (calibration,) = calibrate_detector(model, decoded, run.good, folds).values()
    with torch.inference_mode():
        scores = {
            name: [model(to_batch(one[None], run.device)).score.item() for one in images]
            for name, images in splits.others.items()
        }
    return scores, calibration


def drawn_defects(images: np.ndarray) -> np.ndarray:
    """Draw each kind of defect of `eval.py --synthetic` on images, uint8 [N, H, W, 3]."""
    every = product(enumerate(KINDS), enumerate(images))
    return np.stack([spoil(image, kind, (k, i))[0] for (k, kind), (i, image) in every])


def test_split(config: Config) -> dict[str, np.ndarray]:
    """Return good and defective test images, `MOST` of a kind at random, at `data.size`."""
    of_kinds = defaultdict(list)
    for test in Category(config.data.root, config.data.category, config.data).test_images():
        of_kinds[test.defect].append(test)
    images: dict[str, list[np.ndarray]] = {"good": [], "defective": []}
    for kind, tests in of_kinds.items():
        order = np.random.default_rng(0).permutation(len(tests))[:MOST]
        read = [resize_to_input(tests[one].read()[0], config.data) for one in order]
        images["good" if kind == "good" else "defective"] += read
    return {name: np.stack(own) for name, own in images.items()}


def read_rows(file: Path) -> list[Row]:
    """Return the fits so far."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def by_detector(rows: list[Row]) -> dict[tuple[str, str, int], list[Row]]:
    """Return the fits of each detector, category and number of images."""
    found: dict[tuple[str, str, int], list[Row]] = defaultdict(list)
    for row in rows:
        found[row["model"], row["category"], row["images"]].append(row)
    return dict(sorted(found.items()))


def threshold(row: Row, promised: float) -> float:
    """Return the threshold that a fit sets for a promised share of false alarms."""
    return calibrate(row["learned"], row["learned"], 0.0, promised).threshold


def false_alarms(rows: list[Row]) -> str:
    """Return the share of false alarms by detector, category and number of images, in Markdown."""
    headings = ["detector", "category", "learned from", "false alarms, mean", "highest", "seeds"]
    lines = []
    for key, own in by_detector(rows).items():
        shares = [np.mean(np.array(row["hidden"]) > threshold(row, row["promised"])) for row in own]
        mean, highest = f"{np.mean(shares):.1%}", f"{max(shares):.1%}"
        lines.append([*map(str, key), mean, highest, str(len(own))])
    return markdown(headings, lines)


def defects_found(rows: list[Row]) -> str:
    """Return what is found at each of `PROMISED`, means over the seeds, in Markdown."""
    headings = ["detector", "category", "learned from", "promised", "hidden good ones called"]
    headings += ["drawn defects found", "test: good ones called", "defects found", "F1", "best F1"]
    lines = []
    for (key, own), promised in product(by_detector(rows).items(), PROMISED):
        values = []
        for row in (row for row in own if "drawn" in row):
            at = threshold(row, promised)
            shares = [
                count_above(row[name], at) / len(row[name])
                for name in ("hidden", "drawn", "good", "defective")
            ]
            f1 = precision_recall_f1(row["good"], row["defective"], at)[2]
            values.append([*shares, f1, oracle_f1(row["good"], row["defective"])[0]])
        if values:
            *shares, f1, best = np.mean(values, axis=0)
            entries = [f"{promised:.1%}", *(f"{share:.1%}" for share in shares)]
            lines.append([*map(str, key), *entries, f"{f1:.3f}", f"{best:.3f}"])
    return markdown(headings, lines)


def main() -> int:
    """Fit what is missing, then print the tables."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--models", nargs="+", default=list(DETECTORS), metavar="NAME")
    add("--categories", nargs="+", default=["tile"], metavar="NAME")
    text = "good images to learn from; 0: all that are not hidden"
    add("--numbers", nargs="+", type=int, default=[0, 40, 15], metavar="N", help=text)
    add("--seeds", type=int, default=10, metavar="N")
    add("--defects", action="store_true", help="also measure what is found")
    output = {"type": file_or_folder, "default": Path("outputs/verdict.jsonl")}
    add("--output", **output, metavar="FILE")
    flags = ["--data-root", "--size", "--epochs", "--batch", "--lr", "--device", "--set"]
    add_setting_flags(parser, flags)
    args = parser.parse_args()
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.touch()
    done = {
        (row["model"], row["category"], row["images"], row["seed"])
        for row in read_rows(args.output)
    }
    for category in args.categories:
        given = load_config(overrides=overrides_from(args) | {"data.category": category})
        images = decode_all(Category(given.data.root, category).train_images(), given.data)[0].tiles
        tests = test_split(given) if args.defects else {}
        for seed, number, model in product(range(args.seeds), args.numbers, args.models):
            order = np.random.default_rng(seed).permutation(len(images))
            hidden, rest = np.split(order, [round(HIDDEN * len(order))])
            learned = np.sort(rest[:number] if number else rest)
            key = (model, category, len(learned), seed)
            if len(learned) < number or key in done:
                continue
            done.add(key)
            others = {"hidden": images[hidden]} | tests
            if args.defects:
                others["drawn"] = drawn_defects(images[hidden[:DRAWN_ON]])
            config = changed(given, {"model": model, "seed": seed})
            scores, calibration = scored(config, Splits(images[learned], others))
            row = dict(zip(("model", "category", "images", "seed"), key, strict=True))
            row |= {"promised": calibration.false_alarms, "learned": calibration.scores, **scores}
            with args.output.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")
            called = count_above(row["hidden"], calibration.threshold)
            print(f"{model} {category} {key[2]} seed {seed}: {called} of {len(hidden)} called")
    rows = read_rows(args.output)
    print(false_alarms(rows))
    if args.defects:
        print(f"\n{defects_found(rows)}")
    return 0


if __name__ == "__main__":
    run_script(main)
