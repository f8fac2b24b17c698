"""Set a finished run's verdict anew, without training.

    python calibrate.py                                    what the newest run promises
    python calibrate.py RUN --false-alarms 0.005           call fewer good parts defective
    python calibrate.py RUN --threshold 1.2                by hand
    python calibrate.py RUN --good alarms/                 further good images, such as false alarms
    python calibrate.py RUN --defects known/               how many known defects are found at what
    python calibrate.py RUN --defects known/ --accept      the threshold that finds them all
    python calibrate.py RUN --set score.reduce=max         how maps become scores
    python calibrate.py RUN --set data.max_megapixels=400  read larger images
    python calibrate.py RUN --part tile --threshold 1.2    one part of a run of several categories

RUN is a run folder or an .onnx file of export.py. What a run was calibrated to before stays in it.
Each further good image counts as one of those that the run was calibrated on; a threshold that was
set by hand stays, but where scores are made in another way: a line says that it goes.
"""

if __name__ == "__main__":  # before what takes long to import: Ctrl-C is quiet from here on
    from utils.interrupt import quiet_start

    quiet_start()

import argparse
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.images import ImageError, read_ahead
from data.listing import expand
from inspection.inspector import Inspector
from inspection.open_run import (
    add_part_flag,
    finite_threshold,
    keep_part,
    named_run,
    open_inspector,
    parse_checked,
)
from inspection.recalibrate import set_calibrations
from inspection.threshold import Calibration, dropped, promises
from training.folders import named_checkpoint
from utils.config import Config, differences, rescored_config
from utils.errors import UserError, run_script
from utils.flags import add_setting_flags, script_parser

RATES = [0.002, 0.005, 0.01, 0.02, 0.05, 0.1]
"""Shares of false alarms that known defects are looked for at."""

Found = dict[str, tuple[list[float], list[float]]]
"""Scores of images, and highest pixels of their maps, by part."""


def parse_args() -> argparse.Namespace:
    """Flags of the command line; raises `UserError` if they clash."""
    parser = script_parser(__doc__)
    add, images = parser.add_argument, {"nargs": "+", "default": [], "metavar": "IMAGE"}
    run = {"nargs": "?", "type": named_checkpoint, "metavar": "RUN"}
    add("checkpoint", **run, help="default: the newest")
    add("--false-alarms", type=float, metavar="SHARE", help="such as 0.005")
    text = "call what scores above X defective from now on"
    add("--threshold", type=finite_threshold, metavar="X", help=text)
    add_part_flag(parser)
    add("--good", **images, help="further good images, or folders")
    add("--defects", **images, help="a few known defects")
    add("--accept", action="store_true", help="set what finds all of --defects")
    add_setting_flags(parser, ["--model", "--category", "--data-root", "--device", "--set"])
    args = parse_checked(parser)
    if args.accept and not args.defects:
        raise UserError("--accept goes with --defects")
    if sum([args.threshold is not None, args.accept, args.false_alarms is not None]) > 1:
        raise UserError("name one of --false-alarms, --threshold and --accept")
    if args.false_alarms is not None and not 0 < args.false_alarms < 0.5:
        raise UserError(f"--false-alarms is {args.false_alarms} but should be between 0 and 0.5")
    return args


def inspect(inspector: Inspector, names: list[str], what: str) -> Found:
    """Scores and highest pixels of the images named, by part; one that is damaged is an error."""
    paths = expand(names)
    by_category: Found = {inspector.category_of(path): ([], []) for path in paths}
    found = inspector.inspect_all(read_ahead(paths, inspector.read))
    for path, inspection in tqdm(found, what, len(paths), unit="image", disable=None):
        if isinstance(inspection, ImageError):
            raise UserError(str(inspection))
        scores, peaks = by_category[inspector.category_of(path)]
        scores.append(inspection.score)
        peaks.append(float(inspection.anomaly_map.max()))
    return by_category


