"""Decision threshold, and the share of good parts that it will call defective.

The highest score seen on good images is no threshold: it depends on the luck of one image. Here the
upper tail of the scores is modelled, and the threshold is the score that a chosen share of future
good images will exceed. docs/verdict.md shows how well that holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from statistics import mode
from typing import Literal, NamedTuple

import numpy as np

from data.input_profile import Profile

# Of n scores the n ** (2/3) highest are the tail: 3 of 5, 12 of 40, 34 of 200, 100 of 1000.
TAIL_POWER = 2 / 3

# Excesses are capped at this many means of an exponential tail, so that an outlier weighs no more
# than any high score. Beyond it lies a share exp(-3), a twentieth, of such a tail.
MAX_EXCESS = 3.0

# Weight of the prior on the scale of the tail, in scores. Without it the threshold of a tail of
# three to six scores would lie far too high, for so few determine a scale badly.
PRIOR_SCORES = 4.0

# Above this quantile any score may be a defect's: the tail that suspects are told by ignores how
# far out these lie.
CENSORED = 0.75

# Share of sets of good images alone in which any image is a suspect.
SUSPICION = 0.1

# Probability that the true share of false alarms lies in the interval that is printed.
CONFIDENCE = 0.9

# The share that `calibration.false_alarms: auto` promises: so large that two of the good images are
# expected above the threshold, within these bounds. A smaller share of few images lies far beyond
# the highest score, and all doubt about it is paid for in defects that are missed; docs/verdict.md.
AUTO_IMAGES, MIN_AUTO_SHARE, MAX_AUTO_SHARE = 2, 0.02, 0.05


class _Tail(NamedTuple):
    """Model of the upper tail: P(score > start + x) = share * (1 + x / (scale * shape)) ** -shape.

    Beyond a high start the excess of any distribution is nearly generalised Pareto (Pickands,
    Annals of Statistics, 1975). Its own shape is set to that of an exponential, since estimating it
    takes far more scores than there are. The uncertainty of the scale is part of the model: a gamma
    posterior of the exponential's rate makes a future excess Pareto (Lomax) distributed.

    Attributes:
        scores: all scores, ascending.
        start: where the tail starts.
        share: of the scores that lie above it.
        scale: mean excess above the start.
        shape: number of independent scores behind the scale; infinite would be an exponential.
    """

    scores: np.ndarray
    start: float
    share: float
    scale: float
    shape: float

    @classmethod
    def fit(cls, scores: list[float], independent: int) -> _Tail:
        """Fit the tail to scores, of which so many are independent of one another."""
        ordered = np.sort(np.asarray(scores, dtype=float))
        n = len(ordered)
        count = min(round(n**TAIL_POWER), n - 1)  # n - 1: the tail starts at a score
        start = ordered[n - 1 - count]
        excess = ordered[n - count :] - start
        scale = 0.0
        if count:
            # Mean of the exponential that has this median: an outlier does not move it.
            mean = np.median(excess) / math.log(2)
            capped = np.minimum(excess, MAX_EXCESS * mean or np.inf)  # 0: most scores are equal
            # E[min(x, c m)] = m (1 - exp(-c)) for an exponential of mean m.
            scale = capped.mean() / (1 - math.exp(-MAX_EXCESS))
        shape = count * independent / n + PRIOR_SCORES
        return cls(ordered, float(start), count / n, float(scale), shape)

    @classmethod
    def fit_censored(cls, scores: np.ndarray, independent: float) -> _Tail:
        """Fit the tail above the median to the scores up to the quantile `CENSORED` alone.

        Those above count as no lower than it, whatever they are (type II censoring; Epstein and
        Sobel, "Life testing", Journal of the American Statistical Association, 1953).
        """
        ordered = np.sort(scores)
        n, below = len(ordered), len(ordered) // 2
        last = math.ceil(CENSORED * n)
        start = ordered[max(below - 1, 0)]
        excess = ordered[below:last] - start
        # scale = (sum of the excesses + number of the censored * highest excess) / count
        scale = (excess.sum() + (n - last) * excess[-1]) / len(excess)
        shape = len(excess) * independent / n
        return cls(ordered, float(start), (n - below) / n, float(scale), shape)

    def threshold(self, share: float) -> float:
        """Return the score that this share of future good images exceeds."""
        if share >= self.share:  # below the tail: the scores themselves
            return float(np.quantile(self.scores, 1 - share))
        return self.start + self.scale * self.shape * ((self.share / share) ** (1 / self.shape) - 1)

    def above(self, threshold: float) -> float:
        """Return the share of future good images above a score; the inverse of `threshold`."""
        if threshold < self.start:
            return float((self.scores > threshold).mean())
        if not self.scale:
            return 0.0 if threshold > self.start else self.share
        # share * (1 + (threshold - start) / (scale * shape)) ** -shape
        reach = (threshold - self.start) / (self.scale * self.shape)
        return float(self.share * (1 + reach) ** -self.shape)


@dataclass
class Calibration:
    """Thresholds and range of colours of one category, from out-of-fold scores of good images.

    Attributes:
        threshold: an image whose score is higher is called defective.
        median: median score of good images.
        pixel_threshold: the highest pixel of the anomaly map exceeds it in a share of
            `false_alarms` of good images; a pixel that is higher is marked as defective.
        low: value of the anomaly map at the cold end of the heatmap's colours: its level on good
            images.
        high: value at the hot end; `pixel_threshold` lies half-way.
        false_alarms: share of good images that the threshold is expected to call defective.
        scores: out-of-fold score of every good image, or of every good part: that of its images
            that is highest. A part is defective if one of its images is, so the threshold holds for
            the images.
        peaks: highest pixel of each of their maps, in the same order.
        independent: number of independent scores.
        by_hand: whether a person has set the threshold.
        auto: whether `false_alarms` follows from the number of images; see `auto_share`.
        digests: `pixel_digest` of each image, by which it is known again.
        profile: of the good images, see `data.input_profile`; empty in runs that lack it.
        views: number of images of each part; empty where images count by themselves.
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
    auto: bool = False
    digests: list[str] = field(default_factory=list)
    profile: Profile = field(default_factory=dict)
    views: list[int] = field(default_factory=list)

    @property
    def usual_views(self) -> int:
        """Most common number of images of a part."""
        return mode(self.views or [1])

    @property
    def most_views(self) -> int:
        """Number of images of the part that has most."""
        return max(self.views, default=1)

    def is_defect(self, score: float) -> bool:
        """Return whether an image of this score is called defective."""
        return score > self.threshold

    def verdict(self, score: float) -> str:
        """Return the verdict on an image of this score: good or defect."""
        return "defect" if self.is_defect(score) else "good"

    def severity(self, score: float) -> float:
        """Return 1 + (score - threshold) / |threshold - median|: 0 is the median, 1 the threshold.

        It rises with the score even if a person has set the threshold below the median.
        """
        return 1 + (score - self.threshold) / max(abs(self.threshold - self.median), 1e-12)

    def promise(self, category: str) -> str:
        """Return a line with the threshold and the share of good parts it will call defective.

        The interval is that of the share above a score of a known rank among n, which is beta
        distributed whatever the scores are (Wilks, "Determination of sample sizes for setting
        tolerance limits", 1941). Its upper end is at least that of no false alarm among n.
        """
        from scipy.special import betaincinv  # late: verdicts do not need it

        n, share = self.independent, self.false_alarms
        # The share above the k-th highest of n scores is Beta(k, n - k + 1) distributed.
        rank, least = n * share, max(1.0, n * share)
        low = betaincinv(max(rank, 1e-9), n - rank + 1, (1 - CONFIDENCE) / 2)
        high = betaincinv(least, n - least + 1, (1 + CONFIDENCE) / 2)
        count = sum(self.views) or len(self.scores)
        images = f"{count} good image{'s' if count > 1 else ''}"
        if self.views:
            images = f"{len(self.scores)} parts, {images}"
        elif n < len(self.scores):
            images += f", {n} of them independent"
        by_hand = ", set by hand" if self.by_hand else ""
        text = (
            f"threshold of {category} {self.threshold:.4g}{by_hand}: about {_percent(share)}% of "
            f"good parts will be called defective ({_percent(low)} to "
            f"{_percent(max(high, share))}%, from {images})"
        )
        if rank >= 1:
            enough, what = round(AUTO_IMAGES / MIN_AUTO_SHARE), "parts" if self.views else "images"
            more = f"; {enough} {what} promise {_percent(MIN_AUTO_SHARE)}%"
            return f"{text}{more}" if self.auto and not self.by_hand and n < enough else text
        if self.by_hand:
            return f"{text}; too few to tell less than {_percent(1 / n)}%"
        # - 1e-9: rounding must not ask for one image more
        return f"{text}; too few to promise that, which takes {math.ceil(1 / share - 1e-9)}"

    def mapped(
        self, score: Callable[[float], float], pixel: Callable[[float], float]
    ) -> Calibration:
        """Return the calibration for scores and maps that are increasing functions of these."""
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

    def with_false_alarms(self, share: float | Literal["auto"]) -> Calibration:
        """Return the thresholds that call another share of good parts defective."""
        of_images = self.digests, self.views, self.profile
        return calibrate(self.scores, self.peaks, self.low, share, self.independent, *of_images)

    def with_threshold(self, threshold: float) -> Calibration:
        """Return a threshold set by hand, with the share of false alarms that it implies."""
        share = _Tail.fit(self.scores, self.independent).above(threshold)
        return replace(self, threshold=threshold, false_alarms=share, by_hand=True)

    def with_scores(
        self, scores: list[float], peaks: list[float], digests: list[str], views: list[int]
    ) -> Calibration:
        """Return the calibration with further good images; a threshold set by hand stays.

        Args:
            scores: of the images, or of parts that no other images of the calibration show.
            peaks: highest pixels of their maps.
            digests: of each image.
            views: number of images behind each score.
        """
        more = replace(
            self,
            scores=self.scores + scores,
            peaks=self.peaks + peaks,
            independent=self.independent + len(scores),
            digests=self.digests + digests,
            views=self.views and self.views + views,
        )
        if self.by_hand:
            return more.with_threshold(self.threshold)
        return more.with_false_alarms("auto" if self.auto else self.false_alarms)

    def found(self, defects: list[float], false_alarms: float | None = None) -> float:
        """Return the share of defects above the threshold, or above that of a share of alarms."""
        one = self if false_alarms is None else self.with_false_alarms(false_alarms)
        return sum(map(one.is_defect, defects)) / len(defects)

    def finding_all(self, defects: list[float]) -> Calibration:
        """Return a threshold below the lowest score of known defects.

        It lies half-way to the highest score of a good image below that, if there is any.
        """
        lowest = min(defects)
        below = [score for score in self.scores if score < lowest]
        # The next lower float: a score equal to the threshold is called good.
        threshold = (lowest + max(below)) / 2 if below else float(np.nextafter(lowest, -np.inf))
        return self.with_threshold(threshold)


