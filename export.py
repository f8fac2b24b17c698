"""Export a trained detector to one ONNX file, which gives its verdicts without torch.

    python export.py                                the newest run
    python export.py --category wood --half         weights in 16 bits
    python export.py --checkpoint checkpoints/<run> --int8
    python infer.py --checkpoint checkpoints/<run>/<run>.onnx part.png

The file takes images [B, 3, H, W], float32 RGB in [0, 1], and gives anomaly_map [B, 1, H, W],
score [B] and, where the detector has one, reconstruction. Its metadata hold the settings, the
thresholds and the range of colours. It is compared with the checkpoint on real images before it is
kept. --half and --int8 carry the thresholds over to the scores of the smaller file, and say what it
costs in AUROC and gains in speed.
"""

if __name__ == "__main__":  # before what takes long to import: Ctrl-C is quiet from here on
    from utils.interrupt import quiet_start

    quiet_start()

import argparse
from pathlib import Path

from inspection.open_run import chosen_categories, named_run, parse_checked
from training.folders import FORMAT, named_checkpoint, run_name
from utils.errors import UserError, answer_early, run_script
from utils.flags import add_setting_flags, script_parser


def parse_args() -> argparse.Namespace:
    """Flags of the command line."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--checkpoint", type=named_checkpoint, metavar="RUN", help="run folder or its last.pt")
    add("--output", type=Path, metavar="FILE", help="default: checkpoints/<run>/<run>.onnx")
    smaller = parser.add_mutually_exclusive_group()
    smaller.add_argument("--half", action="store_true", help="weights and sums in float16")
    smaller.add_argument("--int8", action="store_true", help="convolutions in 8 bits")
    add_setting_flags(parser, ["--model", "--category", "--data-root"])
    return parse_checked(parser)


if __name__ == "__main__":
    answer_early(parse_args)  # --help and wrong flags, before the slow imports

import signal
from collections.abc import Iterator
from math import nan

import numpy as np

from data.images import ImageError, read_ahead
from data.mvtec import Category, TestImage
from data.tiles import read_tiles
from evaluation.measure import score_split, scores_by_class
from evaluation.metrics import auroc
from inspection.inspector import Inspector
from inspection.onnx_export import write_half, write_int8, write_metadata, write_onnx
from inspection.onnx_inspector import OnnxInspector
from inspection.threshold import Calibration
from inspection.torch_inspector import TorchInspector
from models.drawn_defects.synthetic import PseudoImage, pseudo_split
from utils.config import Config

TOLERANCE = 1e-4  # largest difference to the checkpoint, as a share of the largest value
CHECKED = 16  # images that an export is compared with its checkpoint on
MAPPED = 8  # good images of a part, about, that tell how scores of a smaller file are off
RANGE_IMAGES = 64  # good images at most that set the ranges of --int8


def check_output(file: Path) -> None:
    """Raise `UserError` if an export cannot go by this name, or would replace another file."""
    if file.suffix != ".onnx":
        raise UserError(f"--output is {file} but should end in .onnx, by which exports are known")
    if file.exists() and FORMAT.encode() not in file.read_bytes():
        raise UserError(f"{file} is none of export.py, and is not overwritten; name another file")


def compare(ours: Inspector, reference: Inspector, images: list[tuple[str, np.ndarray]]) -> None:
    """Print how far an export agrees with its checkpoint; raise `UserError` if that is too little.

    Args:
        ours: the export.
        reference: the checkpoint.
        images: what both inspect, uint8 [H, W, 3], each with its part.
    """
    pairs = [(ours.inspect(image), reference.inspect(image)) for _, image in images]

    def difference(what: str) -> float:
        values = [tuple(np.asarray(getattr(found, what)) for found in pair) for pair in pairs]
        apart = np.max([np.abs(left - right).max() for left, right in values])
        return float(apart / max(1e-12, *(np.abs(right).max() for _, right in values)))

    of_maps, of_scores = difference("anomaly_map"), difference("score")
    calibrations = [reference.calibrations[part] for part, _ in images]
    equal = sum(
        own.is_defect(left.score) == own.is_defect(right.score)
        for own, (left, right) in zip(calibrations, pairs, strict=True)
    )
    report = (
        f"against the checkpoint, on {len(pairs)} images: map within {of_maps:.1e}, score within "
        f"{of_scores:.1e}, {equal} verdicts equal"
    )
    # Not `> TOLERANCE`, which a NaN would pass.
    if not (of_maps <= TOLERANCE and of_scores <= TOLERANCE and equal == len(pairs)):
        raise UserError(
            f"the export is not kept, for it differs too much: {report} (a network that hardly "
            "changes its input leaves nothing but rounding to compare: train it longer)"
        )
    print(report)


def tests_of(category: Category) -> list[TestImage]:
    """The images of the test split, if there is one."""
    try:
        return category.test_images()
    except UserError:
        return []


def images_to_check(
    inspector: Inspector, categories: list[Category], good: dict[str, list[Path]]
) -> list[tuple[str, np.ndarray]]:
    """Some images, each with its part, evenly from test splits, or good ones where there is none.

    Args:
        inspector: says which part a category is of, and reads the images.
        categories: those to take them of.
        good: good images of each part.
    """
    parts: dict[Path, str] = {}
    for category in categories:
        part = inspector.category_of(category.folder)
        parts |= dict.fromkeys([test.path for test in tests_of(category)] or good[part], part)
    chosen = list(parts)[:: -(-len(parts) // CHECKED)]
    found = read_ahead(chosen, inspector.read)
    images = [(parts[path], image) for path, image in found if not isinstance(image, ImageError)]
    if not images:
        folder = categories[0].folder
        raise UserError(f"none of the images of {folder} could be read to check it with")
    return images


def good_images(paths: list[Path], config: Config) -> Iterator[np.ndarray]:
    """Good images as the detector sees them, uint8 [h, w, C]; damaged ones are left out.

    Of those that it sees in tiles one each, from all over the image in turn.
    """
    reader = read_ahead(paths, lambda path: read_tiles(path, config.data)[0])
    for number, (_, tiles) in enumerate(reader):
        if not isinstance(tiles, ImageError):
            yield tiles[number % len(tiles)]


def calibrated(small: Inspector, whole: Inspector, part: str, paths: list[Path]) -> Calibration:
    """The calibration of the whole detector for a part as a smaller one sees it.

    Both judge good images of it and drawn defects; the line that takes the scores of the one to
    those of the other takes the threshold along, a line for the peaks all that belongs to the map.
    """
    tests = pseudo_split(paths, whole.config.data)
    pairs = []
    for _, read in read_ahead(tests, PseudoImage.read):
        if not isinstance(read, ImageError):
            found = [inspector.inspect(read[0]) for inspector in (whole, small)]
            pairs.append([(one.score, one.anomaly_map.max()) for one in found])
    (scores, peaks), (small_scores, small_peaks) = np.array(pairs).transpose(1, 2, 0)
    return whole.calibrations[part].mapped(
        np.poly1d(np.polyfit(scores, small_scores, 1)),
        np.poly1d(np.polyfit(peaks, small_peaks, 1)),
    )


def measure(inspector: Inspector, category: Category) -> tuple[float, float]:
    """Image AUROC on the test split and milliseconds an image, NaN without a split."""
    tests = tests_of(category)
    if not tests:
        return nan, nan
    rows, _ = score_split(inspector, [read_ahead(tests, TestImage.read)], len(tests))
    return auroc(*scores_by_class(rows)), float(np.median([row.milliseconds for row in rows]))


def shrink(
    kind: str,
    whole: OnnxInspector,
    reference: TorchInspector,
    good: dict[str, list[Path]],
    categories: list[Category],
    file: Path,
) -> None:
    """Write a smaller file with thresholds of its own, and print what it costs.

    Args:
        kind: half or int8.
        whole: the export in float32.
        reference: the checkpoint.
        good: good images of each part.
        categories: those to measure on.
        file: where to write.
    """
    print(f"converting to {kind}")
    if kind == "half":
        write_half(whole.file, file)
    else:
        paths = [path for own in good.values() for path in own]
        some = paths[:: -(-len(paths) // RANGE_IMAGES)]
        write_int8(whole.file, file, good_images(some, whole.config))
    # Sealed, or it is not opened; and once more with its own thresholds.
    write_metadata(file, reference.detector, reference.calibrations)
    small = OnnxInspector(file, "cpu")
    small.calibrations = {
        part: calibrated(small, whole, part, own[:: max(1, len(own) // MAPPED)])
        for part, own in good.items()
    }
    write_metadata(file, reference.detector, small.calibrations)
    for category in categories:
        (before, ms_before), (after, ms_after) = (measure(one, category) for one in (whole, small))
        print(
            f"{category.name}: image AUROC {before:.4f} in float32, {after:.4f} in {kind}; "
            f"ms an image {ms_before:.0f} in float32, {ms_after:.0f} in {kind}"
        )
    mib, small_mib = (one.stat().st_size / 2**20 for one in (whole.file, file))
    print(f"MiB {mib:.1f} in float32, {small_mib:.1f} in {kind}")


def main() -> int:
    """Export, compare, and keep the file only if it agrees; returns the exit status."""
    args = parse_args()
    # SIGTERM, too, takes unfinished files along.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    file = named_run(args)
    reference = TorchInspector(file, "cpu")
    config = reference.config
    categories = chosen_categories(args, reference)
    paths = reference.good.paths(vars(args)["data.root"] or config.data.root)
    good = {
        part: [paths[place] for place in own] for part, own in reference.good.by_category().items()
    }
    kind = "half" if args.half else "int8" if args.int8 else ""
    name = run_name(file) + (f"-{kind}" if kind else "")
    output = args.output or file.parent / f"{name}.onnx"
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)
    # Under other names until they have shown that they agree.
    whole = output.with_name(f".{output.stem}.whole.onnx")
    smaller = output.with_name(f".{output.stem}.smaller.onnx")
    try:
        print(f"{config.model} on {', '.join(good)}, {file}: writing the graph")
        write_onnx(reference.detector, whole)
        write_metadata(whole, reference.detector, reference.calibrations)
        exported = OnnxInspector(whole, "cpu")
        compare(exported, reference, images_to_check(reference, categories, good))
        if kind:
            shrink(kind, exported, reference, good, categories, smaller)
        (smaller if kind else whole).replace(output)
    finally:
        whole.unlink(missing_ok=True)
        smaller.unlink(missing_ok=True)
    print(f"done: {output} ({output.stat().st_size / 2**20:.1f} MiB)")
    print(f"next: python infer.py --checkpoint {output}")
    return 0


if __name__ == "__main__":
    run_script(main)
