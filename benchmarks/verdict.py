"""Does the verdict keep its promise? Good images alone tell.

    python -m benchmarks.verdict --data-root data/mvtec --categories bottle --size 128
    python -m benchmarks.verdict --models unet --set train.epochs=10 --batch 8 --lr 1e-3 --size 128

Of each category a random fifth of train/good is hidden. A detector learns from the rest, or from 40
or 15 images of it, and sets its threshold on what it learned from; then the share of the hidden
images that it calls defective is counted. Prints a row for each detector, category and number of
images: the mean over the seeds, the highest, and what was promised. Every fit is also a line of the
file that --output names; the same command again goes on from there.
"""

import argparse
import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch

from data.cache import DecodedImages, decode_all
from data.crops import random_crops
from data.mvtec import Category
from data.tensors import to_batch
from data.training_set import in_folds
from inspection.calibrating import calibrate_detector
from models import DETECTORS, build_model
from models.detector import Detector, TrainedDetector
from runs.good_images import GoodImages
from runs.micro_batch import pick_micro_batch
from runs.seed import epoch_order, seed_step
from train import learning_rate, train_step
from utils.calibration import Calibration
from utils.config import Config, load_config
from utils.device import pick_device, place
from utils.flags import add_setting_flags, overrides_from, script_parser

HIDDEN = 0.2
NUMBERS = [0, 40, 15]
"""Images to learn from; 0: all that are not hidden."""

COLUMNS = ["model", "category", "images", "seed", "hidden", "called", "threshold", "promised"]


def parse_args() -> argparse.Namespace:
    """Flags of the command line."""
    parser = script_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=list(DETECTORS), metavar="NAME")
    parser.add_argument("--categories", nargs="+", default=["tile"], metavar="NAME")
    parser.add_argument("--seeds", type=int, default=10, metavar="N")
    parser.add_argument("--output", type=Path, default=Path("outputs/verdict.csv"), metavar="FILE")
    flags = ["--data-root", "--size", "--epochs", "--batch", "--lr", "--device", "--set"]
    add_setting_flags(parser, flags)
    return parser.parse_args()


def learned(
    config: Config, images: np.ndarray, device: torch.device
) -> tuple[Detector, Calibration]:
    """A detector that has learned from good images, uint8 [N, H, W, 3], as train.py does it."""
    seed_step(config.seed, -1, -1)
    model = place(build_model(config), device)
    model.load_pretrained()
    share = config.calibration.holdout if isinstance(model, TrainedDetector) else 0
    names = [f"{config.data.category}/{number}" for number in range(len(images))]
    good = GoodImages.dealt(names, list(range(len(images))), share, config.seed)
    decoded = DecodedImages.whole(images)
    folds = in_folds(decoded, good, config.train.batch, device)
    if isinstance(model, TrainedDetector):
        train(model.train(), images[good.learned], device)
        model.eval().finish(folds)
    else:
        for number, fold in enumerate(folds):
            for batch in fold:
                model.collect(batch, number)
        model.finish()
    (calibration,) = calibrate_detector(model, decoded, good, device).values()
    return model, calibration


def train(model: TrainedDetector, images: np.ndarray, device: torch.device) -> None:
    """All epochs of train.py, without what makes them resumable."""
    config, optimizer = model.config, model.optimizer()
    at_once, size = pick_micro_batch(config, device), config.train.batch
    steps = -(-len(images) // size)
    for epoch in range(config.train.epochs):
        order = epoch_order(config.seed, epoch, len(images))
        for step in range(steps):
            seed_step(config.seed, epoch, step)
            for group in optimizer.param_groups:
                group["lr"] = learning_rate(config.train, epoch + step / steps)
            batch = images[order[step * size :][:size]]
            batch = random_crops(batch, config.train.crop, config.seed, epoch, step)
            train_step(model, optimizer, batch, device, at_once)


@torch.inference_mode()
def called_defective(
    model: Detector, calibration: Calibration, images: np.ndarray, device: torch.device
) -> int:
    """How many of the images, uint8 [N, H, W, 3], the detector calls defective."""
    scores = [model(to_batch(image[None], device)).score.item() for image in images]
    return sum(map(calibration.is_defect, scores))


def trials(args: argparse.Namespace) -> list[tuple[str, str, int, int]]:
    """Model, category, number of images and seed of each fit."""
    return [
        (model, category, number, seed)
        for category in args.categories
        for seed in range(args.seeds)
        for number in NUMBERS
        for model in args.models
    ]


def table(rows: list[dict[str, str]]) -> str:
    """The share of false alarms by detector, category and number of images, in Markdown."""
    groups: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for row in rows:
        key = (row["model"], row["category"], int(row["images"]))
        groups[key].append(int(row["called"]) / int(row["hidden"]))
    lines = [
        "| detector | category | learned from | false alarms, mean | highest | seeds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for (model, category, images), shares in sorted(groups.items()):
        lines.append(
            f"| {model} | {category} | {images} | {100 * np.mean(shares):.1f}% "
            f"| {100 * max(shares):.1f}% | {len(shares)} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Fit what is missing, then print the table."""
    args = parse_args()
    rows: list[dict[str, str]] = []
    if args.output.exists():
        with args.output.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    kept: tuple[str, np.ndarray] = "", np.empty(0)
    for model, category, number, seed in trials(args):
        overrides = overrides_from(args) | {"model": model, "data.category": category, "seed": seed}
        config = load_config(overrides=overrides)
        device = pick_device(config.device)
        if kept[0] != category:
            paths = Category(config.data.root, category).train_images()
            kept = category, decode_all(paths, config.data)[0].tiles
        order = np.random.default_rng(seed).permutation(len(kept[1]))
        hidden, rest = np.split(order, [round(HIDDEN * len(order))])
        chosen = rest[:number] if number else rest
        key = [model, category, str(len(chosen)), str(seed)]
        if len(chosen) < number or any([row[c] for c in COLUMNS[:4]] == key for row in rows):
            continue
        detector, calibration = learned(config, kept[1][np.sort(chosen)], device)
        called = called_defective(detector, calibration, kept[1][hidden], device)
        values = [*key, len(hidden), called, calibration.threshold, calibration.false_alarms]
        rows.append(dict(zip(COLUMNS, map(str, values), strict=True)))
        with args.output.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.DictWriter(stream, COLUMNS)
            writer.writeheader()
            writer.writerows(rows)
        print(f"{model} {category} {len(chosen)} seed {seed}: {called} of {len(hidden)} called")
    print(table(rows))


if __name__ == "__main__":
    main()
