from collections import Counter

import numpy as np
import pytest
import torch

from data.good_images import (
    MAX_FOLD_IMAGES,
    MIN_FOLDS,
    DecodedImages,
    GoodImages,
    by_category,
    deal,
    in_folds,
)
from data.mvtec import category_in_path
from utils.errors import UserError

NAMES = [f"tile/{number:03}.png" for number in range(50)]


def test_a_share_is_held_out_by_the_seed():
    good, again, other = (
        GoodImages().extended(NAMES, list(range(50)), 0.1, seed) for seed in (3, 3, 4)
    )
    assert sum(good.held_out) == 5
    assert good == again
    assert good.held_out != other.held_out
    assert len(good.learned) == 45
    assert not any(GoodImages().extended(NAMES, list(range(50)), 0, 3).held_out)
    for share in (0.01, 0.99):
        assert Counter(GoodImages().extended(NAMES[:2], [0, 1], share, 0).held_out) == {
            False: 1,
            True: 1,
        }


def test_groups_stay_together():
    groups = [number // 5 for number in range(50)]
    good = GoodImages().extended(NAMES, groups, 0.15, seed=0)
    for held_out, fold in zip(good.held_out, good.folds, strict=True):
        assert isinstance(fold, int)
        assert isinstance(held_out, bool)
    for group in range(10):
        own = slice(5 * group, 5 * group + 5)
        assert len(set(good.held_out[own])) == len(set(good.folds[own])) == 1
    assert sum(good.held_out) == 10
    with pytest.raises(UserError, match="calibration.group"):
        GoodImages().extended(NAMES, [0] * 50, 0.1, seed=0)


@pytest.mark.parametrize("count", [2, 15, 40, 209, 900])
def test_folds_are_many_and_of_a_size(count):
    sizes = Counter(deal(list(range(count)))).values()
    assert len(sizes) >= min(count, MIN_FOLDS)
    assert max(sizes) <= MAX_FOLD_IMAGES
    assert max(sizes) - min(sizes) <= 1


def test_limits_are_nested_and_leave_the_held_out_images_alone():
    everything = GoodImages().extended(NAMES, list(range(50)), 0.1, seed=0)
    previous: set[str] = set()
    for limit in (1, 4, 16, 100):
        good = GoodImages().extended(NAMES, list(range(50)), 0.1, seed=0, limit=limit)
        learned = {good.names[place] for place in good.learned}
        held_out = set(good.names) - learned
        assert held_out == {n for n, out in zip(NAMES, everything.held_out, strict=True) if out}
        assert len(learned) == min(limit, 45)
        assert previous <= learned
        previous = learned


def test_added_images_leave_the_held_out_ones_as_they_are():
    good = GoodImages().extended(NAMES, list(range(50)), 0.1, seed=0)
    more = [f"/new/{number}.png" for number in range(21)]  # of the only category
    added = good.extended(NAMES + more, [*range(50), 7, *range(50, 70)], 0.1, seed=0)
    assert added.names == NAMES + more
    assert added.held_out[:50] == good.held_out
    assert added.held_out[50] == good.held_out[7]  # of a known group
    assert added.folds[50] == added.folds[7]
    assert sum(added.held_out) == 8  # of 71, where a tenth is asked for
    assert [len(own) for own in added.by_category().values()] == [71]
    one = good.extended([*NAMES, more[0]], list(range(51)), 0.1, seed=0)
    assert not one.held_out[50]  # it is there to be learned from
    fitted = GoodImages().extended(NAMES, list(range(50)), 0, seed=0)
    assert not any(fitted.extended(NAMES + more, list(range(71)), 0, seed=0).held_out)


def test_a_single_image_is_no_matter_of_groups():
    with pytest.raises(UserError, match="a single good image of tile") as caught:
        GoodImages().extended(NAMES[:1], [0], 0.1, seed=0)
    assert "calibration.group" not in str(caught.value)


@pytest.mark.parametrize("held_out", [0, 19, 20])
def test_a_fold_gives_its_held_out_images_once_they_tell_enough(held_out):
    frames = np.arange(60, dtype=np.uint8).repeat(12).reshape(60, 2, 2, 3)
    names = [f"tile/{number}.png" for number in range(60)]
    roles = [number >= 60 - held_out for number in range(60)]
    good = GoodImages(names, list(range(60)), deal(range(60)), roles)
    folds = in_folds(DecodedImages.whole(frames), good, 2, torch.device("cpu"))
    assert [fold.number for fold in folds] == list(range(20))
    for fold in folds:
        values = [(255 * batch[:, 0, 0, 0]).round().tolist() for batch in fold.held_out]
        own = np.flatnonzero(np.array(good.folds) == fold.number)
        expected = own if held_out < 20 else own[own >= 40]
        assert sum(values, []) == expected.tolist()
        assert list(map(len, values)) == [2] * (len(expected) // 2) + [1] * (len(expected) % 2)


def test_what_lies_elsewhere_is_of_the_part_that_its_folder_is_named_by():
    names = ["nut/train/good/0.png", "bolt/train/good/0.png", "/alarms/bolt/nut/1.png"]
    assert [own.tolist() for own in by_category(names).values()] == [[0, 2], [1]]
    assert category_in_path("/alarms/1.png", ["nut", "bolt"]) is None


def test_images_that_are_gone_are_named(tmp_path):
    good = GoodImages().extended(NAMES[:3], [0, 1, 2], 0, seed=0)
    (tmp_path / "tile").mkdir()
    for name in NAMES[:2]:
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="002.png is gone"):
        good.paths(tmp_path)
    (tmp_path / NAMES[2]).touch()
    (tmp_path / "tile/zz.png").touch()  # what came later is not part of the run
    assert good.paths(tmp_path) == [tmp_path / name for name in NAMES[:3]]
