"""Comparing an export with its checkpoint, and carrying thresholds over to a smaller export."""

from collections.abc import Iterator
from contextlib import nullcontext
from math import nan
from pathlib import Path

import numpy as np

from data.images import ImageError, read_ahead
from data.mvtec import Category, TestImage
from data.tiles import Grid
from evaluation.measure import score_split, scores_by_class, without_known
from evaluation.metrics import auroc
from inspection.inspector import Inspector
from inspection.onnx_export import write_half, write_int8, write_metadata
from inspection.onnx_inspector import OnnxInspector
from inspection.threshold import Calibration
from inspection.torch_inspector import TorchInspector
from models.drawn_defects.synthetic import PseudoImage, pseudo_split
from utils.errors import UserError

TOLERANCE = 1e-4  # of differences to the checkpoint, as a share of the largest value
MAX_CHECKED = 16  # images that an export is compared with its checkpoint on
MAPPED = 8  # good images of a category, about, that tell how scores of a smaller file are off
MAX_RANGE_IMAGES = 64  # good images that set the ranges of --int8


def compare(ours: Inspector, reference: Inspector, images: list[tuple[str, np.ndarray]]) -> None:
    """Print how far an export agrees with its checkpoint.

    Args:
        ours: the export.
        reference: the checkpoint.
        images: to be inspected by both, uint8 [H, W, 3], each with its category.

    Raises:
        UserError: if the mean difference of a map, or that of a score, is above `TOLERANCE`, or a
            verdict differs.
    """
    pairs = [(ours.inspect(image), reference.inspect(image)) for _, image in images]

    def difference(name: str) -> float:
        values = [tuple(np.asarray(getattr(one, name)) for one in pair) for pair in pairs]
        # The mean over a map: where two entries of a memory bank lie equally near, rounding takes
        # one or the other, and divides by another spacing.
        largest = np.max([np.abs(left - right).mean() for left, right in values])
        return float(largest / max(1e-12, *(np.abs(right).max() for _, right in values)))

    of_maps, of_scores = difference("anomaly_map"), difference("score")
    calibrations = [reference.calibrations[category] for category, _ in images]
    equal = sum(
        calibration.is_defect(left.score) == calibration.is_defect(right.score)
        for calibration, (left, right) in zip(calibrations, pairs, strict=True)
    )
    report = (
        f"against the checkpoint, on {len(pairs)} images: map within {of_maps:.1e} on "
        f"average, score within {of_scores:.1e}, {equal} verdicts equal"
    )
    # Not `> TOLERANCE`, which a NaN would pass.
    if not (of_maps <= TOLERANCE and of_scores <= TOLERANCE and equal == len(pairs)):
        raise UserError(
            f"the export is not kept, for it differs too much: {report} (a network that hardly "
            "changes its input leaves nothing but rounding to compare: train it longer)"
        )
    print(report)


def images_to_check(
    inspector: Inspector, categories: list[Category], good: dict[str, list[Path]]
) -> list[tuple[str, np.ndarray]]:
    """Return images, each with its category, evenly from test splits, else good ones.

    Args:
        inspector: reads the images.
        categories: those to take them of.
        good: good images of each category.
    """
    of_path: dict[Path, str] = {}
    for category in categories:
        tests = [test.path for test in _tests_of(category)]
        of_path |= dict.fromkeys(tests or good[category.name], category.name)
    step = -(-len(of_path) // MAX_CHECKED)  # rounded up
    read = read_ahead(list(of_path)[::step], inspector.read)
    images = [(of_path[path], image) for path, image in read if not isinstance(image, ImageError)]
    if not images:
        folder = categories[0].folder
        raise UserError(f"none of the images of {folder} could be read to check it with")
    return images


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
        good: good images of each category.
        categories: those to measure on.
        file: where to write.
    """
    print(f"converting to {kind}")
    if kind == "half":
        write_half(whole.file, file)
    else:
        paths = [path for own in good.values() for path in own]
        step = -(-len(paths) // MAX_RANGE_IMAGES)
        write_int8(whole.file, file, _model_inputs(paths[::step], whole))
    # Its digest is needed to open it; then it is written once more with its own thresholds.
    write_metadata(file, reference, reference.calibrations)
    small = OnnxInspector(file, "cpu")
    small.calibrations = {
        category: _carried_over(small, whole, category, own[:: max(1, len(own) // MAPPED)])
        for category, own in good.items()
    }
    write_metadata(file, reference, small.calibrations)
    for category in categories:
        (before, ms_before), (after, ms_after) = (_measure(one, category) for one in (whole, small))
        print(
            f"{category.name}: image AUROC {before:.4f} in float32, {after:.4f} in {kind}; "
            f"ms an image {ms_before:.0f} in float32, {ms_after:.0f} in {kind}"
        )
    mib, small_mib = (one.stat().st_size / 2**20 for one in (whole.file, file))
    print(f"MiB {mib:.1f} in float32, {small_mib:.1f} in {kind}")


def _tests_of(category: Category) -> list[TestImage]:
    """The images of the test split, if there is one."""
    try:
        return category.test_images()
    except UserError:
        return []


def _model_inputs(paths: list[Path], inspector: Inspector) -> Iterator[np.ndarray]:
    """Good images as the detector gets them, uint8 [h, w, C]; damaged ones are left out.

    Of those in tiles one tile each, from another position each time.
    """
    data = inspector.config.data
    for number, (_, image) in enumerate(read_ahead(paths, inspector.read)):
        if not isinstance(image, ImageError):
            tiles = Grid.over(image.shape[:2], data).cut(image, data)
            yield tiles[number % len(tiles)]


def _carried_over(
    small: Inspector, whole: Inspector, category: str, paths: list[Path]
) -> Calibration:
    """The calibration of the whole detector for a category, on the scale of a smaller one.

    Both score good images of it and drawn defects. A line fitted to the scores of the two takes
    the threshold along; another, fitted to the peaks, all that belongs to the map.
    """
    tests = pseudo_split(paths, whole.config.data)
    pairs = []
    for _, read in read_ahead(tests, PseudoImage.read):
        if not isinstance(read, ImageError):
            found = [inspector.inspect(read[0]) for inspector in (whole, small)]
            pairs.append([(one.score, one.anomaly_map.max()) for one in found])
    (scores, peaks), (small_scores, small_peaks) = np.array(pairs).transpose(1, 2, 0)
    return whole.calibrations[category].mapped(
        np.poly1d(np.polyfit(scores, small_scores, 1)),
        np.poly1d(np.polyfit(peaks, small_peaks, 1)),
    )


def _measure(inspector: Inspector, category: Category) -> tuple[float, float]:
    """Image AUROC on the test split and milliseconds an image, NaN without a split."""
    tests, _ = without_known(_tests_of(category), inspector.known_defects)
    if not tests:
        return nan, nan
    rows, _ = score_split(
        inspector, [(nullcontext(), read_ahead(tests, TestImage.read))], len(tests)
    )
    return auroc(*scores_by_class(rows)), float(np.median([row.milliseconds for row in rows]))
