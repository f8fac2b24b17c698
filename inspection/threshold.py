"""The decision threshold, and how many good parts it will call defective.

A threshold at the highest score seen on good parts hangs on the luck of one image. Here the tail
above the bulk of the scores is modelled, and the threshold is the score that a chosen share of
future good parts will exceed. docs/verdict.md says how well that holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

POWER = 2 / 3
"""Of n scores the n ** POWER highest are the tail: 3 of 5, 12 of 40, 34 of 200, 100 of 1000."""

CAP = 3.0
"""Means of an exponential tail, above its start, beyond which a score counts no further: e**-3, a
twentieth of the tail, may lie there, or an outlier anywhere."""

PRIOR = 4.0
"""Scores' worth of trust in the scale of the tail before any is seen. Without it the doubt about
the scale would carry the threshold far off when there are but three or six scores in the tail."""

CONFIDENCE = 0.9
"""Probability that the true share of false alarms lies in the interval that is printed."""


class _Tail(NamedTuple):
    """The upper tail of scores: beyond `start` the excess falls off like an exponential's.

    Whatever scores follow, their excess over a high start is nearly generalised Pareto (Pickands,
    "Statistical inference using extreme order statistics", Annals of Statistics, 1975). The shape
    is taken for zero, an exponential: to estimate it takes far more scores than there are. Excesses
    are capped before they are averaged, so that an outlier weighs no more than any high score. That
    few scores tell little of the scale is part of the model: with a gamma posterior for the rate,
    a future excess follows a Pareto (Lomax) distribution, of shape `certainty`.

    Attributes:
        scores: all scores, ascending.
        start: where the tail starts.
        share: of the scores that lie above it.
        scale: mean excess above the start.
        certainty: number of independent scores that the scale rests upon.
    """

    scores: np.ndarray
    start: float
    share: float
    scale: float
    certainty: float

    @classmethod
    def fit(cls, scores: list[float], independent: int) -> _Tail:
        ordered = np.sort(np.asarray(scores, dtype=float))
        n = len(ordered)
        count = min(round(n**POWER), n - 1)
        start = ordered[n - 1 - count]
        excess = ordered[n - count :] - start
        scale = 0.0
        if count:
            mean = np.median(excess) / math.log(2)  # of an exponential that has this median
            capped = np.minimum(excess, CAP * mean or np.inf)  # 0: most scores are equal
            scale = capped.mean() / (1 - math.exp(-CAP))  # what an exponential loses to the cap
        certainty = count * independent / n + PRIOR
        return cls(ordered, float(start), count / n, float(scale), certainty)

    def threshold(self, share: float) -> float:
        """The score that this share of future good parts exceeds."""
        if share >= self.share:
            return float(np.quantile(self.scores, 1 - share))
        reach = (self.share / share) ** (1 / self.certainty) - 1
        return self.start + self.scale * self.certainty * reach

    def above(self, threshold: float) -> float:
        """The share of future good parts that exceeds a score; the inverse of `threshold`."""
        if threshold < self.start:
            return float((self.scores > threshold).mean())
        if not self.scale:
            return 0.0 if threshold > self.start else self.share
        reach = (threshold - self.start) / (self.scale * self.certainty)
        return float(self.share * (1 + reach) ** -self.certainty)


@dataclass
class Calibration:
    """What good parts, none of which it had learned from, say of a trained detector.

    Attributes:
        threshold: an image whose score is higher is called defective.
        median: median score of good parts.
        pixel_threshold: the highest pixel of the anomaly map exceeds it in a share of
            `false_alarms` of good parts; a pixel that is higher is marked as defective.
        low: value of the anomaly map at the cold end of the heatmap's colours: its level on good
            parts.
        high: value at the hot end; `pixel_threshold` lies in the middle.
        false_alarms: share of good parts that the threshold is expected to call defective.
        scores: score of every good image, as if it had not been learned from.
        peaks: highest pixel of each of their maps, in the same order.
        independent: how many of them are independent; several images of one part count once.
        by_hand: whether a person has set the threshold.
        digests: `pixel_digest` of each image, by which it is known again.
    """

    threshold: float
    median: float
    pixel_threshold: float
    low: float
    high: float
    false_alarms: float
    scores: list[float]
    peaks: list[float]
    independent: int
    by_hand: bool = False
    digests: list[str] = field(default_factory=list)

    def is_defect(self, score: float) -> bool:
        """Whether an image of this score is called defective."""
        return score > self.threshold

    def verdict(self, score: float) -> str:
        """The verdict on an image of this score, as results say it: good or defect."""
        return "defect" if self.is_defect(score) else "good"

    def severity(self, score: float) -> float:
        """The score on a scale of its own: 0 is the median of good parts, 1 the threshold.

        It rises with the score even if a person has set the threshold below the median.
        """
        return 1 + (score - self.threshold) / max(abs(self.threshold - self.median), 1e-12)

    def promise(self, category: str) -> str:
        """The threshold of a category and the share of good parts it will call defective, in words.

        The interval is that of the share which lies above a score of a known rank among n, a beta
        distribution whatever the scores are like (Wilks, "Determination of sample sizes for setting
        tolerance limits", 1941). Its upper end is at least what no false alarm among n allows for.
        """
        from scipy.special import betaincinv  # late: a verdict need not wait for it

        n, share = self.independent, self.false_alarms
        rank, one = n * share, max(1.0, n * share)
        low = betaincinv(max(rank, 1e-9), n - rank + 1, (1 - CONFIDENCE) / 2)
        high = betaincinv(one, n - one + 1, (1 + CONFIDENCE) / 2)
        images = f"{len(self.scores)} good image{'s' if len(self.scores) > 1 else ''}"
        if n < len(self.scores):
            images += f", {n} of them independent"
        by_hand = ", set by hand" if self.by_hand else ""
        text = (
            f"threshold of {category} {self.threshold:.4g}{by_hand}: "
            f"about {_percent(share)}% of good parts will be called defective ({_percent(low)} to "
            f"{_percent(max(high, share))}%, from {images})"
        )
        if rank >= 1:
            return text
        if self.by_hand:
            return f"{text}; too few to tell less than {_percent(1 / n)}%"
        return f"{text}; too few to promise that, which takes {math.ceil(1 / share - 1e-9)}"

    def mapped(
        self, score: Callable[[float], float], pixel: Callable[[float], float]
    ) -> Calibration:
        """The same for scores and for maps that are increasing functions of these."""
        return replace(
            self,
            threshold=float(score(self.threshold)),
            median=float(score(self.median)),
            pixel_threshold=float(pixel(self.pixel_threshold)),
            low=float(pixel(self.low)),
            high=float(pixel(self.high)),
            scores=[float(score(value)) for value in self.scores],
            peaks=[float(pixel(value)) for value in self.peaks],
        )

    def with_false_alarms(self, false_alarms: float) -> Calibration:
        """The same scores with thresholds that call another share of good parts defective."""
        return calibrate(
            self.scores, self.peaks, self.low, false_alarms, self.independent, self.digests
        )

    def with_scores(
        self, scores: list[float], peaks: list[float], digests: list[str]
    ) -> Calibration:
        """The same with those of further good images; a threshold set by hand stays."""
        more = replace(
            self,
            scores=self.scores + scores,
            peaks=self.peaks + peaks,
            digests=self.digests + digests,
            independent=self.independent + len(scores),
        )
        if self.by_hand:
            return more.with_threshold(self.threshold)
        return more.with_false_alarms(self.false_alarms)

    def finding_all(self, defects: list[float]) -> Calibration:
        """The same with a threshold below the lowest score of known defects.

        It lies half-way to the highest score of a good image below that, if there is any.
        """
        lowest = min(defects)
        below = [score for score in self.scores if score < lowest]
        return self.with_threshold(
            (lowest + max(below)) / 2 if below else float(np.nextafter(lowest, -np.inf))
        )

    def with_threshold(self, threshold: float) -> Calibration:
        """The same with a threshold set by hand, and the share of false alarms that it implies."""
        share = _Tail.fit(self.scores, self.independent).above(threshold)
        return replace(self, threshold=threshold, false_alarms=share, by_hand=True)


def calibrate(
    scores: list[float],
    peaks: list[float],
    level: float,
    false_alarms: float,
    independent: int | None = None,
    digests: Sequence[str] = (),
) -> Calibration:
    """Set the thresholds so that a share of `false_alarms` of future good parts exceeds them.

    A few hundred good images can promise 2%, the default of the settings; one in n is the least
    that n of them can. The pixel threshold takes each image by its highest pixel, so the same share
    of good images has any marked pixel at all.

    Args:
        scores: of good images, of any sign and scale; one at least, better some dozens.
        peaks: highest pixels of their maps.
        level: of the anomaly map on good parts: the cold end of the heatmap's colours.
        false_alarms: share in (0, 0.5).
        independent: how many of the images are independent; None: all of them.
        digests: `pixel_digest` of each image.
    """
    independent = len(scores) if independent is None else independent
    threshold, pixel_threshold = (
        _Tail.fit(values, independent).threshold(false_alarms) for values in (scores, peaks)
    )
    return Calibration(
        threshold=threshold,
        median=float(np.median(scores)),
        pixel_threshold=pixel_threshold,
        low=level,
        high=level + 2 * (pixel_threshold - level),
        false_alarms=false_alarms,
        scores=scores,
        peaks=peaks,
        independent=independent,
        digests=list(digests),
    )


def promises(calibrations: dict[str, Calibration]) -> str:
    """Return what is promised of each category, a line each."""
    return "\n".join(one.promise(category) for category, one in calibrations.items())


def dropped(calibrations: dict[str, Calibration], why: str) -> str | None:
    """A line on the thresholds set by a person that are about to go; None if there are none."""
    by_hand = [
        f"of {category} {one.threshold:.4g}"
        for category, one in calibrations.items()
        if one.by_hand
    ]
    return f"threshold {', '.join(by_hand)}, set by hand, is dropped: {why}" if by_hand else None


def _percent(share: float) -> str:
    """A share as a number of per cent: 0.02 -> 2, 0.005 -> 0.5, 0.0004 -> 0.04, 0.183 -> 18."""
    value = 100 * share
    return f"{round(value, 0 if value >= 10 else 1 if value >= 0.1 else 2):g}"
