"""The line of scores that the slider and the histogram share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from inspection.threshold import Calibration

BINS = 40
COLOURS = {"good": "#22a06b", "good, called defective": "#e5484d", "this image": "#3b82f6"}
"""Of the histogram's bars."""


@dataclass
class Scale:
    """Where the thresholds to try lie for a run of this calibration."""

    calibration: Calibration

    def __post_init__(self) -> None:
        values = [self.calibration.threshold, *self.calibration.scores]
        self.low, self.high = min(values), max(values)
        self.spread = self.high - self.low or abs(self.high) or 1.0
        # Decimals that a threshold is tried at: about two of the spread of good images.
        self.digits = 2 - math.floor(math.log10(self.spread))

    @property
    def own(self) -> float:
        """The run's threshold as the slider shows it."""
        return round(self.calibration.threshold, self.digits)

    def at(self, value: float) -> Calibration:
        """The calibration at the slider's threshold.

        The slider shows few decimals: where it shows the run's own threshold, that is meant.
        """
        is_own = round(value, self.digits) == self.own
        return self.calibration if is_own else self.calibration.with_threshold(value)

    def span(self, seen: Sequence[float] = ()) -> tuple[float, float]:
        """Both ends: good images on the left, room for defects, and for all scores seen."""
        low, high = self.low - self.spread / 4, self.high + self.spread
        room = (high - low) / 20
        low = min([low, *(score - room for score in seen)])
        high = max([high, *(score + room for score in seen)])
        return round(low, self.digits), round(high, self.digits)

    def slider(self, seen: Sequence[float] = ()) -> dict[str, float]:
        """Range and step of the slider, once these scores have been seen."""
        low, high = self.span(seen)
        return {"minimum": low, "maximum": high, "step": 10**-self.digits}


def effect(calibration: Calibration, is_own: bool) -> str:
    """What a threshold, the run's own or one on trial, does to the good images."""
    called = sum(map(calibration.is_defect, calibration.scores))
    own = "Threshold set by hand" if calibration.by_hand else "Calibrated threshold"
    return (
        f"{own if is_own else 'Threshold on trial'} {calibration.threshold:.4g}: {called} of "
        f"{len(calibration.scores)} good images would be called defective"
    )


def bars(calibration: Calibration, score: float | None) -> pd.DataFrame:
    """Each good image, and the one that is shown, for a histogram: score, images and kind.

    A row of no images for every kind keeps the legend as it is: it is drawn once.
    """
    good, defect, this = COLOURS
    rows = [(calibration.threshold, 0, kind) for kind in COLOURS]
    for value in calibration.scores:
        rows.append((value, 1, defect if calibration.is_defect(value) else good))
    if score is not None:
        rows.append((score, 1, this))
    return pd.DataFrame(rows, columns=["score", "images", "kind"])
