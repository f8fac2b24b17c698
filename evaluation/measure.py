"""Scores of a test split, and the metrics that follow from them."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from math import nan, prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from tqdm import tqdm

from data.images import ImageError, header_size, pixel_digest, read_ahead
from data.input_profile import Measures
from data.mvtec import TestImage
from data.parts import part_name
from data.region import read_with_region, valid_pixels
from evaluation.metrics import (
    BinnedPixelScores,
    PixelScores,
    auroc,
    average_precision,
    bootstrap_auroc,
    count_above,
    oracle_f1,
    precision_recall_f1,
)
from inspection.inspector import Inspector
from inspection.threshold import Calibration
from utils.device import peak_mib
from utils.errors import UserError
from utils.files import printable

if TYPE_CHECKING:  # it needs torch, which machines that inspect by an export may not have
    from data.good_images import Fold
    from inspection.torch_inspector import TorchInspector
    from models.drawn_defects.synthetic import PseudoImage

MAX_EXACT_PIXELS = 400_000_000  # 2 GiB; metrics of more are computed in bins
PIXEL_BYTES = 5  # of memory that exact metrics take

Test: TypeAlias = "TestImage | PseudoImage"
Reader: TypeAlias = "tuple[AbstractContextManager[None], Iterable[tuple[Test, Any]]]"


@dataclass
class Row:
    """One test image, its score and its `Inspection.measures`."""

    test: Test
    score: float
    milliseconds: float
    measures: Measures = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Kind of defect, or "good"."""
        return printable(self.test.defect)


def collect_pixels(tests: Sequence[TestImage]) -> tuple[PixelScores | None, list[str]]:
    """Return an empty `PixelScores` that suits a test split, and notices of what it will lack.

    It is None where no defective image has a mask.
    """
    defective = [test for test in tests if test.is_defect]
    lacking = sum(map(_lacks_mask, defective))
    if lacking == len(defective):
        notice = f"no pixel metrics: there is no mask for any of {lacking} defective images"
        return None, [notice] if lacking else []
    notices = []
    if lacking:
        of_all = f"{lacking} of {len(defective)} defective images"
        notices.append(f"left out of the pixel metrics: {of_all}, which have no mask")
    pixels = sum(prod(header_size(test.path)) for test in tests if not _lacks_mask(test))
    if pixels <= MAX_EXACT_PIXELS:
        return PixelScores(), notices
    need = f"{pixels / 1e6:.0f} million pixels would take {pixels * PIXEL_BYTES / 2**30:.1f} GiB"
    notices.append(f"exact pixel metrics of {need} of memory; they are computed in bins instead")
    return BinnedPixelScores(), notices


def _lacks_mask(test: Test) -> bool:
    return isinstance(test, TestImage) and test.is_defect and test.mask is None


def without_known(
    tests: list[TestImage], known: Collection[str]
) -> tuple[list[TestImage], list[str]]:
    """Leave out the test images that a detector has learned as known defects.

    Args:
        tests: a test split.
        known: `pixel_digest` of each known defect.

    Returns:
        The others, and a notice if there are any that are left out.
    """
    if not known:
        return tests, []

    def digest(test: TestImage) -> str:
        return pixel_digest(read_with_region(test.path, test.data))

    # What cannot be read stays, and is reported by whoever scores it.
    others = [test for test, found in read_ahead(tests, digest) if found not in known]
    excluded = len(tests) - len(others)
    notice = f"left out: {excluded} of {len(tests)} test images, learned as known defects"
    return others, [notice] if excluded else []


def pseudo_readers(
    inspector: "TorchInspector", root: Path, category: str
) -> tuple[list["PseudoImage"], Iterator[Reader]]:
    """Draw a test split on the good images of a run, to be scored out of fold.

    Args:
        inspector: of the detector to examine.
        root: folder that holds its categories.
        category: the one of them to be examined on.

    Returns:
        Good images as they are and with a drawn defect each; and for each fold a context without
        it, and a reader of the fold's images, which are to be scored within the context.

    Raises:
        UserError: if an image that the run knows is missing.
    """
    import torch  # late, as the others: an export needs no torch

    from data.good_images import decode_all, in_folds
    from models.drawn_defects.synthetic import PseudoImage, pseudo_split

    good, data = inspector.good, inspector.config.data
    paths = good.paths(root)
    examined = np.intersect1d(good.examined, good.by_category()[category])
    tests = pseudo_split([paths[index] for index in examined], data)
    fold_of = dict(zip(paths, good.folds, strict=True))

    @contextmanager
    def without(fold: "Fold") -> Iterator[None]:
        with torch.inference_mode(), inspector.detector.without(fold):
            yield

    def readers() -> Iterator[Reader]:
        images, _ = decode_all(paths, data)
        for fold in in_folds(images, good, inspector.batch, inspector.device):
            own = [test for test in tests if fold_of[test.path] == fold.number]
            if own:
                yield without(fold), read_ahead(own, PseudoImage.read)

    return tests, readers()


