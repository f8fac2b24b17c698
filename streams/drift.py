"""Whether good parts still look as they did when the detector was calibrated."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WINDOW = 200  # good verdicts that are compared at a time
ALARM = 1e-3  # p below which they have moved
BACK = 0.05  # p above which they are back


class Moved(NamedTuple):
    """The good parts have moved away from those of the calibration, or are back."""

    away: bool  # False if they are back
    p: float  # of the test
    median: float  # severity that half of the last good parts stay below
    expected: float  # and half of those of the calibration


class Drift:
    """Compares severities of good verdicts with those of the calibration, a window at a time.

    A two-sample Kolmogorov-Smirnov test of each `WINDOW` good verdicts, none of which is in two
    windows. If nothing has changed and the frames are independent, parts of their own and not
    views of one, the false alarms are one in WINDOW / ALARM = 200,000 good frames at most, on
    average over calibrations. A lasting change is told after two windows at most.

    Args:
        severities: of those good images of the calibration that are called good, too.
        independent: at most so many of these images are independent.
    """

    def __init__(self, severities: Sequence[float], independent: int) -> None:
        self.reference = np.sort(severities)
        self.count = min(independent, len(severities))
        self.window: list[float] = []
        self.away = False

    def add(self, severity: float) -> Moved | None:
        """Take in a good verdict; returns what has changed with it, if anything."""
        self.window.append(severity)
        if len(self.window) < WINDOW or not self.count:
            self.window = self.window[-WINDOW:]
            return None
        window, self.window = np.sort(self.window), []
        p = kolmogorov_smirnov(self.reference, window, self.count)
        if not (p >= BACK if self.away else p < ALARM):
            return None
        self.away = not self.away
        return Moved(self.away, p, float(np.median(window)), float(np.median(self.reference)))


def kolmogorov_smirnov(first: np.ndarray, second: np.ndarray, count: int) -> float:
    """The p of the two-sample Kolmogorov-Smirnov test, by its limit for large samples.

    Args:
        first: values [n], ascending.
        second: values [m], ascending.
        count: how many of the first are independent.
    """
    from scipy.special import kolmogorov  # late: the first verdict need not wait for it

    values = np.concatenate([first, second])
    shares = [np.searchsorted(some, values, side="right") / len(some) for some in (first, second)]
    root = np.sqrt(count * len(second) / (count + len(second)))
    # The correction for small samples is that of Stephens (1970).
    return float(kolmogorov((root + 0.12 + 0.11 / root) * np.abs(shares[0] - shares[1]).max()))
