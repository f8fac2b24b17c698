"""What a detector says without a fold, against one that was really fitted without it."""

import pytest
import torch
from fitted import detector, unscaled_scores

from data.good_images import Fold, deal
from models.detector import FittedDetector

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    """Thirty images of stripes that differ in phase and noise, uint8."""
    generator = torch.Generator().manual_seed(0)
    phase = 6.28 * torch.rand(30, 1, 1, generator=generator)
    wave = torch.sin(torch.arange(64.0) / 4 + phase).expand(30, 64, 64)
    noise = 0.05 * torch.randn(30, 64, 64, 3, generator=generator)
    return (255 * (0.5 + 0.3 * wave[..., None] + noise).clamp(0, 1)).byte().numpy()


def fit(name, folds, **overrides) -> FittedDetector:
    """A detector fitted to folds, with the same random choices each time."""
    model = detector(name, **overrides)
    torch.manual_seed(1)
    for number, fold in enumerate(folds):
        for batch in fold:
            model.collect(batch, number)
    model.finish()
    return model


@pytest.mark.parametrize(
    ("name", "overrides", "tolerance"),
    [
        ("padim", {"padim.channels": 20}, 0.03),
        ("padim", {"padim.channels": 60}, 0.03),  # fewer images than channels
        ("patchcore", {"patchcore.density": 0}, 0.06),
        ("patchcore", {}, 0.08),
    ],
)
def test_it_is_that_of_one_fitted_without_the_fold(images, name, overrides, tolerance):
    dealt = deal(list(range(len(images))))
    folds = [
        Fold(number, images, [place for place, fold in enumerate(dealt) if fold == number], 2, CPU)
        for number in range(max(dealt) + 1)
    ]
    whole = fit(name, folds, **overrides)
    for number in whole.leaving_out(folds):
        if number in (0, 4):
            own = torch.cat(list(folds[number]))
            others = [fold for other, fold in enumerate(folds) if other != number]
            fresh = fit(name, others, **overrides)
            assert list(fresh.leaving_out(others)) == list(range(len(others)))
            if name == "padim":
                fresh.chosen = whole.chosen
            left_out, expected = (unscaled_scores(model, own) for model in (whole, fresh))
            assert left_out.tolist() == pytest.approx(expected.tolist(), rel=tolerance)
            # A scale is set on what memories of one image more find.
            left_out, expected = whole(own).score, fresh(own).score
            assert left_out.tolist() == pytest.approx(expected.tolist(), rel=0.3)
    known = whole(own).score  # all that was left out is back
    assert (known < left_out).all()
