"""Calibration of a detector: out-of-fold scores of all good images, and the threshold from them.

What a looser threshold would find is told by defects drawn on some of these; they set nothing.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from shlex import quote

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.good_images import DecodedImages, Fold, GoodImages
from data.input_profile import profile_of
from data.tensors import to_batch
from inspection.inspector import valid_score
from inspection.threshold import Calibration, calibrate
from models.detector import Detector
from models.drawn_defects.synthetic import KINDS, spoil

# Drawn defects, about, by which a looser threshold is compared: one is 2% of them.
DRAWN_DEFECTS = 50

# Share of false alarms of that threshold.
LOOSER = 0.05

# Held-out images at which their deviation and that of the training images weigh alike.
PRIOR_HELD_OUT = 10


@torch.inference_mode()
def calibrate_detector(
    model: Detector, images: DecodedImages, good: GoodImages, folds: Sequence[Fold]
) -> dict[str, Calibration]:
    """Score every good image as if it had not been learned from, and set the thresholds.

    With `calibration.group` they are set on parts: a part has the highest score of its images.

    Args:
        model: finished.
        images: the good images of all categories.
        good: their names and groups.
        folds: all folds of these images, on the device of the model.

    Returns:
        Thresholds and range of colours of each category.
    """
    scores, peaks, levels = out_of_fold(model, images, good, folds)
    held_out, groups, settings = np.array(good.held_out), np.array(good.groups), model.config
    calibrations = {}
    for category, own in good.by_category().items():
        of_parts, of_peaks = (
            _highest(as_held_out(values[own], held_out[own]), groups[own]).tolist()
            for values in (scores, peaks)
        )
        views = np.unique(groups[own], return_counts=True)[1].tolist()
        calibrations[category] = calibrate(
            of_parts,
            of_peaks,
            float(levels[own].mean()),
            settings.calibration.false_alarms,
            digests=[images.digests[index] for index in own],
            views=[] if settings.calibration.group is None else views,
            profile=profile_of([images.measures[index] for index in own], settings.data.light),
        )
    return calibrations


def _highest(values: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Return the highest of the values [N] of each group [G], in the order of their numbers."""
    numbers = np.unique(groups, return_inverse=True)[1]
    highest = np.full(numbers.max() + 1, -np.inf)
    np.maximum.at(highest, numbers, values)
    return highest


