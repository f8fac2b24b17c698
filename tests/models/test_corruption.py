import pytest
import torch
from drawn_images import object_on_ground, texture

from models.drawn_defects import corruption
from models.drawn_defects.corruption import KINDS, VISIBLE, corrupt, random_textures
from utils.config import load_config
from utils.errors import UserError


@pytest.mark.parametrize("draw", [texture, object_on_ground])
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_marks_exactly_what_it_changed(kind, draw, monkeypatch):
    monkeypatch.setattr(corruption, "MORE", 0)
    torch.manual_seed(0)
    images = draw(40)
    before = images.clone()
    corrupted, masks = corrupt(images, [kind])
    assert torch.equal(images, before)
    assert corrupted.shape == images.shape
    assert (masks.shape, masks.dtype) == ((40, 1, 96, 64), torch.bool)
    assert corrupted.min() >= 0
    assert corrupted.max() <= 1
    change = (corrupted - images).abs().amax(dim=1, keepdim=True)
    assert (change[~masks] == 0).all()
    assert change[masks].mean() > 2 * VISIBLE
    assert (change[masks] > 0).float().mean() > 0.95
    shares = masks.flatten(1).float().mean(dim=1)
    assert shares.max() < 0.95
    assert len(shares.unique()) > 10  # they differ in size, and are to be seen


def test_only_the_named_kinds_are_drawn():
    torch.manual_seed(0)
    images = texture(40, (32, 32))
    corrupted, masks = corrupt(images, ["clean"])
    assert torch.equal(corrupted, images)
    assert not masks.any()
    nearly_all = corrupt(images, ["cut_paste"])[1].flatten(1).any(dim=1)
    assert nearly_all.sum() > 32  # now and then there is nothing to be seen
    half = corrupt(images, ["clean", "cut_paste"])[1].flatten(1).any(dim=1)
    assert 8 < half.sum() < 32
    with pytest.raises(UserError, match=r"corruption\.kinds .* did you mean stain"):
        load_config(overrides={"corruption.kinds": "clean+stian"})


def test_more_corruption_of_the_same_image_is_all_marked(monkeypatch):
    images = texture(40)
    marked = []
    for more in (0, 6):
        monkeypatch.setattr(corruption, "MORE", more)
        torch.manual_seed(0)
        corrupted, masks = corrupt(images, ["clean", "crack", "stain"])
        changed = (corrupted != images).any(dim=1, keepdim=True)
        assert (changed <= masks).all()
        clean = ~masks.flatten(1).any(dim=1)
        assert clean.any()  # some are left clean all the same
        assert torch.equal(corrupted[clean], images[clean])
        marked.append(masks.float().mean())
    assert marked[1] > 1.5 * marked[0]


def test_equal_seeds_corrupt_alike_and_others_do_not():
    images = texture(6)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(corrupt(images, KINDS))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert not torch.equal(results[0][0], results[2][0])


def test_grey_images_stay_grey():
    torch.manual_seed(0)
    images = texture(60)
    grey = torch.arange(60) % 2 == 0
    images[grey] = images[grey].mean(dim=1, keepdim=True)
    corrupted, masks = corrupt(images, KINDS)
    assert masks[grey].any()
    assert torch.allclose(corrupted[grey, 0], corrupted[grey, 2], atol=1e-6)
    hue = (corrupted - images)[~grey]
    assert (hue[:, 0] - hue[:, 2]).abs().max() > 0.1  # beside them, others get colours


def test_textures_are_unlike_the_images():
    torch.manual_seed(0)
    images = texture(3)
    drawn = random_textures(images, 12)
    assert drawn.shape == (12, 3, 96, 64)
    assert drawn.isfinite().all()
    assert drawn.flatten(1).std(dim=1).min() > 0.01
    apart = (drawn[:, None] - images[None]).abs().flatten(2).mean(dim=2)
    assert apart.min() > 0.05