def calibrate(
    scores: list[float],
    peaks: list[float],
    level: float,
    false_alarms: float | Literal["auto"],
    independent: int | None = None,
    digests: Sequence[str] = (),
    views: Sequence[int] = (),
    profile: Profile | None = None,
) -> Calibration:
    """Set the thresholds so that a share of `false_alarms` of future good images exceeds them.

    The least share that n images can promise is 1 / n. The pixel threshold takes each image by its
    highest pixel, so that the same share of good images has any marked pixel at all.

    Args:
        scores: of good images or parts, of any sign and scale; one at least, better some dozens.
        peaks: highest pixels of their maps.
        level: of the anomaly map on good images: the cold end of the heatmap's colours.
        false_alarms: share in (0, 0.5), or "auto"; see `auto_share`.
        independent: number of independent scores; None: all of them.
        digests: `pixel_digest` of each image.
        views: number of images of each part; empty where images count by themselves.
        profile: of the good images; None: unknown.
    """
    independent = len(scores) if independent is None else independent
    auto = false_alarms == "auto"
    share = auto_share(independent) if auto else false_alarms
    threshold, pixel_threshold = (
        _Tail.fit(values, independent).threshold(share) for values in (scores, peaks)
    )
    return Calibration(
        threshold=threshold,
        median=float(np.median(scores)),
        pixel_threshold=pixel_threshold,
        low=level,
        high=level + 2 * (pixel_threshold - level),
        false_alarms=share,
        scores=scores,
        peaks=peaks,
        independent=independent,
        auto=auto,
        digests=list(digests),
        views=list(views),
        profile=profile or {},
    )


