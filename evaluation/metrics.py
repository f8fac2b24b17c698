"""Detection metrics: of images by scikit-learn, of pixels over a whole test set.

Scores are anomaly scores: any finite number, larger meaning more anomalous. `good` holds the scores
of the normal class, `defect` those of the anomalous one. Where a class that a metric needs is empty
it is NaN. A NaN or infinite score raises `ValueError`: the model is broken.
"""

from collections.abc import Sequence
from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage
from sklearn.metrics import (
    average_precision_score,
    precision_recall_curve,
    precision_recall_fscore_support,
    roc_auc_score,
)

EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)
RESAMPLES = 2000  # of the bootstrap: the ends of the interval vary by about 0.001 between seeds

# Bits of a float32 score that tell its bin: sign, exponent and 13 bits of the fraction. A bin is
# 0.012% of its scores wide.
BIN_BITS = 22


def _finite(scores: ArrayLike) -> NDArray:
    scores = np.asarray(scores).ravel()
    if not np.isfinite(scores).all():
        raise ValueError("scores contain NaN or infinity")
    return scores


def _labelled(good: ArrayLike, defect: ArrayLike) -> tuple[NDArray, NDArray] | None:
    """Return labels, True for a defect, and scores, both [N]; None where a class is empty."""
    good, defect = _finite(good), _finite(defect)
    if not good.size or not defect.size:
        return None
    return np.repeat([False, True], [good.size, defect.size]), np.concatenate([good, defect])


def auroc(good: ArrayLike, defect: ArrayLike) -> float:
    """Return the area under the ROC curve: P(defect score > good score), a tie counting half."""
    labelled = _labelled(good, defect)
    return float(roc_auc_score(*labelled)) if labelled else nan


def average_precision(good: ArrayLike, defect: ArrayLike) -> float:
    """Return the average precision: sum of (R_n - R_{n-1}) P_n over distinct thresholds."""
    labelled = _labelled(good, defect)
    return float(average_precision_score(*labelled)) if labelled else nan


def oracle_f1(good: ArrayLike, defect: ArrayLike) -> tuple[float, float]:
    """Return the best F1 over all thresholds, and that threshold: an upper bound.

    The threshold is picked with the test labels, so no deployed detector reaches this F1;
    `precision_recall_f1` measures at a threshold fixed beforehand.

    Returns:
        (F1, threshold), where `score >= threshold` is positive and the threshold is an observed
        score, the highest one if several reach the same F1.
    """
    labelled = _labelled(good, defect)
    if not labelled:
        return nan, nan
    precision, recall, thresholds = precision_recall_curve(*labelled)
    # F1 = 2 P R / (P + R), and 0 where nothing found is a defect (P = R = 0).
    f1 = 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)
    highest = np.isclose(f1, f1.max(), rtol=1e-12, atol=0)  # equal but for rounding
    best = np.flatnonzero(highest)[-1]
    return float(f1[best]), float(thresholds[best])


def count_above(scores: ArrayLike, threshold: float) -> int:
    """Return how many scores lie above a threshold.

    Raises:
        ValueError: a score is NaN or infinite, or the threshold is NaN.
    """
    # A Python float would be rounded to the dtype of float32 scores before the comparison.
    threshold = np.float64(threshold)
    if np.isnan(threshold):
        raise ValueError("threshold is NaN")
    return int(np.count_nonzero(_finite(scores) > threshold))


def precision_recall_f1(
    good: ArrayLike, defect: ArrayLike, threshold: float
) -> tuple[float, float, float]:
    """Return precision, recall and F1 of the verdict `score > threshold`, fixed beforehand.

    Precision is 0 where nothing lies above the threshold. Recall needs no good scores.
    """
    found = count_above(defect, threshold)
    recall = found / np.size(defect) if np.size(defect) else nan
    labelled = _labelled(good, defect)
    if not labelled:
        return nan, recall, nan
    labels, scores = labelled
    precision, recall, f1, _ = precision_recall_fscore_support(
        labels, scores > np.float64(threshold), average="binary", zero_division=0.0
    )
    return float(precision), float(recall), float(f1)