def score_split(
    inspector: Inspector, readers: Iterable[Reader], count: int, pixels: PixelScores | None = None
) -> tuple[list[Row], list[str]]:
    """Inspect test images and collect their pixels.

    Args:
        inspector: the detector.
        readers: contexts to score in, such as `detector.without(fold)`, and for each the test
            images with their image and mask, or the error of reading them.
        count: number of images of all readers.
        pixels: gets the anomaly maps, at the size of the original images and inside `data.region`.

    Returns:
        The scored images, and a line for each image or mask that could not be used.

    Raises:
        UserError: if no image can be read.
    """
    rows, problems = [], []

    def inspections() -> Iterator[tuple[tuple[Test, Any, Any], Any]]:
        for context, images in readers:  # no batch has images of two contexts
            with context:
                yield from inspector.inspect_all(_with_masks(images))

    for (test, mask, valid), inspection in tqdm(
        inspections(), "scoring", count, unit="image", disable=None
    ):
        if isinstance(inspection, ImageError):
            problems.append(f"left out: {inspection}")
            continue
        rows.append(Row(test, inspection.score, inspection.milliseconds, inspection.measures))
        if pixels is None or _lacks_mask(test):
            continue
        if isinstance(mask, ImageError):
            problems.append(f"left out of the pixel metrics: {mask}")
            continue
        anomaly_map = inspection.anomaly_map
        # A crop leaves pixels without a score: they get the lowest, so that they are found last.
        pixels.add(inspection.at_original_size(anomaly_map, anomaly_map.min()), mask, valid)
    if not rows:
        raise UserError(f"none of {count} test images can be read; the first is {problems[0]}")
    return rows, problems


def _with_masks(images: Iterable[tuple[Test, Any]]) -> Iterator[tuple[tuple[Test, Any, Any], Any]]:
    """Yield (test image, its mask, its valid mask) and its image, or the error of reading it."""
    for test, read in images:
        image, mask = (read, None) if isinstance(read, ImageError) else read
        valid = None if isinstance(image, ImageError) else valid_pixels(image)
        yield (test, mask, valid), image


def part_rows(rows: Sequence[Row], pattern: str | None, category: str) -> list[Row]:
    """Return a row for each part: that of its image with the highest score.

    A drawn defect is on one image: with the others of its part, as they are, it makes a part.

    Args:
        rows: of images.
        pattern: `Inspector.group`; None: each image is a part.
        category: that of the images.
    """
    parts: dict[tuple[str, str, Path | None], list[Row]] = {}
    for row in rows:
        test, name = row.test, part_name(row.test.path, category, pattern)
        drawn = test.is_defect and not isinstance(test, TestImage)
        parts.setdefault((name, test.defect, test.path if drawn else None), []).append(row)
    for (name, _, path), own in parts.items():
        if path is not None:
            good = parts.get((name, "good", None), [])
            own += [replace(one, test=own[0].test) for one in good if one.test.path != path]
    return [max(own, key=lambda row: row.score) for own in parts.values()]


def scores_by_class(rows: Sequence[Row]) -> tuple[np.ndarray, np.ndarray]:
    """Return the scores of the good images [G] and of the defective ones [D]."""
    good = [row.score for row in rows if not row.test.is_defect]
    return np.array(good), np.array([row.score for row in rows if row.test.is_defect])


def measure(
    rows: Sequence[Row], pixels: PixelScores | None, calibration: Calibration, batch: int
) -> dict[str, float]:
    """Return all metrics by name; those that the test split does not allow are NaN.

    Args:
        rows: of images, or of parts where the calibration is of parts; see `part_rows`.
        pixels: of all images.
        calibration: of their category.
        batch: images that were inspected at once.
    """
    good, defect = scores_by_class(rows)
    low, high = bootstrap_auroc(good, defect)
    best_f1, best_threshold = oracle_f1(good, defect)
    precision, recall, f1 = precision_recall_f1(good, defect, calibration.threshold)
    alarms = count_above(good, calibration.threshold)
    unit = "parts" if calibration.views else "images"
    metrics = {
        "image_auroc": auroc(good, defect),
        "image_auroc_low": low,
        "image_auroc_high": high,
        "image_ap": average_precision(good, defect),
        "threshold": calibration.threshold,
        "false_alarms": alarms / len(good) if len(good) else nan,
        "false_alarms_promised": calibration.false_alarms,
        "good_called_defective": alarms,
        "defects_found": count_above(defect, calibration.threshold),
        "precision": precision,
        "recall": recall,
        "f1": f1,
        "oracle_f1": best_f1,
        "oracle_threshold": best_threshold,
        **(pixels or PixelScores()).results(),
        "ms_per_image": float(np.median([row.milliseconds for row in rows])),
        "batch": batch,
        "peak_mib": peak_mib() or nan,
        f"good_{unit}": len(good),
        f"defective_{unit}": len(defect),
    }
    for kind in sorted({row.kind for row in rows if row.test.is_defect}):
        of_kind = [row.score for row in rows if row.kind == kind]
        metrics[f"auroc_{kind}"] = auroc(good, of_kind)
    return metrics
