"""Detection metrics: image level, and pixel level over a whole test set.

Scores are anomaly scores: any finite number, larger meaning more anomalous. `good` always holds
the scores of the normal class and `defect` those of the anomalous one, in any shape; the same
functions serve images and pixels, and give NaN where a class that they need is empty. A NaN or
infinite score raises `ValueError` instead of being ranked somewhere, since it means that the model
is broken.
"""

from collections.abc import Sequence
from math import nan
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

EIGHT_CONNECTED = np.ones((3, 3), dtype=bool)

BIN_BITS = 22
"""Bits of a float32 score that tell its bin: sign, exponent and 13 bits of the fraction, so a bin
is 0.012% of its scores wide, wherever they lie."""


class _Sweep(NamedTuple):
    """Counts at each distinct defect score t, in ascending order; all arrays are [T] int64.

    No metric here needs a threshold between two defect scores: recall does not change there.
    """

    tied: NDArray  # defect scores == t
    hits: NDArray  # defect scores >= t
    false_above: NDArray  # good scores > t
    false_from: NDArray  # good scores >= t
    good: int  # good scores
    defect: int  # defect scores


def _finite(scores: ArrayLike) -> NDArray:
    scores = np.asarray(scores).ravel()
    if not np.isfinite(scores).all():
        raise ValueError("scores contain NaN or infinity")
    return scores


def _sorted(good: ArrayLike, defect: ArrayLike) -> tuple[NDArray, NDArray]:
    good, defect = _finite(good), _finite(defect)
    # With one dtype on both sides np.searchsorted does not have to cast (and copy) either of them.
    dtype = np.result_type(good, defect)
    return np.sort(good.astype(dtype)), np.sort(defect.astype(dtype))


def _sweep(good: NDArray, defect: NDArray) -> _Sweep | None:
    """Of scores that are sorted and of one dtype; None where a class is empty."""
    if not good.size or not defect.size:
        return None
    first = np.flatnonzero(np.concatenate(([True], defect[1:] != defect[:-1])))
    values = defect[first]
    return _Sweep(
        tied=np.diff(first, append=defect.size),
        hits=defect.size - first,
        false_above=good.size - np.searchsorted(good, values, side="right"),
        false_from=good.size - np.searchsorted(good, values, side="left"),
        good=good.size,
        defect=defect.size,
    )


def _auroc(sweep: _Sweep) -> float:
    # Twice the number of (defect, good) pairs in the wrong order, a tie being half wrong.
    losses = np.sum(sweep.tied * (sweep.false_above + sweep.false_from))
    return float(1 - losses / (2 * sweep.good * sweep.defect))


def _average_precision(sweep: _Sweep) -> float:
    precision = sweep.hits / (sweep.hits + sweep.false_from)
    return float(np.sum(sweep.tied * precision) / sweep.defect)


def auroc(good: ArrayLike, defect: ArrayLike) -> float:
    """Area under the ROC curve: P(defect score > good score), a tie counting half."""
    sweep = _sweep(*_sorted(good, defect))
    return nan if sweep is None else _auroc(sweep)


def average_precision(good: ArrayLike, defect: ArrayLike) -> float:
    """Average precision: sum of (R_n - R_{n-1}) P_n over distinct thresholds, as scikit-learn."""
    sweep = _sweep(*_sorted(good, defect))
    return nan if sweep is None else _average_precision(sweep)


def oracle_f1(good: ArrayLike, defect: ArrayLike) -> tuple[float, float]:
    """Best F1 over all thresholds, and that threshold: an upper bound, not an operating point.

    The threshold is picked with the test labels, so no deployed detector can count on this F1;
    `precision_recall_f1` judges a threshold fixed beforehand.

    Returns:
        (F1, threshold), where `score >= threshold` is positive and the threshold is an observed
        score, the highest one if several reach the same F1.
    """
    good, defect = _sorted(good, defect)
    sweep = _sweep(good, defect)
    if sweep is None:
        return nan, nan
    f1 = 2 * sweep.hits / (defect.size + sweep.hits + sweep.false_from)
    best = np.flatnonzero(f1 == f1.max())[-1]
    return float(f1[best]), float(defect[-sweep.hits[best]])