def refuse_known(inspector: Inspector, names: list[str], root: str) -> None:
    """Raise `UserError` if an image counts already: seen twice, and learned, it would promise more.

    An export does not say which images it was calibrated on.
    """
    learned = getattr(inspector, "good", None)
    known = {Path(root, name).resolve() for name in learned.names} if learned else set()
    for path in expand(names):
        if path.resolve() in known:
            raise UserError(f"{path} counts already: the run was calibrated on it; name others")


def rescore(inspector: Inspector, config: Config, root: str) -> dict[str, Calibration]:
    """The calibrations of a run whose maps become scores in another way; all images are needed."""
    from data.cache import decode_all
    from inspection.calibration import calibrate_detector

    images, _ = decode_all(inspector.good.paths(root), config.data)
    inspector.detector.config = config
    return calibrate_detector(inspector.detector, images, inspector.good, inspector.device)


def tell_found(part: str, calibration: Calibration, scores: list[float]) -> None:
    """Print how many known defects of a part are found at which rate of false alarms."""
    for share in sorted({*RATES, calibration.false_alarms} - {0.0}):
        at = calibration.with_false_alarms(share)
        found = sum(map(at.is_defect, scores))
        print(
            f"{100 * share:5.3g}% false alarms: threshold {at.threshold:.4g}, "
            f"{found} of {len(scores)} known defects of {part} found"
        )


def finding_all(calibration: Calibration, scores: list[float]) -> Calibration:
    """A threshold below the lowest of these scores, half-way to the highest good one below it."""
    lowest = min(scores)
    below = [score for score in calibration.scores if score < lowest]
    return calibration.with_threshold(
        (lowest + max(below)) / 2 if below else float(np.nextafter(lowest, -1e9))
    )


def tell(when: str, calibrations: dict[str, Calibration]) -> None:
    """Print what is promised of each part."""
    print(when + promises(calibrations).replace("\n", "\n" + " " * len(when)))


def adjusted(
    calibration: Calibration, args: argparse.Namespace, scores: list[float], peaks: list[float]
) -> Calibration:
    """A calibration with further good images, and with the threshold that the flags ask for."""
    if scores:
        calibration = replace(
            calibration,
            scores=calibration.scores + scores,
            peaks=calibration.peaks + peaks,
            independent=calibration.independent + len(scores),
        )
        if calibration.by_hand:
            calibration = calibration.with_threshold(calibration.threshold)
        else:
            calibration = calibration.with_false_alarms(calibration.false_alarms)
    if args.false_alarms is not None:
        calibration = calibration.with_false_alarms(args.false_alarms)
    return calibration if args.threshold is None else calibration.with_threshold(args.threshold)


def main() -> int:
    """Set the verdict and print it before and after; returns the exit status."""
    args = parse_args()
    file = named_run(args)
    inspector = open_inspector(file, args.device or "auto")
    root = vars(args)["data.root"] or inspector.config.data.root
    of_all = inspector.calibrations
    keep_part(inspector, args.part)
    before = inspector.calibrations
    print(file)
    tell("before: ", before)

    config = rescored_config(inspector.config, dict(args.set))
    changed = differences(inspector.config, config)
    if changed and file.suffix == ".onnx":
        raise UserError("an export has its settings fixed; set those of its run and export it anew")
    after = dict(before)
    if {"score.smooth", "score.reduce"} & set(changed):
        after = rescore(inspector, config, root)  # of all parts
        if line := dropped(of_all, "it says nothing of scores that are made in another way"):
            print(line, file=sys.stderr)
    refuse_known(inspector, args.good, root)
    good = inspect(inspector, args.good, "good images") if args.good else {}
    known = inspect(inspector, args.defects, "known defects") if args.defects else {}
    for part in before:
        after[part] = adjusted(after[part], args, *good.get(part, ([], [])))
        if part in known:
            scores, _ = known[part]
            tell_found(part, after[part], scores)
            after[part] = finding_all(after[part], scores) if args.accept else after[part]
    if changed or after != before:
        set_calibrations(file, after, config)
        tell("after:  ", after)
    return 0


if __name__ == "__main__":
    run_script(main)
