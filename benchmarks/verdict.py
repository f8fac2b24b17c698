"""False alarms of the verdict on good images that the detector has never seen.

    python -m benchmarks.verdict --data-root data/mvtec --categories bottle --size 128
    python -m benchmarks.verdict --models unet --set train.epochs=10 --batch 8 --lr 1e-3 --size 128

Of each category a random fifth of train/good is hidden. A detector learns from the rest, or from 40
or 15 images of it, and sets its threshold on what it learned from; the share of the hidden images
above the threshold should be `calibration.false_alarms`. Prints a row for each detector, category
and number of images: mean and highest share over the seeds. Every fit is also a line of the file
that --output names; the same command again goes on from there.
"""

import contextlib
import csv
import io
from collections import defaultdict
from itertools import product
from pathlib import Path

import numpy as np
import torch

from benchmarks.experiment import markdown
from data.good_images import DecodedImages, GoodImages, decode_all, in_folds
from data.mvtec import Category
from data.tensors import to_batch
from inspection.calibration import calibrate_detector
from inspection.threshold import Calibration
from models import DETECTORS, build_model
from models.detector import TrainedDetector
from training.loop import finish, fit, seed_step, train
from training.run import Run
from utils.config import Config, changed, load_config
from utils.device import place
from utils.errors import run_script
from utils.flags import add_setting_flags, file_or_folder, overrides_from, script_parser

HIDDEN = 0.2  # share of the good images
NUMBERS = [0, 40, 15]  # images to learn from; 0: all that are not hidden
COLUMNS = ["model", "category", "images", "seed", "hidden", "called", "threshold", "promised"]


def called_defective(
    config: Config, images: np.ndarray, hidden: np.ndarray
) -> tuple[int, Calibration]:
    """Learn from good images as train.py does, and inspect others, all uint8 [N, H, W, 3].

    Returns:
        How many of the others are called defective, and the calibration.
    """
    run = Run(config)
    run.save = lambda *_: None  # it leaves no files
    seed_step(config.seed, epoch=-1, step=-1)
    model = place(build_model(config), run.device)
    model.load_pretrained()
    is_network = isinstance(model, TrainedDetector)
    share, groups = config.calibration.holdout if is_network else 0, list(range(len(images)))
    names = [f"{config.data.category}/{number}" for number in groups]
    run.good = GoodImages().extended(names, groups, share, config.seed)
    decoded = DecodedImages.whole(images)
    folds = in_folds(decoded, run.good, 1, run.device)
    with model.caching():
        with contextlib.redirect_stdout(io.StringIO()):  # a line for each epoch
            if is_network:
                learned = train(run, model, model.optimizer(), decoded)
            else:
                learned = fit(run, model, decoded)
        if not learned:
            raise KeyboardInterrupt
        finish(run, model, folds)
        (calibration,) = calibrate_detector(model, decoded, run.good, folds).values()
    with torch.inference_mode():
        scores = [model(to_batch(image[None], run.device)).score.item() for image in hidden]
    return sum(map(calibration.is_defect, scores)), calibration


def read_rows(file: Path) -> list[dict[str, str]]:
    """Return the fits so far."""
    return list(csv.DictReader(file.read_text("utf-8").splitlines()))


def table(rows: list[dict[str, str]]) -> str:
    """Return the share of false alarms by detector, category and number of images, in Markdown."""
    shares: dict[tuple[str, str, int], list[float]] = defaultdict(list)
    for row in rows:
        key = (row["model"], row["category"], int(row["images"]))
        shares[key].append(int(row["called"]) / int(row["hidden"]))
    headings = ["detector", "category", "learned from", "false alarms, mean", "highest", "seeds"]
    lines = (
        [*map(str, key), f"{np.mean(own):.1%}", f"{max(own):.1%}", str(len(own))]
        for key, own in sorted(shares.items())
    )
    return markdown(headings, lines)


def main() -> int:
    """Fit what is missing, then print the table."""
    parser = script_parser(__doc__)
    parser.add_argument("--models", nargs="+", default=list(DETECTORS), metavar="NAME")
    parser.add_argument("--categories", nargs="+", default=["tile"], metavar="NAME")
    parser.add_argument("--seeds", type=int, default=10, metavar="N")
    output = {"type": file_or_folder, "default": Path("outputs/verdict.csv")}
    parser.add_argument("--output", **output, metavar="FILE")
    flags = ["--data-root", "--size", "--epochs", "--batch", "--lr", "--device", "--set"]
    add_setting_flags(parser, flags)
    args = parser.parse_args()
    if not args.output.exists():
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(",".join(COLUMNS) + "\n", "utf-8")
    done = {tuple(row.values())[:4] for row in read_rows(args.output)}
    for category in args.categories:
        given = load_config(overrides=overrides_from(args) | {"data.category": category})
        images = decode_all(Category(given.data.root, category).train_images(), given.data)[0].tiles
        for seed, number, model in product(range(args.seeds), NUMBERS, args.models):
            order = np.random.default_rng(seed).permutation(len(images))
            hidden, rest = np.split(order, [round(HIDDEN * len(order))])
            learned = np.sort(rest[:number] if number else rest)
            key = (model, category, str(len(learned)), str(seed))
            if len(learned) < number or key in done:
                continue
            done.add(key)
            config = changed(given, {"model": model, "seed": seed})
            called, calibration = called_defective(config, images[learned], images[hidden])
            values = [*key, len(hidden), called, calibration.threshold, calibration.false_alarms]
            with args.output.open("a", encoding="utf-8", newline="") as stream:
                csv.writer(stream, lineterminator="\n").writerow(values)
            print(f"{model} {category} {key[2]} seed {seed}: {called} of {len(hidden)} called")
    print(table(read_rows(args.output)))
    return 0


if __name__ == "__main__":
    run_script(main)
