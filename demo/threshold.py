"""The threshold that a visitor tries: its slider, the histogram of good images, the verdicts."""

import math
from collections.abc import Iterable
from typing import NamedTuple

import pandas as pd

from inspection.threshold import Calibration

BINS = 40
COLUMNS = ["name", "score", "severity", "verdict", "threshold", "error"]
# Of the histogram's bars.
COLOURS = {"good": "#22a06b", "good, called defective": "#e5484d", "this image": "#3b82f6"}


class Scale:
    """Range and decimals of the thresholds to try, for the calibration of a run.

    Attributes:
        calibration: that of the run.
        own: its threshold as the slider shows it.
    """

    def __init__(self, calibration: Calibration) -> None:
        self.calibration = calibration
        values = [calibration.threshold, *calibration.scores]
        self.low, self.high = min(values), max(values)
        self.range = self.high - self.low or abs(self.high) or 1.0
        # Two significant digits of the range of good images: finer steps change no verdict.
        self.digits = 2 - math.floor(math.log10(self.range))
        self.own = round(calibration.threshold, self.digits)

    def at(self, threshold: float) -> Calibration:
        """Return the calibration at a threshold of the slider."""
        # The slider rounds: where it shows the run's own threshold, the exact one is meant.
        is_own = round(threshold, self.digits) == self.own
        return self.calibration if is_own else self.calibration.with_threshold(threshold)

    def limits(self, scores: Iterable[float | None] = ()) -> tuple[float, float]:
        """Return both ends of the slider and the histogram, wide enough for these scores too."""
        scores = [score for score in scores if score is not None]
        low, high = self.low - self.range / 4, self.high + self.range
        margin = (high - low) / 20
        low = min([low, *(score - margin for score in scores)])
        high = max([high, *(score + margin for score in scores)])
        return round(low, self.digits), round(high, self.digits)

    def slider(self, scores: Iterable[float | None] = ()) -> dict[str, float]:
        """Return the range and the step of the slider; `limits` explains the scores."""
        low, high = self.limits(scores)
        return {"minimum": low, "maximum": high, "step": 10**-self.digits}


def effect(calibration: Calibration, is_own: bool) -> str:
    """Describe how many good images a threshold, the run's own or one on trial, calls defective."""
    alarms = sum(map(calibration.is_defect, calibration.scores))
    own = "Threshold set by hand" if calibration.by_hand else "Calibrated threshold"
    what = "parts" if calibration.views else "images"
    return (
        f"{own if is_own else 'Threshold on trial'} {calibration.threshold:.4g}: {alarms} of "
        f"{len(calibration.scores)} good {what} would be called defective"
    )


def histogram(calibration: Calibration, score: float | None) -> pd.DataFrame:
    """Return score, images and kind of each good image, and of the one that is shown."""
    good, alarm, shown = COLOURS
    # The plot draws its legend once, of the kinds that it finds then: so each has a row.
    rows = [(calibration.threshold, 0, kind) for kind in COLOURS]
    rows += [(s, 1, alarm if calibration.is_defect(s) else good) for s in calibration.scores]
    if score is not None:
        rows.append((score, 1, shown))
    return pd.DataFrame(rows, columns=["score", "images", "kind"])


def describe(calibration: Calibration, score: float) -> str:
    """Describe the verdict on an image of this score."""
    relation = "above" if calibration.is_defect(score) else "not above"
    return (
        f"{calibration.verdict(score)}: score {score:.4g}, {relation} the threshold "
        f"{calibration.threshold:.4g}; severity {calibration.severity(score):.3g}"
    )


class Result(NamedTuple):
    """One of many images: its name, its score or the error in place of it, and its part's name."""

    name: str
    score: float | None
    error: str = ""
    part: str = ""


def verdicts(results: list[Result], calibration: Calibration) -> pd.DataFrame:
    """Return the table of many images; those that failed have empty cells.

    Where the threshold is of parts, it has their names and the verdicts on them, too.
    """
    rows = []
    for name, score, error, _ in results:
        found = [None, ""]
        if score is not None:
            found = [calibration.severity(score), calibration.verdict(score)]
        rows.append([name, score, *found, calibration.threshold, error])
    table = pd.DataFrame(rows, columns=COLUMNS)
    if calibration.views:
        table["part"] = [result.part for result in results]
        highest = table["score"].astype(float).groupby(table["part"]).transform("max")
        table["part verdict"] = ["" if s != s else calibration.verdict(s) for s in highest]
    return table
