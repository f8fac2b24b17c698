"""Setting a detector's verdict on good images, each scored as if it had not been learned from."""

from collections.abc import Iterator
from itertools import islice

import numpy as np
import torch
from tqdm import tqdm

from data.cache import DecodedImages
from data.good_images import Fold, GoodImages, in_folds
from inspection.inspector import valid_score
from inspection.threshold import Calibration, calibrate
from inspection.torch_inspector import pick_inference_batch
from models.detector import Detector

DOUBT = 10  # held-out images that must speak for another spread of the scores to be believed half


@torch.inference_mode()
def calibrate_detector(
    model: Detector,
    images: DecodedImages,
    good: GoodImages,
    device: torch.device,
    former: dict[str, Calibration] | None = None,
) -> dict[str, Calibration]:
    """Thresholds and range of colours of each part, from all its good images that a run knows.

    Args:
        model: finished, on the device; its scale is set too, if it has one.
        images: the good images.
        good: what each of them is for.
        device: that of the model.
        former: gives the scores of images that are gone, those without tiles: as they were before
            others were added, which is a little too high if anything.
    """
    model.eval()
    folds = in_folds(images, good, pick_inference_batch("auto", model, device), device)
    config, of_fold = model.config, good.by_fold()
    scores, peaks, levels = np.empty((3, len(images)))
    there = np.array([len(grid) > 0 for grid in images.grids])
    for part, own in good.by_category().items():
        for number in np.flatnonzero(~there[own]):
            was, place = former[part], own[number]
            scores[place], peaks[place] = was.scores[number], was.peaks[number]
            levels[place] = was.low
    with tqdm(desc="calibrating", total=len(images), unit="image", disable=None) as bar:
        for number in model.leaving_out(folds):
            found = _tile_by_tile(model, folds[number])
            for place in of_fold[number][there[of_fold[number]]]:
                grid, tiles = images.grids[place], images.tiles[images.places([place])]
                maps, of_tiles = zip(*islice(found, len(grid)), strict=True)
                maps, valid = np.stack(maps), grid.valid_pixels(tiles)
                scores[place] = valid_score(maps, of_tiles, valid, config.score.reduce)
                values = grid.join(maps)[grid.join(valid)]
                peaks[place], levels[place] = values.max(), np.median(values)
                bar.update()
    held_out = np.array(good.held_out)
    groups = np.array(good.groups)
    return {
        part: calibrate(
            as_unseen(scores[own], held_out[own]).tolist(),
            as_unseen(peaks[own], held_out[own]).tolist(),
            float(levels[own].mean()),
            config.calibration.false_alarms,
            independent=len(np.unique(groups[own])),
            digests=[images.digests[place] for place in own],
        )
        for part, own in good.by_category().items()
    }


def _tile_by_tile(model: Detector, fold: Fold) -> Iterator[tuple[np.ndarray, float]]:
    """Map [h, w] and score of each tile of a fold."""
    for batch in fold:
        prediction = model(batch)
        maps = prediction.anomaly_map[:, 0].float().cpu().numpy()
        yield from zip(maps, prediction.score.tolist(), strict=True)


def as_unseen(values: np.ndarray, held_out: np.ndarray) -> np.ndarray:
    """Scores of good images, those that a network was trained on moved to where unseen ones lie.

    A network finds what it was trained on a little less strange than other good parts. Their
    distribution has the same shape, which many images tell better than the few held-out ones; where
    it lies and how wide it is, those tell. What a network was trained on is never the stranger.

    Args:
        values: [N] scores or peaks.
        held_out: bool [N].
    """
    if not held_out.any() or held_out.all():
        return values
    seen, unseen = values[~held_out], values[held_out]
    middle, unseen_middle = np.median(seen), np.median(unseen)
    spread, unseen_spread = (np.abs(part - np.median(part)).mean() for part in (seen, unseen))
    belief = len(unseen) / (len(unseen) + DOUBT)
    stretch = max(1.0, unseen_spread / max(spread, 1e-12)) ** belief
    moved = max(middle, unseen_middle) + (values - middle) * stretch
    return np.where(held_out, values, moved)
