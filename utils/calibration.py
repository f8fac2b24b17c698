"""Decision threshold and heatmap range, set on held-out good images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # an exported detector gives its verdicts without torch
    from torch import Tensor


@dataclass
class Calibration:
    """What the held-out good images say of a trained detector.

    Attributes:
        threshold: an image whose score is higher is called defective.
        pixel_threshold: a pixel of the anomaly map that is higher is marked as defective.
        low: value of the anomaly map at the cold end of the heatmap's colours.
        high: value at the hot end; `pixel_threshold` lies in the middle.
        scores: scores of the held-out good images, ascending.
        middle: median of the scores.
        by_hand: whether a person set the threshold.
    """

    threshold: float
    pixel_threshold: float
    low: float
    high: float
    scores: list[float]
    middle: float = 0.0
    false_alarms: float = 0.02
    peaks: list[float] = field(default_factory=list)
    independent: int = 0
    by_hand: bool = False

    def is_defect(self, score: float) -> bool:
        """Whether an image of this score is called defective."""
        return score > self.threshold

    def verdict(self, score: float) -> str:
        """The verdict on an image of this score, as results say it: good or defect."""
        return "defect" if self.is_defect(score) else "good"

    def severity(self, score: float) -> float:
        """How strange an image of this score is: 0 the middle of good parts, 1 the threshold."""
        return 1 + (score - self.threshold) / max(abs(self.threshold - self.middle), 1e-12)

    def at(self, threshold: float) -> Calibration:
        """The same with a threshold that a person has set."""
        return replace(self, threshold=threshold, by_hand=True)


def calibrate(predictions: Iterable[tuple[Tensor, Tensor]], quantile: float) -> Calibration:
    """Set the thresholds so that a share of `quantile` of the good images stays at or below them.

    The pixel threshold takes each image by its highest pixel, so the same share of good images has
    no marked pixel at all. With n images a quantile beyond 1 - 1/n means the highest of the n.

    Args:
        predictions: anomaly maps [B, 1, H, W] and scores [B] of the held-out good images.
        quantile: share in (0, 1].
    """
    scores, peaks, medians = [], [], []
    for anomaly_map, score in predictions:
        pixels = anomaly_map.flatten(1)
        scores += score.tolist()
        peaks += pixels.amax(dim=1).tolist()
        medians += pixels.median(dim=1).values.tolist()
    threshold, pixel_threshold = (
        float(np.quantile(values, quantile, method="higher")) for values in (scores, peaks)
    )
    low = float(np.mean(medians))
    return Calibration(
        threshold,
        pixel_threshold,
        low,
        low + 2 * (pixel_threshold - low),
        sorted(scores),
        float(np.median(scores)),
    )