def bootstrap_auroc(good: ArrayLike, defect: ArrayLike, seed: int = 0) -> tuple[float, float]:
    """Return the 95% percentile bootstrap interval of the image AUROC.

    Images are resampled within each class. The interval covers the choice of test images, not the
    variation between training runs. Memory grows with G * D: for images, not for pixels.

    Args:
        good: [G] scores of the good images.
        defect: [D] scores of the defective images.
        seed: of the resampling.
    """
    good, defect = _finite(good), _finite(defect)
    if not good.size or not defect.size:
        return nan, nan
    wins = (defect[:, None] > good) + 0.5 * (defect[:, None] == good)  # [D, G]
    # A resample is how often each image was drawn; with counts d and g its AUROC is d wins g / DG.
    rng = np.random.default_rng(seed)
    good_counts, defect_counts = (
        rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) for n in (good.size, defect.size)
    )
    aurocs = np.sum((defect_counts @ wins) * good_counts, axis=1) / wins.size
    low, high = np.quantile(aurocs, [0.025, 0.975])
    return float(low), float(high)


class _Steps(NamedTuple):
    """Pixels at each distinct score t of a defective pixel, ascending; arrays are [T].

    No metric needs a threshold between two of them: recall does not change there.
    """

    tied: NDArray  # defective pixels with score == t
    weight: NDArray  # share of PRO that they add: sum of 1 / area of their region, / regions
    above: NDArray  # good pixels with score > t
    at_least: NDArray  # good pixels with score >= t
    good: int  # good pixels

    def metrics(
        self, first: NDArray, last: NDArray, hits: NDArray, limits: Sequence[float]
    ) -> NDArray:
        """Return AUROC, average precision and AUPRO at each limit.

        Args:
            first: [T] good pixels that come before the defective ones of a step.
            last: [T] good pixels that come before the next step.
            hits: [T] defective pixels that come before the next step.
            limits: of the FPR.
        """
        share = self.tied / self.tied.sum()
        start, end = first / self.good, last / self.good
        precision = hits / (hits + last)
        aupro = [_area(self.weight, start, end, limit) for limit in limits]
        return np.array([_area(share, start, end, 1), np.sum(share * precision), *aupro])


def _area(rise: NDArray, start: NDArray, end: NDArray, limit: float) -> float:
    """Return the area under a curve over FPR in [0, limit], divided by the limit.

    The curve is 0 at FPR 0 and rises, for each step, by rise[t] linearly from FPR start[t] to
    end[t]: good pixels that tie with defective ones make the step a slope.
    """
    # A step adds rise * (length after the slope + half of the slope), or a part of the slope alone.
    inside = np.maximum(limit - start, 0)
    slope = np.minimum(inside, end - start)
    reached = slope / np.maximum(end - start, np.finfo(float).tiny)
    return float(np.sum(rise * (inside - slope + slope * reached / 2)) / limit)


