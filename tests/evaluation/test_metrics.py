"""Metrics against scikit-learn, hand-computed cases and plain reference implementations."""

# ruff: noqa: D103 (the test names say what they check)

import math

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from evaluation import metrics
from evaluation.metrics import (
    BinnedPixelScores,
    PixelScores,
    auroc,
    average_precision,
    bootstrap_auroc,
    count_above,
    oracle_f1,
    precision_recall_f1,
)


def random_scores(seed, levels, n_good=300, n_defect=120):
    """Overlapping classes; `levels` rounds the scores into ties, None leaves them distinct."""
    rng = np.random.default_rng(seed)
    good, defect = rng.normal(0, 1, n_good), rng.normal(1, 1, n_defect)
    if levels is not None:
        good, defect = np.round(good * levels) / levels, np.round(defect * levels) / levels
    return good.astype(np.float32), defect.astype(np.float32)


def labelled(good, defect):
    return np.r_[np.zeros(len(good)), np.ones(len(defect))], np.r_[good, defect]


def pixel_results(*images, limits=(0.3, 0.05), kind=PixelScores):
    scores = kind()
    for anomaly_map, mask in images:
        mask = None if mask is None else np.array(mask, dtype=bool)
        scores.add(np.array(anomaly_map, dtype=np.float32), mask)
    return scores.results(limits)


# AUROC and AP


@pytest.mark.parametrize("levels", [None, 10, 1])
@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_sklearn(seed, levels):
    good, defect = random_scores(seed, levels)
    y_true, y_score = labelled(good, defect)
    assert auroc(good, defect) == pytest.approx(roc_auc_score(y_true, y_score), abs=1e-6)
    expected = average_precision_score(y_true, y_score)
    assert average_precision(good, defect) == pytest.approx(expected, abs=1e-6)


def test_auroc_by_hand():
    # Pairs (2,1) won, (2,2) tied, (3,1) won, (3,2) won: 3.5 of 4.
    assert auroc([1, 2], [2, 3]) == 3.5 / 4


def test_average_precision_by_hand():
    # Threshold 3: recall 1/2, precision 1; threshold 2: recall 1, precision 2/3.
    assert average_precision([1, 2], [2, 3]) == pytest.approx(1 / 2 * 1 + 1 / 2 * 2 / 3)


def test_constant_scores_are_chance():
    assert auroc(np.zeros(30), np.zeros(10)) == 0.5
    assert average_precision(np.zeros(30), np.zeros(10)) == 0.25


def test_float32_and_float64_are_not_confused():
    # In float32 both sides would tie.
    assert auroc(np.float32([0.0]), np.float64([1e-300])) == 1.0


@pytest.mark.parametrize("metric", [auroc, average_precision, oracle_f1, bootstrap_auroc])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_broken_scores_raise(metric, bad):
    with pytest.raises(ValueError, match="NaN or infinity"):
        metric([0.0, bad], [1.0])
    with pytest.raises(ValueError, match="NaN or infinity"):
        metric([0.0], [1.0, bad])


@pytest.mark.parametrize("good, defect", [([], [1.0]), ([1.0], []), ([], [])])
def test_empty_side_gives_nan(good, defect):
    assert math.isnan(auroc(good, defect))
    assert math.isnan(average_precision(good, defect))
    assert np.isnan(oracle_f1(good, defect)).all()
    precision, recall, f1 = precision_recall_f1(good, defect, 0.5)
    assert math.isnan(precision) and math.isnan(f1)
    assert recall == 1 if defect else math.isnan(recall)  # needs no good image
    assert np.isnan(bootstrap_auroc(good, defect)).all()


def test_inputs_are_left_unsorted():
    good, defect = np.array([3.0, 1.0]), np.array([5.0, 2.0])
    auroc(good, defect)
    assert good.tolist() == [3.0, 1.0]
    assert defect.tolist() == [5.0, 2.0]


# F1


def test_oracle_f1_by_hand():
    # >= 4: P 1, R 1/3, F1 1/2.  >= 3: TP 2, FP 0, F1 4/5.  >= 1: TP 3, FP 2, F1 6/8.
    assert oracle_f1([0, 1, 2], [1, 3, 4]) == (pytest.approx(4 / 5), 3.0)


def test_oracle_f1_prefers_the_higher_threshold():
    # >= 2: TP 1, FP 0, F1 2/3.  >= 1: TP 2, FP 2, F1 4/6.
    assert oracle_f1([1, 1], [1, 2]) == (pytest.approx(2 / 3), 2.0)


