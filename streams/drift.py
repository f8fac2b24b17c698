"""Drift: a test if the scores of good parts are still those of the calibration."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

WINDOW = 200  # good verdicts that are compared at a time
P_DRIFT = 1e-3  # p-value below which good parts have drifted
P_RETURN = 0.05  # p-value above which they are back


class Change(NamedTuple):
    """Good parts have drifted from those of the calibration, or are back."""

    away: bool  # False if they are back
    p: float  # of the test
    median: float  # severity of the last good parts
    expected: float  # median severity of those of the calibration


class Drift:
    """Compares severities of good verdicts with those of the calibration, a window at a time.

    A two-sample Kolmogorov-Smirnov test of each `WINDOW` good verdicts; windows do not overlap. If
    nothing has changed and the frames are independent (each shows another part), the share of
    false alarms among windows is `P_DRIFT`.

    Args:
        severities: of those good images of the calibration that are called good.
        independent: number of independent images among them, at most.
    """

    def __init__(self, severities: Sequence[float], independent: int) -> None:
        self.reference = np.sort(severities)
        self.independent = min(independent, len(severities))
        self.window: list[float] = []
        self.away = False

    def add(self, severity: float) -> Change | None:
        """Add a good verdict; returns the change that the window it completes shows, if any."""
        if not self.independent:
            return None
        self.window.append(severity)
        if len(self.window) < WINDOW:
            return None
        window, self.window = np.sort(self.window), []
        p = kolmogorov_smirnov(self.reference, window, self.independent)
        if not (p >= P_RETURN if self.away else p < P_DRIFT):
            return None
        self.away = not self.away
        return Change(self.away, p, float(np.median(window)), float(np.median(self.reference)))


def kolmogorov_smirnov(first: np.ndarray, second: np.ndarray, independent: int) -> float:
    """Return the p-value of the two-sample Kolmogorov-Smirnov test, by its asymptotic formula.

    Args:
        first: values [n], ascending.
        second: values [m], ascending, all independent.
        independent: number of independent ones among the first.
    """
    from scipy.special import kolmogorov  # late: the first verdict does not need it

    values = np.concatenate([first, second])
    first_share, second_share = (
        np.searchsorted(sample, values, side="right") / len(sample) for sample in (first, second)
    )
    distance = np.abs(first_share - second_share).max()
    # n m / (n + m), with the correction for small samples of Stephens (1970)
    root = np.sqrt(independent * len(second) / (independent + len(second)))
    return float(kolmogorov((root + 0.12 + 0.11 / root) * distance))
