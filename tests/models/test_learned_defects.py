"""Detectors that learn from known defects."""

import pytest
import torch
from drawn_images import texture
from fitted import detector, fitted, in_folds, known, raw_scores

from models.drawn_defects import corruption
from models.drawn_defects.corruption import corrupt
from models.drawn_defects.pasted import PastedDefects
from models.memory_bank import GAIN, MemoryBank, without
from models.normalisation import Normalisation, out_of_fold_maps
from utils.errors import UserError, say_once

SIDE = 64


def spotted(images, fill, top=16, left=16):
    """Images with a square of an even colour, and its mask."""
    images, mask = images.clone(), torch.zeros(len(images), SIDE, SIDE, dtype=torch.bool)
    mask[:, top : top + 16, left : left + 16] = True
    images[..., top : top + 16, left : left + 16] = torch.tensor(fill)[:, None, None]
    return images, mask


@pytest.fixture(scope="module")
def good():
    return texture(16, (SIDE, SIDE))


RED, BLUE = (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)


@pytest.mark.parametrize("name", ["patchcore", "patch_memory"])
@pytest.mark.parametrize("masked", [True, False])
def test_a_kind_that_is_known_scores_higher_and_good_parts_do_not(good, name, masked, monkeypatch):
    monkeypatch.setattr("models.known_defects.APART", 0.95)  # of a few hundred patches
    images, masks = spotted(good[12:14], RED)
    defects = known(images, masks if masked else None)
    plain, taught = (fitted(name, good[:12], defects=own) for own in ((), defects))
    same, other = (spotted(good[14:], fill, 16, 28)[0] for fill in (RED, BLUE))

    def raised(images):
        """How many times as high the raw scores are."""
        before, after = (raw_scores(model, images) for model in (plain, taught))
        return float((after / before).mean())

    with torch.no_grad():
        assert raised(same) > (1.3 if name == "patchcore" else 1.05)
        assert raised(good[14:]) == pytest.approx(1, abs=0.005)
        assert 1 <= raised(other) < raised(same)


def test_distances_are_raised_by_the_formula_and_without_a_fold_too():
    torch.manual_seed(0)
    bank = MemoryBank(6, whiten=True, defects=True)
    for fold in range(3):
        bank.collect(torch.randn(1, 6, 4, 5), fold)
    bank.fit(1.0)
    queries, defects = torch.randn(1, 6, 8, 8), torch.randn(30, 6)
    rows, spacing = queries.permute(0, 2, 3, 1).flatten(0, 2), bank.spacing
    (fold,) = in_folds(torch.zeros(1, 3, 8, 8))
    for excluded in (False, True):
        kept = bank.folds != fold.number if excluded else torch.ones(len(bank.folds)).bool()
        matrix = bank.whitenings[fold.number] if excluded else bank.whitening
        original = torch.linalg.solve(bank.whitening.T, bank.bank[kept].T).T
        d, nearest = torch.cdist(rows @ matrix, original @ matrix).min(dim=1)
        d_bad = torch.cdist(rows @ matrix, defects @ matrix).amin(dim=1)
        assert (d_bad < d).any() and (d_bad > d).any()
        expected = torch.where(d_bad < d, d * (1 + GAIN * (1 - d_bad / d)), d)
        expected = expected / spacing[kept][nearest]
        bank.set_defects(defects)
        if excluded:
            with bank.without(fold):
                found, _ = bank.distances(queries)
        else:
            found, _ = bank.distances(queries)
        assert torch.allclose(found.flatten(), expected, rtol=1e-3)


def test_what_good_parts_show_as_well_teaches_nothing(good, capsys):
    say_once.cache_clear()
    plain = fitted("patch_memory", good[:12])
    taught = fitted("patch_memory", good[:12], defects=known(good[:2]))
    assert "teaches nothing" in capsys.readouterr().err
    assert len(taught.bank.defects) == 0
    with torch.no_grad():
        assert torch.equal(plain(good).score, taught(good).score)


def test_the_state_holds_the_known_defects_and_no_key_without_them(good):
    images, masks = spotted(good[12:14], RED)
    taught = fitted("patchcore", good[:12], defects=known(images, masks))
    other = detector("patchcore", **{"data.defects": "gone"})
    other.load_state_dict(taught.state_dict())
    assert len(other.banks[0].defects) > 0
    with torch.no_grad():
        assert torch.equal(other(good).score, taught(good).score)
    assert not any("defects" in key for key in fitted("patchcore", good[:12]).state_dict())


def test_the_normalisation_accounts_for_them(good, monkeypatch):
    """Also where good parts are raised: out of fold they are raised as when they are inspected."""
    monkeypatch.setattr("models.known_defects.APART", 0.0)
    whole = torch.ones(2, SIDE, SIDE, dtype=torch.bool)
    model = fitted("patchcore", good[:12], defects=known(good[12:14], whole))
    plain, again = fitted("patchcore", good[:12]), Normalisation(1, model.config.data)
    with torch.no_grad():
        maps = out_of_fold_maps(
            in_folds(*good[:12].split((3, 5, 4))),
            lambda images: model.distances(images)[0],
            lambda fold: without(model.banks, fold),
        )
    again.fit(maps)
    assert torch.allclose(again.mean, model.normalisation.mean, rtol=1e-4)
    assert (again.mean[0].mean() > 1.02 * plain.normalisation.mean[0].mean()).all()


def test_the_paper_refuses_them():
    with pytest.raises(UserError, match=r"patchcore\.paper=false"):
        detector("patchcore", **{"data.defects": "known", "patchcore.paper": True})


def test_pasted_defects_are_marked_and_keep_their_look(good, monkeypatch):
    monkeypatch.setattr(corruption, "MORE", 0)
    pasted = PastedDefects(known(*spotted(good[:2], RED)))
    torch.manual_seed(0)
    images = good.repeat(2, 1, 1, 1)
    corrupted, masks = corrupt(images, ["clean"], pasted=pasted)
    assert torch.equal(corrupted[~masks.expand_as(images)], images[~masks.expand_as(images)])
    shares = masks.flatten(1).float().mean(dim=1)
    assert 8 < (shares == 0).sum() < 24  # as often clean
    assert 0.02 < shares[shares > 0].mean() < 0.13  # 0.06, scaled
    inside = corrupted.permute(1, 0, 2, 3)[:, masks[:, 0]].mean(dim=1)
    assert inside[0] > inside[1] + 0.2


def test_a_defect_without_a_mask_is_refused_by_name(good):
    with pytest.raises(UserError, match=r"0\.png of data\.defects has no mask"):
        PastedDefects(known(good[:1]))