@pytest.mark.parametrize("levels", [None, 2])
def test_oracle_f1_is_the_best_of_all_thresholds(levels):
    good, defect = random_scores(0, levels, n_good=60, n_defect=40)
    y_true, y_score = labelled(good, defect)
    best = max(f1_score(y_true, y_score >= threshold) for threshold in np.unique(y_score))
    f1, threshold = oracle_f1(good, defect)
    assert f1 == pytest.approx(best)
    assert f1_score(y_true, y_score >= threshold) == pytest.approx(best)


def test_precision_recall_f1_by_hand():
    # > 2 flags 3 (good) and 3, 4 (defect); the defect at exactly 2 is missed.
    p, r, f1 = precision_recall_f1([0, 1, 3], [2, 3, 4, 1], 2)
    assert (p, r) == (2 / 3, 2 / 4)
    assert f1 == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))


def test_nothing_flagged():
    assert precision_recall_f1([0, 1], [2, 3], 3) == (0.0, 0.0, 0.0)


def test_a_score_at_the_threshold_is_not_above_it():
    assert count_above([1, 2, 2, 3], 2) == 1
    assert count_above([], 2) == 0


def test_threshold_is_not_rounded_to_the_scores():
    # float32(0.1) is slightly above 0.1.
    assert precision_recall_f1(np.float32([0.0]), np.float32([0.1]), 0.1) == (1.0, 1.0, 1.0)


def test_precision_recall_f1_rejects_nan():
    with pytest.raises(ValueError, match="threshold"):
        precision_recall_f1([0.0], [1.0], math.nan)
    with pytest.raises(ValueError, match="scores"):
        precision_recall_f1([math.nan], [1.0], 0.5)


# Bootstrap


def test_bootstrap_contains_the_estimate_and_is_reproducible():
    good, defect = random_scores(1, levels=4)
    low, high = bootstrap_auroc(good, defect)
    assert low < auroc(good, defect) < high
    assert bootstrap_auroc(good, defect) == (low, high)
    assert bootstrap_auroc(good, defect, seed=1) != (low, high)


def test_bootstrap_of_perfect_separation():
    assert bootstrap_auroc(np.arange(40), np.arange(50, 70)) == (1.0, 1.0)


def test_bootstrap_agrees_with_a_plain_loop():
    good, defect = random_scores(2, levels=2, n_good=60, n_defect=40)
    rng = np.random.default_rng(7)
    loop = [
        auroc(rng.choice(good, good.size), rng.choice(defect, defect.size)) for _ in range(4000)
    ]
    expected = np.quantile(loop, [0.025, 0.975])
    assert bootstrap_auroc(good, defect) == pytest.approx(expected, abs=0.01)


# Pixel scores


def brute_force_aupro(maps, masks, limit):
    """AUPRO from its definition: every threshold, every region, every pixel."""
    regions = []
    for anomaly_map, mask in zip(maps, masks, strict=True):
        labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
        regions += [anomaly_map[labels == k] for k in range(1, count + 1)]
    good = np.concatenate([m[~mask] for m, mask in zip(maps, masks, strict=True)])
    curve = [(0.0, 0.0)]
    for t in np.unique(np.concatenate([m.ravel() for m in maps]))[::-1]:
        curve.append((np.mean(good >= t), np.mean([np.mean(region >= t) for region in regions])))
    area = 0.0
    for (x0, y0), (x1, y1) in zip(curve, curve[1:], strict=False):
        if x0 < limit and x1 > x0:
            end = min(x1, limit)
            y_end = y0 + (y1 - y0) * (end - x0) / (x1 - x0)
            area += (end - x0) * (y0 + y_end) / 2
    return area / limit