def count_above(scores: ArrayLike, threshold: float) -> int:
    """How many scores lie above a threshold: of good ones the false alarms, of others the finds.

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
    """Precision, recall and F1 of the verdict `score > threshold`, fixed beforehand.

    Precision is 0.0 when nothing is flagged; recall wants defect scores alone.
    """
    hits = count_above(defect, threshold)
    flagged = hits + count_above(good, threshold)
    recall = hits / np.size(defect) if np.size(defect) else nan
    if not np.size(good) or not np.size(defect):
        return nan, recall, nan
    precision = hits / flagged if flagged else 0.0
    return precision, recall, 2 * hits / (flagged + np.size(defect))


def bootstrap_auroc(
    good: ArrayLike, defect: ArrayLike, seed: int = 0, resamples: int = 2000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of the image AUROC, images resampled within each class.

    It covers the choice of test images only, not the variation between training runs. Memory grows
    with len(good) * len(defect) and is meant for image scores (hundreds), not for pixels.

    Args:
        good: [G] scores of the good images.
        defect: [D] scores of the defective images.
        seed: seed of the resampling.
        resamples: number of resamples.
        level: coverage of the interval, in (0, 1).

    Raises:
        ValueError: a score is NaN or infinite, or the level is not in (0, 1).
    """
    if not 0 < level < 1:
        raise ValueError(f"level must lie in (0, 1), got {level}")
    good, defect = _finite(good), _finite(defect)
    if not good.size or not defect.size:
        return nan, nan
    wins = (defect[:, None] > good) + 0.5 * (defect[:, None] == good)
    # A resample is how often each image was drawn; its AUROC is bilinear in the two count vectors.
    rng = np.random.default_rng(seed)
    good_counts, defect_counts = (
        rng.multinomial(n, np.full(n, 1 / n), size=resamples) for n in (good.size, defect.size)
    )
    aurocs = np.sum((defect_counts @ wins) * good_counts, axis=1) / wins.size
    low, high = np.quantile(aurocs, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


class PixelScores:
    """Pixel AUROC, AP and AUPRO of a whole test set, fed one image at a time: exact.

    Keeps 4 bytes per defect-free pixel and 12 per defective pixel, not the maps themselves.
    """

    EXACT = True

    def __init__(self) -> None:
        self._good: list[NDArray] = []  # float32 scores of defect-free pixels
        self._defect: list[NDArray] = []  # float32 scores of defective pixels
        self._weight: list[NDArray] = []  # float64, 1 / area of the region each of them lies in
        self._regions = 0

    def add(
        self, anomaly_map: NDArray, mask: NDArray | None = None, counted: NDArray | None = None
    ) -> None:
        """Add one test image.

        Args:
            anomaly_map: [H, W] scores, kept as float32.
            mask: [H, W] bool, True where defective, at the resolution of the map; None for a good
                image.
            counted: [H, W] bool, the pixels that count, as with a region of interest; None: all.
                Of a defect that leaves the region the part within it is to be found.

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
        if counted is not None:
            mask, good = mask & counted, good & counted
        labels, regions = ndimage.label(mask, structure=EIGHT_CONNECTED)
        inside = labels[mask]
        self._keep(anomaly_map[good], anomaly_map[mask], 1 / np.bincount(inside)[inside])
        self._regions += regions

    def results(self, limits: Sequence[float] = (0.3, 0.05)) -> dict[str, float]:
        """Metrics over all images added so far.

        AUPRO follows Bergmann et al., "The MVTec Anomaly Detection Dataset", IJCV 2021, and its
        official evaluation code. Over all thresholds in descending order, PRO is the mean over the
        8-connected defect regions of all images of the share of the region at or above the
        threshold; FPR is taken over the defect-free pixels of all images, good images included.
        The area under PRO over FPR in [0, limit], with PRO interpolated linearly at the limit, is
        divided by the limit.

        Args:
            limits: FPR limits of AUPRO, each in (0, 1].

        Returns:
            `pixel_auroc`, `pixel_ap` and one `aupro_<limit>` per limit, each in [0, 1], and
            `pixel_error`, which none of them is further than from its exact value; all NaN when
            there are no defective or no defect-free pixels.

        Raises:
            ValueError: a limit is not in (0, 1].
        """
        if not all(0 < limit <= 1 for limit in limits):
            raise ValueError(f"limits must lie in (0, 1], got {limits}")
        names = ["pixel_auroc", "pixel_ap", *(f"aupro_{limit:g}" for limit in limits)]
        swept = self._swept()
        if swept is None:
            return dict.fromkeys([*names, "pixel_error"], nan)
        sweep, weight = swept
        fpr, pro = _pro_curve(sweep, weight)
        values = [_auroc(sweep), _average_precision(sweep)]
        values += [_area_up_to(limit, fpr, pro) for limit in limits]
        error = 0.0 if self.EXACT else _largest_error(values, limits, sweep, weight)
        return dict(zip(names, values, strict=True)) | {"pixel_error": error}

    def _keep(self, good: NDArray, defect: NDArray, weight: NDArray) -> None:
        self._good.append(good)
        self._defect.append(defect)
        self._weight.append(weight)

    def _swept(self) -> tuple[_Sweep, NDArray] | None:
        """The sweep and each step's share [T] of PRO; None where a class has no pixels."""
        good = _join(self._good, np.float32)
        good.sort()
        defect, weight = _join(self._defect, np.float32), _join(self._weight, np.float64)
        order = np.argsort(defect)
        defect, weight = defect[order], weight[order]
        self._good, self._defect, self._weight = [good], [defect], [weight]
        sweep = _sweep(good, defect)
        return sweep and (sweep, np.add.reduceat(weight, defect.size - sweep.hits) / self._regions)


class BinnedPixelScores(PixelScores):
    """The same of a test set of any size, in 100 MiB: pixels are counted in bins of their scores.

    Scores of one bin count as equal.
    """

    EXACT = False

    def __init__(self) -> None:
        self._good = np.zeros(2**BIN_BITS, np.int64)  # defect-free pixels in each bin
        self._defect = np.zeros(2**BIN_BITS, np.int64)  # defective pixels
        self._weight = np.zeros(2**BIN_BITS)  # sum of 1 / area of the region they lie in
        self._regions = 0

    def _keep(self, good: NDArray, defect: NDArray, weight: NDArray) -> None:
        np.add.at(self._good, _bins(good), 1)
        bins = _bins(defect)
        np.add.at(self._defect, bins, 1)
        np.add.at(self._weight, bins, weight)

    def _swept(self) -> tuple[_Sweep, NDArray] | None:
        used = np.flatnonzero(self._defect)
        good, tied = np.cumsum(self._good[::-1])[::-1], self._defect[used]
        if not good[0] or not used.size:
            return None
        hits = np.cumsum(tied[::-1])[::-1]
        sweep = _Sweep(
            tied=tied,
            hits=hits,
            false_above=good[used] - self._good[used],
            false_from=good[used],
            good=int(good[0]),
            defect=int(hits[0]),
        )
        return sweep, self._weight[used] / self._regions


def _bins(scores: NDArray) -> NDArray:
    """The bins of float32 scores: their upper bits, as whole numbers in the order of the scores."""
    bits = (scores + np.float32(0)).view(np.int32)  # -0.0, which equals 0.0, becomes it
    bits ^= (bits >> 31) & 0x7FFFFFFF  # a larger magnitude of a negative score is less
    return (bits >> (32 - BIN_BITS)) + 2 ** (BIN_BITS - 1)


def _largest_error(
    values: list[float], limits: Sequence[float], sweep: _Sweep, weight: NDArray
) -> float:
    """How far metrics of bins, AUROC, AP and AUPRO at the limits, can be from exact ones.

    In the worst order within each bin all defective pixels lie below the others, in the best one
    above them; the curves of every order lie between those two.
    """
    share = sweep.tied / sweep.defect
    ends = []
    for false, hits in (
        (sweep.false_from, sweep.hits - sweep.tied + 1),  # the worst order
        (sweep.false_above, sweep.hits),
    ):
        fpr = false / sweep.good
        areas = [np.sum(weight * np.maximum(0, limit - fpr)) / limit for limit in limits]
        ends.append([1 - np.sum(share * fpr), np.sum(share * hits / (hits + false)), *areas])
    return float(np.abs(np.array(ends) - values).max())


def _join(pieces: list[NDArray], dtype: type) -> NDArray:
    """Concatenate, emptying the list on the way so that the data is hardly ever held twice."""
    joined = np.empty(sum(piece.size for piece in pieces), dtype=dtype)
    start = joined.size
    while pieces:
        piece = pieces.pop()
        start -= piece.size
        joined[start : start + piece.size] = piece
    return joined


def _pro_curve(sweep: _Sweep, weight: NDArray) -> tuple[NDArray, NDArray]:
    """FPR and PRO, [2T + 2] each, from (0, 0) to (1, 1); `weight` [T] is what each step adds."""
    reached = np.cumsum(weight[::-1])
    fpr = np.zeros(2 * reached.size + 2)
    pro = np.zeros_like(fpr)
    # Each defect score adds two points: before it (good scores above it passed, none of its own
    # pixels) and after it. Good scores tied with it thus make the step a slope.
    fpr[1:-1:2] = sweep.false_above[::-1] / sweep.good
    fpr[2:-1:2] = sweep.false_from[::-1] / sweep.good
    pro[3:-1:2] = reached[:-1]
    pro[2:-1:2] = reached
    fpr[-1] = pro[-1] = 1
    return fpr, pro


def _area_up_to(limit: float, fpr: NDArray, pro: NDArray) -> float:
    """Trapezoid area of the curve over [0, limit], divided by the limit."""
    inside = np.searchsorted(fpr, limit, side="right")  # fpr[0] = 0, so at least one point
    height = pro[inside - 1]
    if inside < fpr.size:
        part = (limit - fpr[inside - 1]) / (fpr[inside] - fpr[inside - 1])
        height += part * (pro[inside] - height)
    x, y = np.append(fpr[:inside], limit), np.append(pro[:inside], height)
    return float(np.trapezoid(y, x) / limit)