class PixelScores:
    """Exact pixel AUROC, AP and AUPRO of a whole test set, fed one image at a time.

    Keeps 4 bytes per good pixel and 12 per defective pixel, not the maps themselves.
    """

    EXACT = True

    def __init__(self) -> None:
        self._good: list[NDArray] = []  # float32 scores of good pixels
        self._defect: list[NDArray] = []  # float32 scores of defective pixels
        self._weight: list[NDArray] = []  # float64, 1 / area of the region each of them lies in
        self._regions = 0

    def add(
        self, anomaly_map: NDArray, mask: NDArray | None = None, valid: NDArray | None = None
    ) -> None:
        """Add one test image.

        Args:
            anomaly_map: [H, W] scores, kept as float32.
            mask: [H, W] bool, True where defective; None for a good image.
            valid: [H, W] bool, True inside the region of interest; None: everywhere. Of a defect
                that leaves the region the part inside is measured.

        Raises:
            ValueError: the map is not [H, W], holds NaN or infinity, or the mask differs in shape.
        """
        anomaly_map = np.asarray(anomaly_map, dtype=np.float32)
        if anomaly_map.ndim != 2:
            raise ValueError(f"anomaly map must be [H, W], got shape {anomaly_map.shape}")
        _finite(anomaly_map)
        mask = np.zeros(anomaly_map.shape, bool) if mask is None else np.asarray(mask, bool)
        if mask.shape != anomaly_map.shape:
            raise ValueError(f"map {anomaly_map.shape} and mask {mask.shape} differ in shape")
        good = ~mask
        if valid is not None:
            mask, good = mask & valid, good & valid
        labels, regions = ndimage.label(mask, structure=EIGHT_CONNECTED)
        inside = labels[mask]
        # Each region weighs the same whatever its area, so a pixel weighs 1 / area.
        self._keep(anomaly_map[good], anomaly_map[mask], 1 / np.bincount(inside)[inside])
        self._regions += regions

    def results(self, limits: Sequence[float] = (0.3, 0.05)) -> dict[str, float]:
        """Return the metrics over all images added so far.

        AUPRO follows Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, and its
        official evaluation code. PRO is the mean over the 8-connected defect regions of all images
        of the share of the region at or above a threshold; FPR is taken over the good pixels of all
        images. AUPRO is the area under PRO over FPR in [0, limit], divided by the limit.

        Args:
            limits: FPR limits of AUPRO, each in (0, 1].

        Returns:
            `pixel_auroc`, `pixel_ap` and one `aupro_<limit>` per limit, each in [0, 1], and
            `pixel_error`, the largest distance of one of them from its exact value; all NaN
            without defective or without good pixels.

        Raises:
            ValueError: a limit is not in (0, 1].
        """
        if not all(0 < limit <= 1 for limit in limits):
            raise ValueError(f"limits must lie in (0, 1], got {limits}")
        names = ["pixel_auroc", "pixel_ap", *(f"aupro_{limit:g}" for limit in limits)]
        steps = self._steps()
        if steps is None:
            return dict.fromkeys([*names, "pixel_error"], nan)
        tied, _, above, at_least, _ = steps
        hits = np.cumsum(tied[::-1])[::-1]
        values, error = steps.metrics(above, at_least, hits, limits), 0.0
        if not self.EXACT:
            # The curve of any order within the bins lies between those of the worst one, in which
            # all defective pixels of a bin come after its good ones, and of the best one.
            worst = steps.metrics(at_least, at_least, hits - tied + 1, limits)
            best = steps.metrics(above, above, hits, limits)
            error = float(np.abs([worst - values, best - values]).max())
        return dict(zip(names, values.tolist(), strict=True)) | {"pixel_error": error}

    def _keep(self, good: NDArray, defect: NDArray, weight: NDArray) -> None:
        self._good.append(good)
        self._defect.append(defect)
        self._weight.append(weight)

    def _steps(self) -> _Steps | None:
        """Return the steps; None where a class has no pixels."""
        good = _join(self._good, np.float32)
        good.sort()
        defect, weight = _join(self._defect, np.float32), _join(self._weight, np.float64)
        order = np.argsort(defect)
        defect, weight = defect[order], weight[order]
        self._good, self._defect, self._weight = [good], [defect], [weight]
        if not good.size or not defect.size:
            return None
        first = np.flatnonzero(np.concatenate(([True], defect[1:] != defect[:-1])))
        values = defect[first]
        return _Steps(
            tied=np.diff(first, append=defect.size),
            weight=np.add.reduceat(weight, first) / self._regions,
            above=good.size - np.searchsorted(good, values, side="right"),
            at_least=good.size - np.searchsorted(good, values, side="left"),
            good=good.size,
        )


class BinnedPixelScores(PixelScores):
    """The same metrics of a test set of any size, in 100 MiB: scores of one bin count as equal."""

    EXACT = False

    def __init__(self) -> None:
        self._good = np.zeros(2**BIN_BITS, np.int64)  # good pixels in each bin
        self._defect = np.zeros(2**BIN_BITS, np.int64)  # defective pixels
        self._weight = np.zeros(2**BIN_BITS)  # sum of 1 / area of the region they lie in
        self._regions = 0

    def _keep(self, good: NDArray, defect: NDArray, weight: NDArray) -> None:
        np.add.at(self._good, _bins(good), 1)
        bins = _bins(defect)
        np.add.at(self._defect, bins, 1)
        np.add.at(self._weight, bins, weight)

    def _steps(self) -> _Steps | None:
        used = np.flatnonzero(self._defect)
        good = np.cumsum(self._good[::-1])[::-1]
        if not good[0] or not used.size:
            return None
        return _Steps(
            tied=self._defect[used],
            weight=self._weight[used] / self._regions,
            above=good[used] - self._good[used],
            at_least=good[used],
            good=int(good[0]),
        )


def _bins(scores: NDArray) -> NDArray:
    """Return the bins of float32 scores: their upper bits, as integers in the order of scores."""
    bits = (scores + np.float32(0)).view(np.int32)  # -0.0 becomes 0.0, which it equals
    bits ^= (bits >> 31) & 0x7FFFFFFF  # a larger magnitude of a negative score is less
    return (bits >> (32 - BIN_BITS)) + 2 ** (BIN_BITS - 1)


def _join(pieces: list[NDArray], dtype: type) -> NDArray:
    """Concatenate and empty the list meanwhile, so that the data is hardly ever held twice."""
    joined = np.empty(sum(piece.size for piece in pieces), dtype=dtype)
    start = joined.size
    while pieces:
        piece = pieces.pop()
        start -= piece.size
        joined[start : start + piece.size] = piece
    return joined
