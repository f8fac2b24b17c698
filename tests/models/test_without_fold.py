"""Scores of a detector without a fold, against one that was really fitted without it."""

import pytest
import torch
from fitted import detector, fit, raw_scores

from data.good_images import Fold, deal

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folds():
    """Thirty images of stripes that differ in phase and noise, in 20 folds."""
    generator = torch.Generator().manual_seed(0)
    phase = 6.28 * torch.rand(30, 1, 1, generator=generator)
    wave = torch.sin(torch.arange(64.0) / 4 + phase).expand(30, 64, 64)
    noise = 0.05 * torch.randn(30, 64, 64, 3, generator=generator)
    images = (255 * (0.5 + 0.3 * wave[..., None] + noise).clamp(0, 1)).byte().numpy()
    dealt = deal(list(range(30)))
    return [
        Fold(number, images, [i for i, fold in enumerate(dealt) if fold == number], 2, CPU)
        for number in range(max(dealt) + 1)
    ]


@pytest.mark.parametrize(
    ("name", "overrides", "tolerance"),
    [
        ("padim", {"padim.channels": 20}, 0.03),
        ("padim", {"padim.channels": 60}, 0.03),  # fewer images than channels
        ("patchcore", {"patchcore.paper": True}, 0.3),  # one coreset of all folds
        ("patchcore", {}, 0.08),
        ("patch_memory", {}, 0.01),
    ],
)
def test_it_scores_like_a_detector_fitted_without_the_fold(folds, name, overrides, tolerance):
    whole = fit(detector(name, **overrides), folds)
    before = whole(torch.cat(list(folds[0]))).score
    for number in (0, 4):
        own = torch.cat(list(folds[number]))
        others = [fold for fold in folds if fold.number != number]
        fresh = detector(name, **overrides)
        fit(fresh, others)
        if name == "padim":
            fresh = detector(name, **overrides)
            fresh.chosen = whole.chosen  # else another random subset of the channels
            torch.manual_seed(1)
            features = fresh.joined_features(own)
            fresh._allocate(features)
            fresh.chosen = whole.chosen
            fit(fresh, others)
        with whole.without(folds[number]):
            found, scores = raw_scores(whole, own), whole(own).score
        assert found.tolist() == pytest.approx(raw_scores(fresh, own).tolist(), rel=tolerance)
        assert (whole(own).score < scores).all()  # what was left out is there again
    assert torch.equal(before, whole(torch.cat(list(folds[0]))).score)


@pytest.mark.parametrize("name", ["padim", "patchcore", "patch_memory"])
def test_an_error_inside_restores_the_whole_detector(folds, name):
    model = fit(detector(name), folds)
    own = torch.cat(list(folds[0]))
    before = model(own).score
    with pytest.raises(KeyboardInterrupt), model.without(folds[0]):
        raise KeyboardInterrupt
    assert torch.equal(before, model(own).score)
