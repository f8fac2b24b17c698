"""Change the threshold of a finished run, without training.

    python calibrate.py                                    false alarms to expect of the newest run
    python calibrate.py RUN --false-alarms 0.005           call fewer good parts defective
    python calibrate.py RUN --threshold 1.2                by hand
    python calibrate.py RUN --good alarms/                 further good images, such as false alarms
    python calibrate.py RUN --defects known/               known defects found at which threshold
    python calibrate.py RUN --defects known/ --accept      the threshold that finds them all
    python calibrate.py RUN --set score.reduce=max         how scores are computed of maps
    python calibrate.py RUN --set data.max_megapixels=400  read larger images
    python calibrate.py RUN --set data.mm_per_pixel=0.05   give regions in millimetres, too
    python calibrate.py RUN --category tile --threshold 1.2   one of several categories in a run

RUN is a run folder or an .onnx file of export.py. Former thresholds are kept in it. Each further
good image counts as one of those that the run was calibrated on, copies of these once; with
calibration.group, images of one folder with the same match count as one part. A threshold set by
hand stays, unless scores are computed in another way: then it is dropped, with a line.
"""

import argparse
import math
import sys
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
from tqdm import tqdm

from data.images import ImageError, pixel_digest, read_ahead
from data.listing import expand
from data.parts import part_name
from inspection.inspector import Inspector
from inspection.open_run import (
    add_category_flag,
    finite_threshold,
    named_run,
    open_inspector,
    parse_checked,
    select_categories,
    set_calibrations,
)
from inspection.threshold import Calibration, dropped, promises
from training.folders import named_checkpoint
from utils.config import MIN_FALSE_ALARMS, Config, changed, differences
from utils.errors import UserError, run_script
from utils.flags import add_setting_flags, not_empty, script_parser

NOT_LEARNED = ["data.max_megapixels", "data.mm_per_pixel"]
"""Settings that can be changed without training, beside `score.*`."""

RATES = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1]
"""Shares of false alarms for which the number of known defects found is printed."""

Found = dict[str, tuple[list[float], list[float], list[str], list[int]]]
"""Of each category what `Calibration.with_scores` takes: scores and peaks of images, or of parts,
digests of all images, and the number of those behind each score."""


def parse_args() -> argparse.Namespace:
    """Parse the command line; raises `UserError` if flags clash."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    images = {"nargs": "+", "type": not_empty, "default": [], "metavar": "IMAGE"}
    run = {"nargs": "?", "type": named_checkpoint, "metavar": "RUN"}
    add("checkpoint", **run, help="default: the newest")
    text = "such as 0.005; auto: by the number of good images"
    add("--false-alarms", type=share_of_false_alarms, metavar="SHARE", help=text)
    text = "call what scores above X defective from now on"
    add("--threshold", type=finite_threshold, metavar="X", help=text)
    add("--good", **images, help="further good images, or folders")
    add("--defects", **images, help="a few known defects")
    add("--accept", action="store_true", help="set what finds all of --defects")
    add_category_flag(parser)
    add_setting_flags(parser, ["--model", "--data-root", "--device", "--set"])
    args = parse_checked(parser)
    if args.accept and not args.defects:
        raise UserError("--accept goes with --defects")
    if sum([args.threshold is not None, args.accept, args.false_alarms is not None]) > 1:
        raise UserError("name one of --false-alarms, --threshold and --accept")
    return args


def share_of_false_alarms(text: str) -> float | Literal["auto"]:
    """Return a share of false alarms, or "auto"; raises `UserError` if it is neither."""
    if text == "auto":
        return "auto"
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not MIN_FALSE_ALARMS <= share < 0.5:
        bounds = f"a share from {MIN_FALSE_ALARMS:g} to below 0.5"
        raise UserError(f"--false-alarms is {text} but should be auto, or {bounds}")
    return share


def rescored_config(config: Config, overrides: dict[str, Any]) -> Config:
    """Return a finished run's settings with `overrides`; raises `UserError` for learned ones."""
    for key in overrides:
        if not key.startswith("score.") and key not in NOT_LEARNED:
            raise UserError(
                f"{key} is learned, or given by a flag of its own; only score.*, "
                f"{' and '.join(NOT_LEARNED)} can be set without training"
            )
    return changed(config, overrides)


def rescore(inspector: Inspector, config: Config, root: str) -> dict[str, Calibration]:
    """Calibrate all categories of a run again, with scores computed in another way.

    Args:
        inspector: a checkpoint, which gets the settings.
        config: its settings, with others below `score`.
        root: folder that holds the categories; all good images that the run knows are needed.
    """
    # Late, as below: an export needs no torch.
    from data.good_images import decode_all, in_folds
    from inspection.calibration import calibrate_detector

    images, _ = decode_all(inspector.good.paths(root), config.data)
    # All that was learned stays, the normalisation among it, as it does in the checkpoint.
    inspector.detector.config = config
    folds = in_folds(images, inspector.good, inspector.batch, inspector.device)
    return calibrate_detector(inspector.detector, images, inspector.good, folds)