@torch.inference_mode()
def score_drawn_defects(
    model: Detector, images: DecodedImages, good: GoodImages, folds: Sequence[Fold]
) -> dict[str, list[float]]:
    """Score defects drawn on good images, each without its fold; for arguments see above.

    They are of the kinds of `eval.py --synthetic`, on whole images or on one tile of an image: of
    those with most valid pixels the middle one. The images are those that training has held out,
    or a tenth of all where it holds none out.

    Returns:
        Scores of the drawn defects of each category.
    """
    scores: dict[str, list[float]] = {}
    for category, own in good.by_category().items():
        examined = np.intersect1d(good.examined, own)
        each = max(1, min(len(KINDS), DRAWN_DEFECTS // len(examined)))  # kinds on an image
        scores[category] = []
        for number, index in enumerate(examined[: DRAWN_DEFECTS // each].tolist()):
            grid, tiles = images.grids[index], images.tile_indices([index])
            valid = grid.valid_pixels(images.tiles[tiles])
            valid_share = valid.mean(axis=(1, 2))
            fullest = np.flatnonzero(valid_share == valid_share.max())
            chosen = fullest[len(fullest) // 2]
            tile, valid = images.tiles[tiles[chosen]], valid[chosen][None]
            fold, drawn = folds[good.folds[index]], []
            for kind in (list(KINDS) * 2)[number * each % len(KINDS) :][:each]:
                drawn.append(tile.copy())
                # Not on padding, which is no part of the image.
                drawn[-1][grid.target], _ = spoil(tile[grid.target], kind, (index,))
            with model.without(fold):
                batches = (to_batch(one[None], fold.device) for one in drawn)
                for anomaly_map, score in _tile_by_tile(model, batches):
                    reduce = model.config.score.reduce
                    found = valid_score(anomaly_map[None], (score,), valid, reduce)
                    scores[category].append(found)
    return scores


def looser_promise(
    calibrations: dict[str, Calibration], drawn: dict[str, list[float]], run: Path
) -> str | None:
    """Return a line for each category of whose drawn defects `LOOSER` finds more; None without any.

    Args:
        calibrations: of each category.
        drawn: scores of its drawn defects.
        run: folder of the run, for the command.
    """
    lines = []
    for category, one in calibrations.items():
        now, then = one.found(drawn[category]), one.found(drawn[category], LOOSER)
        if one.false_alarms < LOOSER and then > now:
            only = f" --category {quote(category)}" if len(calibrations) > 1 else ""
            lines.append(
                f"of defects drawn on {category} {now:.0%} are found; at {LOOSER:.0%} of false "
                f"alarms {then:.0%}: "
                f"python calibrate.py {quote(str(run))} --false-alarms {LOOSER}{only}"
            )
    return "\n".join(lines) or None


@torch.inference_mode()
def out_of_fold(
    model: Detector,
    images: DecodedImages,
    good: GoodImages,
    folds: Sequence[Fold],
    doing: str = "calibrating",
) -> np.ndarray:
    """Return out-of-fold scores of all good images, and peaks and levels of their maps: [3, N].

    See `calibrate_detector` for the arguments; `doing` is what the progress bar calls it.
    """
    model.eval()
    scores, peaks, levels = found = np.empty((3, len(images)))
    with tqdm(desc=doing, total=len(images), unit="image", disable=None) as bar:
        for fold, of_fold in zip(folds, good.by_fold(), strict=True):
            with model.without(fold):
                predictions = _tile_by_tile(model, fold.scored)
                for index in of_fold:
                    # Batches end where they are full: the tiles of an image may lie in two.
                    grid, tiles = images.grids[index], images.tiles[images.tile_indices([index])]
                    maps, of_tiles = zip(*islice(predictions, len(grid)), strict=True)
                    maps, valid = np.stack(maps), grid.valid_pixels(tiles)
                    reduce = model.config.score.reduce
                    scores[index] = valid_score(maps, of_tiles, valid, reduce)
                    values = grid.join(maps)[grid.join(valid)]
                    # The median as the level: a few odd pixels of a good part do not move it.
                    peaks[index], levels[index] = values.max(), np.median(values)
                    bar.update()
    return found


def _tile_by_tile(model: Detector, batches: Iterable[Tensor]) -> Iterator[tuple[np.ndarray, float]]:
    """Yield the map [h, w] and the score of each tile of batches, such as those of a fold."""
    for batch in batches:
        prediction = model(batch)
        maps = prediction.anomaly_map[:, 0].float().cpu().numpy()
        yield from zip(maps, prediction.score.tolist(), strict=True)


def as_held_out(values: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Move scores of images that a network was trained on to where those of held-out images lie.

    A network scores its training images a little lower than other good images. Both distributions
    have about the same shape, which many images show better than the few held-out ones; the
    held-out ones show median and deviation:

        moved = max(median, median_h) + (score - median) * max(1, deviation_h / deviation) ** w

    with the mean absolute deviation from the median, and w = n_h / (n_h + 10) for n_h held-out
    images. So training images never score higher than held-out ones. Fitted detectors hold
    none out, and their scores stay: `Detector.without` made them out-of-fold.

    Args:
        values: [N] scores or peaks.
        held_out: bool [N].
    """
    if not held_out.any() or held_out.all():
        return values
    trained, unseen = values[~held_out], values[held_out]
    median, unseen_median = np.median(trained), np.median(unseen)
    deviation, unseen_deviation = (np.abs(own - np.median(own)).mean() for own in (trained, unseen))
    weight = len(unseen) / (len(unseen) + PRIOR_HELD_OUT)
    # 1e-12: the scores of few training images may all be equal
    stretch = max(1.0, unseen_deviation / max(deviation, 1e-12)) ** weight
    moved = max(median, unseen_median) + (values - median) * stretch
    return np.where(held_out, values, moved)
