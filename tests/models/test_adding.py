"""Further images, added to a detector that is fitted, against one that had all from the start."""

import pytest
import torch
from fitted import detector, unscaled_scores

from data.good_images import Fold, deal
from models.memory_bank import MemoryBank

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def images():
    """Forty images of stripes that differ in phase and noise, the later ones finer, uint8."""
    generator = torch.Generator().manual_seed(0)
    phase = 6.28 * torch.rand(40, 1, 1, generator=generator)
    period = torch.cat([torch.full((24, 1, 1), 4.0), torch.full((16, 1, 1), 2.5)])
    wave = torch.sin(torch.arange(64.0) / period + phase).expand(40, 64, 64)
    noise = 0.05 * torch.randn(40, 64, 64, 3, generator=generator)
    return (255 * (0.5 + 0.3 * wave[..., None] + noise).clamp(0, 1)).byte().numpy()


def folds_of(images, start, stop, first):
    """Images from `start` to `stop` in folds that are numbered from `first`."""
    dealt = deal(list(range(stop - start)))
    places = [[start + n for n, own in enumerate(dealt) if own == f] for f in range(max(dealt) + 1)]
    return {first + f: Fold(f, images, own, 2, CPU) for f, own in enumerate(places)}


def collect(model, folds, seed):
    torch.manual_seed(seed)
    for number, fold in folds.items():
        for batch in fold:
            model.collect(batch, number)
    model.finish()


def scores_without(model, folds):
    """Scores of images, each without its fold, and of all by the whole detector.

    By no scale: that of the images that were there first stays.
    """
    without = [
        score
        for number in model.leaving_out(folds)
        for batch in folds[number]
        for score in unscaled_scores(model, batch)
    ]
    whole = [score for fold in folds for batch in fold for score in unscaled_scores(model, batch)]
    return torch.stack(without), torch.stack(whole)


def fitted_at_once_and_later(name, old, new, **overrides):
    at_once, earlier, added = (detector(name, **overrides) for _ in range(3))
    collect(at_once, old | new, seed=1)
    collect(earlier, old, seed=1)
    assert list(earlier.leaving_out(list(old.values())))
    added.load_state_dict(earlier.state_dict())  # nothing but what a checkpoint holds
    collect(added, new, seed=2)
    assert list(added.leaving_out([*[[]] * len(old), *new.values()]))  # the old images are gone
    if name == "patchcore":  # whose scale stays
        assert torch.equal(added.scale.spread, earlier.scale.spread)
        at_once.scale.load_state_dict(added.scale.state_dict())
    return at_once, added


@pytest.mark.parametrize(
    ("name", "tolerance"), [("padim", 1e-3), ("patch_memory", 1e-3), ("patchcore", 0.2)]
)
def test_it_is_as_if_all_had_been_there(images, name, tolerance):
    old = folds_of(images, 0, 24, first=0)
    new = folds_of(images, 24, 40, first=len(old))
    # PaDiM: fewer images than channels.
    at_once, added = fitted_at_once_and_later(name, old, new, **{"padim.channels": 60})
    folds = [*old.values(), *new.values()]
    for found, expected in zip(*(scores_without(m, folds) for m in (added, at_once)), strict=True):
        assert found.tolist() == pytest.approx(expected.tolist(), rel=tolerance)


@pytest.mark.parametrize("name", ["patchcore", "patch_memory"])
def test_a_full_memory_makes_room_in_proportion(images, name):
    old = folds_of(images, 0, 24, first=0)
    new = folds_of(images, 24, 40, first=len(old))
    small = {"patchcore.candidates": 4000, "patch_memory.patches": 4000}  # of 10240 patches
    at_once, added = fitted_at_once_and_later(name, old, new, **small)
    of_fold = [len(fold.places) / 40 for fold in (old | new).values()]
    of_each = [
        [m for m in model.modules() if isinstance(m, MemoryBank)] for model in (at_once, added)
    ]
    for expected, found in zip(*of_each, strict=True):
        for memory in (expected, found):
            shares = memory.folds.bincount() / len(memory.folds)
            assert shares.tolist() == pytest.approx(of_fold, abs=0.012)
        assert len(found.bank) == pytest.approx(len(expected.bank), rel=0.03)
    everything = torch.cat([batch for fold in (old | new).values() for batch in fold])
    expected = at_once(everything).anomaly_map.mean().item()
    assert added(everything).anomaly_map.mean().item() == pytest.approx(expected, rel=0.05)
