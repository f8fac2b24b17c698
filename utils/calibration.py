"""Decision threshold and heatmap range, set on held-out good images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np


@dataclass
class Calibration:
    """What the held-out good images say of a trained detector.

    Attributes:
        threshold: an image whose score is higher is called defective.
        pixel_threshold: a pixel of the anomaly map that is higher is marked as defective.
        low: value of the anomaly map at the cold end of the heatmap's colours.
        high: value at the hot end; `pixel_threshold` lies in the middle.
        scores: scores of the held-out good images, ascending.
    """

    threshold: float
    pixel_threshold: float
    low: float
    high: float
    scores: list[float]

    def mapped(
        self, score: Callable[[float], float], pixel: Callable[[float], float]
    ) -> Calibration:
        """The same for scores and for maps that are increasing functions of these."""
        return replace(
            self,
            threshold=float(score(self.threshold)),
            pixel_threshold=float(pixel(self.pixel_threshold)),
            low=float(pixel(self.low)),
            high=float(pixel(self.high)),
            scores=[float(score(value)) for value in self.scores],
        )

    def is_defect(self, score: float) -> bool:
        """Whether an image of this score is called defective."""
        return score > self.threshold

    def verdict(self, score: float) -> str:
        """The verdict on an image of this score, as results say it: good or defect."""
        return "defect" if self.is_defect(score) else "good"


def calibrate(
    scores: list[float],
    peaks: list[float],
    level: float,
    false_alarms: float,
    independent: int | None = None,
) -> Calibration:
    """Temporary."""
    threshold, pixel_threshold = (
        float(np.quantile(values, 1 - false_alarms, method="higher")) for values in (scores, peaks)
    )
    return Calibration(
        threshold, pixel_threshold, level, level + 2 * (pixel_threshold - level), scores
    )
