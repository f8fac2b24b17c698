import json
from dataclasses import asdict

import numpy as np
import pytest
from scipy import stats

from inspection.threshold import Calibration, calibrate


def draws(distribution, count, times=100):
    generator = np.random.default_rng(0)
    return distribution.rvs(size=(times, count), random_state=generator)


def threshold(scores, share=0.02, independent=None):
    return calibrate(list(scores), list(scores), 0.0, share, independent).threshold


TAILS = [stats.norm(-5, 0.1), stats.gamma(2), stats.lognorm(1), stats.gumbel_r(), stats.t(5)]


@pytest.mark.parametrize("distribution", TAILS, ids=lambda one: one.dist.name)
@pytest.mark.parametrize(
    "count, least, most", [(15, 0.5, 6), (40, 0.5, 6), (100, 1, 4), (400, 1, 4)]
)
def test_future_good_parts_exceed_the_threshold_as_often_as_promised(
    distribution, count, least, most
):
    found = [100 * distribution.sf(threshold(scores)) for scores in draws(distribution, count)]
    assert least < np.mean(found) < most  # 2 is promised
    assert np.mean(np.array(found) > 10) <= 0.15
    assert count < 100 or max(found) < 10


@pytest.mark.parametrize("count, most", [(5, 3.6), (15, 2.2), (40, 1.7), (200, 1.3)])
def test_few_scores_do_not_carry_the_threshold_off(count, most):
    found = [threshold(scores) / stats.norm.isf(0.02) for scores in draws(stats.norm, count)]
    assert np.quantile(found, 0.9) < most


def test_neither_an_outlier_nor_the_highest_score_sets_the_threshold():
    scores = np.sort(stats.norm.ppf((np.arange(40) + 0.5) / 40))
    usual = threshold(scores)
    near, far = ([*scores[:-1], outlier] for outlier in (30.0, 3000.0))
    assert threshold(near) == threshold(far) < usual + 1
    assert threshold([*scores[:-2], 30.0, 3000.0]) < usual + 2


def test_units_do_not_matter():
    scores = draws(stats.gamma(2), 60, times=1)[0]
    assert threshold(1e-3 * scores - 7) == pytest.approx(1e-3 * threshold(scores) - 7)


def test_copies_of_a_few_images_are_no_certainty():
    scores = draws(stats.norm, 200, times=1)[0]
    assert threshold(scores, independent=5) > threshold(scores)


def test_more_false_alarms_mean_a_lower_threshold_without_a_jump():
    scores = draws(stats.norm, 100, times=1)[0]
    found = [threshold(scores, share) for share in np.geomspace(0.001, 0.49, 200)]
    steps = np.diff(found)
    assert steps.max() <= 0 and steps.min() > -0.25


@pytest.mark.parametrize("scores", [[1.5], [1.5] * 2, [1.5] * 30])
def test_equal_scores_are_the_threshold_and_good(scores):
    calibration = calibrate(scores, scores, 0.0, 0.02)
    assert calibration.threshold == 1.5
    assert calibration.verdict(1.5) == "good" and calibration.verdict(1.6) == "defect"
    assert np.isfinite([calibration.severity(1.5), calibration.severity(1.6)]).all()
    assert "too few" in calibration.promise("tile")


def test_a_tail_that_is_mostly_ties_is_still_a_tail():
    scores = [0.0] * 90 + list(stats.expon.ppf((np.arange(10) + 0.5) / 10))
    assert 0.5 < threshold(scores) < 4


def test_the_middle_of_the_colours_is_the_level_that_peaks_stay_below():
    scores = draws(stats.norm, 60, times=1)[0]
    calibration = calibrate(list(scores), list(10 + scores), 9.0, 0.02)
    assert calibration.pixel_threshold == pytest.approx(10 + calibration.threshold)
    assert calibration.pixel_threshold == pytest.approx((calibration.low + calibration.high) / 2)
    assert calibration.low == 9
    assert Calibration(**json.loads(json.dumps(asdict(calibration)))) == calibration


def test_severity_is_zero_in_the_middle_and_one_at_the_threshold():
    calibration = calibrate([1.0, 2.0, 3.0, 3.5, 2.5], [1.0] * 5, 0.0, 0.02)
    assert calibration.severity(2.5) == pytest.approx(0)
    assert calibration.severity(calibration.threshold) == pytest.approx(1)
    low = calibration.with_threshold(2.0)
    assert low.severity(1.9) < low.severity(2.0) == 1 < low.severity(2.1)


def test_a_threshold_set_by_hand_says_what_it_costs():
    scores = draws(stats.norm, 400, times=1)[0]
    calibration = calibrate(list(scores), list(scores), 0.0, 0.02)
    assert calibration.with_threshold(calibration.threshold).false_alarms == pytest.approx(0.02)
    for at in (-1.0, 0.0, 1.0, 2.5):
        moved = calibration.with_threshold(at)
        assert moved.threshold == at and moved.by_hand
        assert moved.false_alarms == pytest.approx(stats.norm.sf(at), rel=0.1, abs=0.005)
    assert "by hand" in moved.promise("tile") and "by hand" not in calibration.promise("tile")


def test_the_promise_says_how_sure_it_is():
    scores = [float(score) for score in draws(stats.norm, 300, times=1)[0]]
    assert (
        calibrate(scores, scores, 0.0, 0.02)
        .promise("tile")
        .endswith(
            "about 2% of good parts will be called defective (0.9 to 3.5%, from 300 good images)"
        )
    )
    text = calibrate(scores, scores, 0.0, 0.005, independent=40).promise("tile")
    assert "about 0.5% of good parts" in text and "40 of them independent" in text
    assert "too few to promise that, which takes 200" in text


@pytest.mark.parametrize(
    "count, share", [(5, 0.05), (40, 0.05), (80, 0.025), (100, 0.02), (900, 0.02)]
)
def test_few_images_promise_a_share_that_they_can_tell(count, share):
    scores = draws(stats.norm, count, times=1)[0].tolist()
    few = calibrate(scores, scores, 0.0, "auto")
    assert few.false_alarms == pytest.approx(share)
    assert few.threshold == threshold(scores, share)
    assert ("100 images promise 2%" in few.promise("bottle")) == (40 <= count < 100)
    assert "promise 2%" not in few.with_threshold(float(np.median(scores))).promise("bottle")


def test_further_images_raise_a_promise_that_follows_from_their_number_and_no_other():
    scores = draws(stats.norm, 100, times=1)[0].tolist()
    for chosen, then in (("auto", 0.02), (0.05, 0.05)):
        few = calibrate(scores[:40], scores[:40], 0.0, chosen, digests=[""] * 40)
        assert few.false_alarms == 0.05
        more = few.with_scores(scores[40:], scores[40:], [""] * 60, [1] * 60)
        assert more == calibrate(scores, scores, 0.0, chosen, digests=[""] * 100)
        assert more.false_alarms == then