def score_images(inspector: Inspector, names: list[str], what: str, once: bool) -> Found:
    """Inspect the images named, if any; raises `UserError` if one is damaged or all are known.

    Args:
        inspector: the detector.
        names: image files, folders or patterns.
        what: name of the images in messages.
        once: leave out copies of images that a category was calibrated on, or of one another:
            good images that count twice would promise more than they tell.
    """
    if not names:
        return {}
    paths = expand(names)
    # Of each category and part the score, the peak and the digest of each image.
    of_images = {inspector.category_of(path): {} for path in paths}
    known = {category: set(one.digests) for category, one in inspector.calibrations.items()}

    def distinct() -> Iterator[tuple[tuple[str, str, str], np.ndarray]]:
        for path, image in tqdm(read_ahead(paths, inspector.read), what, len(paths), disable=None):
            if isinstance(image, ImageError):
                raise UserError(str(image))
            category, digest = inspector.category_of(path), pixel_digest(image)
            if not once or digest not in known[category]:
                known[category].add(digest)
                yield (category, part_name(path, category, inspector.group), digest), image

    for (category, part, digest), inspection in inspector.inspect_all(distinct()):
        peak = float(inspection.anomaly_map.max())
        of_images[category].setdefault(part, []).append((inspection.score, peak, digest))
    found: Found = {}
    for category, parts in of_images.items():
        columns = [list(zip(*images, strict=True)) for images in parts.values()]
        scores, peaks = ([max(column[number]) for column in columns] for number in (0, 1))
        digests = [digest for column in columns for digest in column[2]]
        found[category] = scores, peaks, digests, [len(column[2]) for column in columns]
    left = sum(len(digests) for _, _, digests, _ in found.values())
    if not left:
        raise UserError(f"all {len(paths)} {what} count already; name others")
    if left < len(paths):
        line = f"left out: {len(paths) - left} of {len(paths)} {what}, which count already"
        print(line, file=sys.stderr)
    return found


def print_found(category: str, calibration: Calibration, scores: list[float]) -> None:
    """Print how many known defects of a category are found at which rate of false alarms."""
    for share in sorted({*RATES, calibration.false_alarms} - {0.0}):
        at = calibration.with_false_alarms(share)
        found = sum(map(at.is_defect, scores))
        print(
            f"{100 * share:5.3g}% false alarms: threshold {at.threshold:.4g}, "
            f"{found} of {len(scores)} known defects of {category} found"
        )


def print_promises(when: str, calibrations: dict[str, Calibration]) -> None:
    """Print what is promised of each category, behind "before: " or "after: "."""
    print(when + promises(calibrations).replace("\n", "\n" + " " * len(when)))


def main() -> int:
    """Set the verdict and print it before and after; returns the exit status."""
    args = parse_args()
    file = named_run(args)
    inspector = open_inspector(file, args.device or "auto")
    root = vars(args)["data.root"] or inspector.config.data.root
    of_all = inspector.calibrations
    select_categories(inspector, args)
    before = inspector.calibrations
    print(file)
    print_promises("before: ", before)

    config = rescored_config(inspector.config, dict(args.set))
    others = differences(inspector.config, config)
    if others and file.suffix == ".onnx":
        raise UserError(
            "the settings of an export are fixed; set those of its run, and export that"
        )
    after = dict(before)
    if {"score.smooth", "score.reduce"} & set(others):
        after = rescore(inspector, config, root)  # of all categories, for one setting serves all
        if line := dropped(of_all, "it is not comparable with scores made in another way"):
            print(line, file=sys.stderr)
    good = score_images(inspector, args.good, "good images", once=True)
    defects = score_images(inspector, args.defects, "known defects", once=False)
    digests = {digest for _, _, own, _ in defects.values() for digest in own}
    if learned := digests.intersection(inspector.known_defects):
        line = f"{len(learned)} of the known defects were learned; to find them tells nothing"
        print(line, file=sys.stderr)
    for category in before:
        one = after[category]
        if category in good:
            one = one.with_scores(*good[category])
        if args.false_alarms is not None:
            one = one.with_false_alarms(args.false_alarms)
        if args.threshold is not None:
            one = one.with_threshold(args.threshold)
        if category in defects:
            scores, *_ = defects[category]
            print_found(category, one, scores)
            one = one.finding_all(scores) if args.accept else one
        after[category] = one
    if others or after != before:
        set_calibrations(file, after, config)
        print_promises("after:  ", after)
    return 0


if __name__ == "__main__":
    run_script(main)
