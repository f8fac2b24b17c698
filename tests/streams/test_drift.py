import numpy as np
from scipy.stats import ks_2samp

from streams.loop import P_DRIFT, WINDOW, Drift, kolmogorov_smirnov

RANDOM = np.random.default_rng(0)


def told(drift, severities):
    return [moved.away for value in severities if (moved := drift.add(value))]


def test_what_has_moved_is_told_once_and_again_after_it_was_back():
    good = RANDOM.normal(0, 0.4, 2000)
    drift = Drift(good[:200], 200)
    assert told(drift, good[:1000]) == []
    assert told(drift, good[:1000] + 0.3) == [True]
    assert told(drift, good[:1000]) == [False]
    assert told(drift, good[:1000] - 0.3) == [True]
    spread = Drift(good[:200], 200)
    assert told(spread, good[:800] * 2.5) == [True]  # the middle stays


def test_false_alarms_are_as_rare_as_promised():
    ps = []
    for _ in range(1000):
        values = np.sort(RANDOM.gamma(4, size=(2, WINDOW)))
        ps.append(kolmogorov_smirnov(*values, WINDOW))
    ps = np.array(ps)
    assert [(ps < level).mean() <= 1.6 * level for level in (0.01, 0.05, 0.2)] == [True] * 3
    assert (ps < 0.2).mean() > 0.1
    expected = ks_2samp(*values, method="exact").pvalue
    assert abs(ps[-1] - expected) < 0.03


def test_twins_and_few_images_promise_less():
    few, window = np.sort(RANDOM.normal(size=20)), np.sort(RANDOM.normal(0.9, 1, WINDOW))
    many = np.sort(np.repeat(few, 10))
    assert kolmogorov_smirnov(many, window, 20) == kolmogorov_smirnov(few, window, 20)
    assert kolmogorov_smirnov(many, window, 200) < P_DRIFT < kolmogorov_smirnov(many, window, 20)
    assert told(Drift([], 0), window) == []
