import numpy as np
import pytest
import torch
from fitted import detector, fit

from data.good_images import DecodedImages, GoodImages, in_folds
from data.light import FACTORS, draw_light, relight
from data.tensors import to_batch, valid_mask
from data.tiles import Grid
from inspection.calibration import calibrate_detector
from models import build_model
from training.loop import train_step
from utils.config import load_config

CPU = torch.device("cpu")
GRID = np.stack(np.meshgrid(np.arange(64), np.arange(64)), axis=2)


@pytest.fixture(scope="module")
def pixels():
    """Photographs, uint8 [12, 64, 64, 4], that are alike, with a region: the left half."""
    images = np.random.default_rng(0).integers(0, 256, (12, 64, 64, 4)).astype(np.uint8)
    images[..., 3] = 255 * (np.arange(64) < 32)
    return images


def folds_of(pixels, light, size=4):
    good = GoodImages().extended([f"tile/{i}" for i in range(len(pixels))], range(12), 0, seed=0)
    images = DecodedImages.whole(pixels, light)
    return images, good, in_folds(images, good, size, CPU)


def test_light_scales_colours_by_exposure_gradient_and_balance_and_clips():
    images = torch.full((1, 3, 5, 5), 200 / 255)
    images[:, 2] = 100 / 255
    factors = torch.tensor([[0.8, 0.5, 1.5, 1.0, 1.0, 0.9, 2.0, 1.0]])
    lit = relight(images, factors)
    # The gradient: half of 0.5 to 1.5 across plus half of 1 down.
    across = torch.tensor([0.75, 0.875, 1, 1.125, 1.25])
    for channel, start in enumerate((200 * 0.9, 200 * 2.0, 100)):
        expected = (0.8 * start * across / 255).clamp(max=1).expand(5, 5)
        assert lit[0, channel] == pytest.approx(expected, abs=0.51 / 255)


def test_grey_images_stay_grey_and_a_region_stays_what_it_is(pixels):
    grey = pixels[..., [0, 0, 0, 3]]
    for images in (to_batch(pixels, CPU), to_batch(grey, CPU)):
        lit = relight(images, draw_light(12, 0.4))
        valid = valid_mask(images)
        assert torch.equal(valid_mask(lit), valid)
        assert torch.equal(lit[~valid.expand_as(lit)], images[~valid.expand_as(lit)])
        assert (lit - images).abs().max() > 0.2
        assert lit.min() >= 0
        assert lit.max() <= 1
    assert torch.equal(lit[:, :1].expand_as(lit), lit)
    assert torch.equal(relight(images, torch.ones(12, FACTORS)), images)


def test_a_fold_gives_each_image_as_it_is_and_under_its_own_light(pixels):
    _, good, plain = folds_of(pixels, 0.0)
    _, _, lit = folds_of(pixels, 0.2)
    _, _, one_by_one = folds_of(pixels, 0.2, size=1)
    as_they_are = 0
    for bare, fold, single in zip(plain, lit, one_by_one, strict=True):
        assert bare.scored is bare
        images, both = torch.cat(list(bare)), torch.cat(list(fold))
        assert torch.equal(both[: len(images)], images)
        assert not torch.equal(both[len(images) :], images)
        assert torch.equal(both, torch.cat(list(single)))
        scored = torch.cat(list(fold.scored))
        same = [torch.equal(*pair) for pair in zip(scored, images, strict=True)]
        as_they_are += sum(same)
        for image, unlit, view in zip(scored, same, both[len(images) :], strict=True):
            assert unlit or torch.equal(image, view)
    assert as_they_are == len(good.names) / 2


def test_the_tiles_of_an_image_share_its_light(pixels):
    good = GoodImages().extended([f"tile/{i}" for i in range(6)], range(6), 0, seed=0)
    grids = [Grid((64, 128), (64, 64), (0,), (0, 64))] * 6
    images = DecodedImages(pixels, grids, list(range(0, 12, 2)), [""] * 6, [], light=0.2)
    for fold in in_folds(images, good, 4, CPU):
        assert torch.equal(fold.lights[::2], fold.lights[1::2])
        assert fold.lights[0].eq(1).all()
        assert not fold.lights[-1].eq(1).any()


@pytest.mark.parametrize("name", ["patchcore", "padim"])
def test_what_has_learned_drawn_light_scores_it_lower(name):
    wave = 128 + 60 * np.sin(GRID.sum(axis=2) / 3)
    noise = np.random.default_rng(0).normal(0, 8, (12, 64, 64, 3))
    pixels = (wave[..., None] + noise).clip(0, 255).astype(np.uint8)
    dark = relight(to_batch(pixels[:4], CPU), torch.full((4, FACTORS), 0.9))
    called = []
    for light in (0.0, 0.3):
        images, good, folds = folds_of(pixels, light)
        model = fit(detector(name, **{"data.light": light}), folds)
        with torch.inference_mode():
            (calibration,) = calibrate_detector(model, images, good, folds).values()
            called.append(sum(map(calibration.is_defect, model(dark).score.tolist())))
        assert len(calibration.scores) == calibration.independent == 12
    assert called == [4, 0]


def test_a_training_step_learns_images_under_light_that_its_seed_decides(monkeypatch):
    seen = []
    batch = np.full((2, 64, 64, 3), 100, np.uint8)
    for light in (0.0, 0.2, 0.2):
        overrides = {"unet.encoder": "scratch", "unet.width": 4, "data.size": 64}
        model = build_model(load_config(overrides=overrides | {"data.light": light}))
        prepare = model.prepare
        monkeypatch.setattr(
            model,
            "prepare",
            lambda images: seen.append(images) or prepare(images),  # noqa: B023
        )
        torch.manual_seed(0)
        train_step(model, model.optimizer(), batch, CPU, 2)
    assert torch.equal(seen[0], to_batch(batch, CPU))
    assert torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[0], seen[1])