@pytest.mark.parametrize("kind", [PixelScores, BinnedPixelScores])
@pytest.mark.parametrize("levels", [2, 8, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_aupro_agrees_with_brute_force(seed, levels, kind):
    rng = np.random.default_rng(seed)
    masks = [rng.random((12, 15)) < 0.15, rng.random((9, 9)) < 0.2, np.zeros((10, 7), dtype=bool)]
    maps = [
        np.floor(levels * np.clip(rng.random(m.shape) + 0.4 * m, 0, 1)).astype(np.float32)
        for m in masks
    ]
    limits = (0.01, 0.05, 0.3, 1.0)
    ours = pixel_results(*zip(maps, [*masks[:2], None], strict=True), limits=limits, kind=kind)
    for limit in limits:
        expected = brute_force_aupro(maps, masks, limit)
        assert ours[f"aupro_{limit:g}"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("kind", [PixelScores, BinnedPixelScores])
@pytest.mark.parametrize("levels", [3, 1000])
def test_pixel_auroc_and_ap_agree_with_sklearn(levels, kind):
    rng = np.random.default_rng(0)
    masks = [rng.random((20, 30)) < 0.1, rng.random((20, 30)) < 0.3]
    maps = [np.floor(levels * (rng.random(m.shape) + 0.3 * m)) for m in masks]
    ours = pixel_results(*zip(maps, masks, strict=True), kind=kind)
    y_true, y_score = np.ravel(masks), np.ravel(maps)
    assert ours["pixel_auroc"] == pytest.approx(roc_auc_score(y_true, y_score), abs=1e-6)
    assert ours["pixel_ap"] == pytest.approx(average_precision_score(y_true, y_score), abs=1e-6)


def test_perfect_map():
    mask = np.zeros((8, 8))
    mask[2:4, 3:6] = 1
    results = pixel_results((mask, mask), (np.zeros((8, 8)), None))
    assert results.pop("pixel_error") == 0.0
    assert set(results) == {"pixel_auroc", "pixel_ap", "aupro_0.3", "aupro_0.05"}
    assert list(results.values()) == pytest.approx([1.0] * 4)


def test_regions_weigh_the_same_whatever_their_area():
    # Regions of 4 pixels (score 9) and of 1 pixel (score 0), all good pixels at 5: PRO is 1/2 (the
    # pixel recall is 4/5) from FPR 0 to 1, so AUPRO = 0.3 * 1/2 / 0.3.
    anomaly_map = [[9, 9, 5, 0], [9, 9, 5, 5], [5, 5, 5, 5]]
    mask = [[1, 1, 0, 1], [1, 1, 0, 0], [0, 0, 0, 0]]
    assert pixel_results((anomaly_map, mask))["aupro_0.3"] == pytest.approx(1 / 2)


def test_regions_are_averaged_over_all_images_not_per_image():
    # Image 1 has two found regions, image 2 one missed region: PRO is 2/3 (per image, 1/2).
    first = [[9, 5, 9], [5, 5, 5]], [[1, 0, 1], [0, 0, 0]]
    second = [[0, 5, 5], [5, 5, 5]], [[1, 0, 0], [0, 0, 0]]
    assert pixel_results(first, second)["aupro_0.3"] == pytest.approx(2 / 3)


def test_pro_is_interpolated_at_the_limit():
    # One region with scores 9 and 5; good pixels at 5, 5 and eight at 0.
    # Curve: (0, 0), (0, 1/2), then 5 is tied with 2 of 10 good pixels: a slope to (0.2, 1), (1, 1).
    # Limit 0.05: PRO there is 1/2 + 1/2 * 0.05/0.2 = 5/8; area 0.05 * (1/2 + 5/8) / 2.
    # Limit 0.3: area 0.2 * (1/2 + 1) / 2 + 0.1 * 1 = 0.25.
    anomaly_map = [[9, 5, 5, 5], [0, 0, 0, 0], [0, 0, 0, 0]]
    mask = [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    results = pixel_results((anomaly_map, mask))
    assert results["aupro_0.05"] == pytest.approx((1 / 2 + 5 / 8) / 2)
    assert results["aupro_0.3"] == pytest.approx(0.25 / 0.3)


def test_limit_beyond_the_last_step_is_not_the_divisor():
    # The single defect pixel comes after 1 of 4 good pixels: PRO is 0 up to FPR 0.25, then 1.
    # Limit 0.3: area 0.05 * 1, divided by 0.3 (not by 0.25).  Limit 0.05: 0.
    results = pixel_results(([[5, 9, 0, 0, 0]], [[1, 0, 0, 0, 0]]))
    assert results["aupro_0.3"] == pytest.approx(0.05 / 0.3)
    assert results["aupro_0.05"] == 0.0


def test_diagonal_pixels_are_one_region():
    # The diagonal pair (found pixel 9, missed pixel 0) is one region with PRO 1/2, and the third
    # pixel (9) another with PRO 1: mean 3/4. With 4-connectivity it would be 2/3.
    anomaly_map = [[9, 5, 5, 9], [5, 0, 5, 5]]
    mask = [[1, 0, 0, 1], [0, 1, 0, 0]]
    assert pixel_results((anomaly_map, mask))["aupro_0.3"] == pytest.approx(3 / 4)


def test_good_images_count_in_the_fpr():
    # Alone: the defect pixel comes after 1 of 4 good pixels, AUPRO = 0.05 / 0.3 (see above).
    # With a good image of 6 low pixels: after 1 of 10, area 0.2 * 1, AUPRO = 0.2 / 0.3.
    image = [[5, 9, 0, 0, 0]], [[1, 0, 0, 0, 0]]
    assert pixel_results(image)["aupro_0.3"] == pytest.approx(0.05 / 0.3)
    with_good = pixel_results(image, (np.zeros((2, 3)), None))
    assert with_good["aupro_0.3"] == pytest.approx(0.2 / 0.3)


def test_what_does_not_count_says_nothing():
    noise = np.random.default_rng(0).random((2, 8, 12))
    mask = np.zeros((8, 12), bool)
    mask[2:5, 4:9] = mask[6, 10] = True  # the region ends within the one, and before the other
    region = np.arange(12) < np.full((8, 1), 6)
    whole, cut = PixelScores(), PixelScores()
    for one, marked in zip(noise, (mask, None), strict=True):
        whole.add(one, marked, region)
        cut.add(one[:, :6], None if marked is None else marked[:, :6])
    assert whole.results() == cut.results()


def test_constant_map():
    # The curve is the diagonal: area limit^2 / 2, divided by the limit.
    mask = np.zeros((4, 5))
    mask[0, 0] = 1
    expected = {"pixel_auroc": 0.5, "pixel_ap": 1 / 20, "aupro_0.3": 0.15, "aupro_0.05": 0.025}
    assert pixel_results((np.ones((4, 5)), mask)) == pytest.approx(expected | {"pixel_error": 0})


@pytest.mark.parametrize("kind", [PixelScores, BinnedPixelScores])
def test_missing_class_gives_nan(kind):
    keys = {"pixel_auroc", "pixel_ap", "aupro_0.3", "aupro_0.05", "pixel_error"}
    only_good = (np.zeros((3, 3)), None)
    only_defect = (np.zeros((3, 3)), np.ones((3, 3)))
    for images in ([], [only_good], [only_defect], [(np.zeros((3, 3)), np.zeros((3, 3)))]):
        results = pixel_results(*images, kind=kind)
        assert set(results) == keys
        assert all(math.isnan(value) for value in results.values())


@pytest.mark.parametrize("shift", [-1, 0])  # scores of both signs, and small ones
@pytest.mark.parametrize("bits", [10, 14])  # bins of half their scores, and of a 32nd
def test_binned_metrics_are_as_close_as_they_say(bits, shift, monkeypatch):
    monkeypatch.setattr(metrics, "BIN_BITS", bits)
    rng = np.random.default_rng(0)
    masks = [rng.random((40, 50)) < 0.1 for _ in range(3)]
    images = [(rng.normal(shift + mask, 1), mask) for mask in masks]
    images.append((rng.normal(shift, 1, (40, 50)), None))
    exact, binned = pixel_results(*images), pixel_results(*images, kind=BinnedPixelScores)
    bound = binned.pop("pixel_error")
    assert 0 < bound < {10: 0.5, 14: 0.05}[bits]
    for name, value in binned.items():
        assert abs(value - exact[name]) <= bound


def test_bins_keep_the_order_of_scores():
    scores = np.float32([-np.inf, -2, -1, -1e-30, -0.0, 0.0, 1e-30, 1, 2, np.inf])
    bins = metrics._bins(scores)
    assert (np.diff(bins) > 0).tolist() == [True] * 4 + [False] + [True] * 4
    assert bins.min() >= 0 and bins.max() < 2**metrics.BIN_BITS


def test_results_can_be_asked_again_and_continued():
    rng = np.random.default_rng(0)
    images = [(rng.random((6, 6)).astype(np.float32), rng.random((6, 6)) < 0.3) for _ in range(3)]
    scores = PixelScores()
    for image in images[:2]:
        scores.add(*image)
    assert scores.results() == scores.results()
    scores.add(*images[2])
    assert scores.results() == pytest.approx(pixel_results(*images))


def test_added_maps_may_be_reused_by_the_caller():
    buffer = np.zeros((1, 4), dtype=np.float32)
    scores = PixelScores()
    scores.add(buffer)
    buffer[:] = 9
    scores.add(buffer, np.ones((1, 4), dtype=bool))
    assert scores.results()["pixel_auroc"] == 1.0


def test_bad_maps_raise_and_leave_nothing_behind():
    scores = PixelScores()
    with pytest.raises(ValueError, match="differ in shape"):
        scores.add(np.zeros((4, 4), np.float32), np.zeros((4, 5), bool))
    with pytest.raises(ValueError, match=r"\[H, W\]"):
        scores.add(np.zeros((1, 4, 4), np.float32))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="NaN or infinity"):
            scores.add(np.full((4, 4), bad, np.float32), np.ones((4, 4), bool))
    assert all(math.isnan(value) for value in scores.results().values())


@pytest.mark.parametrize("limit", [0, -0.1, 1.1, math.nan])
def test_limits_outside_the_unit_interval_raise(limit):
    with pytest.raises(ValueError, match="limits"):
        PixelScores().results(limits=(limit,))