def auto_share(images: int) -> float:
    """Return the share of false alarms that so many independent good images can promise.

    2 / n: 2% from 100 images on, 5% up to 40.
    """
    return min(max(AUTO_IMAGES / images, MIN_AUTO_SHARE), MAX_AUTO_SHARE)


def suspicion(calibration: Calibration) -> tuple[Callable[[float], float], float]:
    """Return how likely good images reach a score, by a tail that defects do not draw out.

    The tail is fitted to the middle of the scores (`_Tail.fit_censored`), so up to a quarter of the
    images may be defects. What it finds unlikely is removed, and the tail is fitted again, until
    nothing more is.

    Returns:
        A function from a score to the share of good images above it; and the share below which an
        image is a suspect: 0.1 / n, so that about one set of n good images in ten has any.
    """
    scores = np.array(calibration.scores)
    n, limit, kept = len(scores), SUSPICION / len(scores), scores
    while True:
        tail = _Tail.fit_censored(kept, calibration.independent * len(kept) / n)
        if not tail.scale:  # most scores are equal, which tells nothing about higher ones
            return lambda score: 1.0, limit
        likely = np.array([tail.above(score) >= limit for score in scores])
        if likely.sum() >= len(kept):
            return tail.above, limit
        kept = scores[likely]


def promises(calibrations: dict[str, Calibration]) -> str:
    """Return a line for each category: its threshold and what to expect of it."""
    return "\n".join(one.promise(category) for category, one in calibrations.items())


def dropped(calibrations: dict[str, Calibration], why: str) -> str | None:
    """Return a line that names the thresholds set by hand that are replaced; None without any."""
    by_hand = [
        f"of {name} {one.threshold:.4g}" for name, one in calibrations.items() if one.by_hand
    ]
    return f"threshold {', '.join(by_hand)}, set by hand, is dropped: {why}" if by_hand else None


def _percent(share: float) -> str:
    """Format a share in per cent: 0.02 -> 2, 0.005 -> 0.5, 0.0004 -> 0.04, 0.183 -> 18."""
    value = 100 * share
    return f"{round(value, 0 if value >= 10 else 1 if value >= 0.1 else 2):g}"
