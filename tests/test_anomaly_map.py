import numpy as np
import pytest
import torch
from pytorch_msssim import ssim

from utils import anomaly_map
from utils.anomaly_map import (
    TERMS,
    cielab,
    colour_map,
    gradient_magnitude,
    msgms_map,
    smooth,
    ssim_map,
    term_maps,
    term_weights,
)
from utils.config import load_config
from utils.errors import UserError
from utils.standardise import CELL, Standardisation


@pytest.mark.parametrize("term", TERMS)
def test_equal_images_differ_nowhere_and_others_do(term):
    torch.manual_seed(0)
    images = torch.rand(2, 3, 40, 56)
    same = TERMS[term](images, images)
    assert same.shape == (2, 1, 40, 56)
    assert same.abs().max() < 1e-4
    changed = images.clone()
    changed[0, :, 10:20, 10:20] = 0.5
    difference = TERMS[term](images, changed)
    assert difference[0, :, 11:19, 11:19].mean() > 20 * difference[1].mean()


def test_gradient_similarity_by_hand(monkeypatch):
    # A ramp of 0.1 a pixel: Prewitt, which averages three rows, sees 0.2 across two pixels.
    ramp = (0.1 * torch.arange(10.0)).expand(1, 3, 12, 10)
    assert gradient_magnitude(ramp[:, :1])[0, 0, 5, 5].item() == pytest.approx(0.2, abs=1e-6)
    monkeypatch.setattr(anomaly_map, "SCALES", 1)
    found = msgms_map(ramp, ramp / 2)[0, 0, 5, 5].item()
    c = anomaly_map.GMS_CONSTANT
    assert found == pytest.approx(1 - (2 * 0.2 * 0.1 + c) / (0.2**2 + 0.1**2 + c), abs=1e-5)


def test_ssim_map_has_the_mean_of_ssim(monkeypatch):
    torch.manual_seed(0)
    grey = torch.rand(2, 1, 64, 48).repeat(1, 3, 1, 1)
    other = (grey + 0.2 * torch.rand(2, 1, 64, 48)).clamp(0, 1)
    monkeypatch.setattr(anomaly_map, "SCALES", 2)  # SSIM leaves out the last one
    inside = ssim_map(grey, other)[..., 5:-5, 5:-5]  # the library takes whole windows only
    expected = 1 - ssim(grey, other, data_range=1.0, size_average=False)
    assert torch.allclose(inside.mean(dim=(1, 2, 3)), expected, atol=1e-4)


def test_cielab_of_known_colours():
    colours = torch.tensor([[1.0, 1, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0], [0.5, 0.5, 0.5]])
    lab = cielab(colours[:, :, None, None]).flatten(1)
    expected = [[100, 0, 0], [53.24, 80.09, 67.2], [32.3, 79.19, -107.86], [0, 0, 0], [53.39, 0, 0]]
    assert np.allclose(lab.numpy(), expected, atol=0.05)


def test_a_change_of_hue_is_seen_by_colour_and_missed_by_structure():
    image = torch.full((1, 3, 64, 64), 0.5)
    stained = image.clone()
    stained[:, 0, 20:44, 20:44] += 0.1
    stained[:, 2, 20:44, 20:44] -= 0.1
    assert msgms_map(image, stained).max() < 1e-4
    assert ssim_map(image, stained).max() < 1e-4
    assert colour_map(image, stained)[0, 0, 32, 32] > 0.1


@pytest.mark.parametrize("by_position", [False, True])
def test_no_term_drowns_the_others(by_position):
    torch.manual_seed(0)
    units = torch.tensor([1.0, 1000.0, 1e-3])[:, None, None]
    maps = torch.rand(12, 3, 32, 32) * units + 5 * units
    scale = Standardisation(3, (32, 32))
    scale.fit(maps[i : i + 1] for i in range(12))
    each = [scale(maps, [float(i == term) for i in range(3)], by_position) for term in range(3)]
    for one in each:
        assert one.mean().abs() < 0.01
        assert one.std().item() == pytest.approx(1, abs=0.1)
    both = scale(maps, [0.5, 0.0, 0.5], by_position)
    assert torch.allclose(both, 0.5 * each[0] + 0.5 * each[2], atol=1e-5)


def test_position_knows_where_good_parts_vary():
    torch.manual_seed(0)
    maps = torch.rand(20, 1, 8 * CELL, 6 * CELL)
    maps[:, :, :, : 2 * CELL] += 5 + 5 * torch.rand(20, 1, 1, 1)  # a restless edge
    maps = smooth(maps, 4.0)
    scale = Standardisation(1, (8 * CELL, 6 * CELL))
    scale.fit(maps[i : i + 4] for i in range(0, 20, 4))
    good = maps[:1].clone()
    good[0, 0, 3 * CELL, 4 * CELL] = 3.0  # strange there, though far below what the edge shows
    globally, by_position = (scale(good, [1.0], mode)[0, 0] for mode in (False, True))
    spot = (3 * CELL, 4 * CELL)
    assert globally[spot] < globally.max()
    assert by_position[spot] == by_position.max()
    assert scale(good[..., :40, :40], [1.0], True).shape == (1, 1, 40, 40)  # any size


def test_statistics_are_those_of_numpy():
    rng = np.random.default_rng(0)
    maps = rng.normal(3, 2, (7, 2, 16, 24)).astype(np.float32)
    scale = Standardisation(2, (16, 24))
    scale.fit(torch.from_numpy(maps[i : i + 3]) for i in range(0, 7, 3))
    cells = maps.reshape(7, 2, 2, 8, 3, 8)
    assert np.allclose(scale.mean_by_position, cells.mean(axis=(0, 3, 5)), rtol=1e-5)
    # All cells of so small a map touch its border: one ring.
    assert np.allclose(scale.mean_globally[:, 0, 0], maps.mean(axis=(0, 2, 3)), rtol=1e-5)
    assert np.allclose(scale.spread_globally[:, 1, 2], maps.std(axis=(0, 2, 3)), rtol=1e-5)


def test_a_bright_border_of_good_maps_does_not_count():
    torch.manual_seed(0)
    maps = torch.rand(10, 1, 128, 96)
    inside = torch.zeros(128, 96, dtype=torch.bool)
    inside[CELL:-CELL, CELL:-CELL] = True
    maps[..., ~inside] = 3 + 2 * maps[..., ~inside]
    maps = smooth(maps, 4.0)
    middle = maps[..., 32:-32, 32:-32]
    assert maps[:, 0][:, ~inside].mean() > middle.mean() + 10 * middle.std()  # raw
    scale = Standardisation(1, (128, 96))
    scale.fit([maps])
    outer = scale(maps, [1.0], False)[:, 0][:, ~inside]
    assert outer.mean().abs() < 1.5
    assert outer.std() < 2
    maps[0, 0, 2, 50] = 29  # a defect there still does
    assert scale(maps[:1], [1.0], False).argmax() == 2 * 96 + 50


def test_weights_of_terms():
    score = load_config(overrides={"score.msgms": 3, "score.l1": 0, "score.ssim": 0}).score
    assert term_weights(score) == [0.75, 0, 0, 0.25]
    none = dict.fromkeys(("score.msgms", "score.ssim", "score.l1", "score.colour"), 0)
    with pytest.raises(UserError, match="score"):
        load_config(overrides=none)
    images = torch.rand(1, 3, 33, 41)
    assert term_maps(images, images.flip(3), 2.0).shape == (1, len(TERMS), 33, 41)
