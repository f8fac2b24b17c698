import numpy as np
import pytest
import torch
from pytorch_msssim import ssim

from models import anomaly_maps
from models.anomaly_maps import cielab, colour_map, smooth, ssim_map
from models.image_score import image_score


@pytest.mark.parametrize("compare", [ssim_map, colour_map])
def test_equal_images_differ_nowhere_and_others_do(compare):
    torch.manual_seed(0)
    images = torch.rand(2, 3, 40, 56)
    same = compare(images, images)
    assert same.shape == (2, 1, 40, 56)
    assert same.abs().max() < 1e-4
    changed = images.clone()
    changed[0, :, 10:20, 10:20] = 0.5
    difference = compare(images, changed)
    assert difference[0, :, 11:19, 11:19].mean() > 20 * difference[1].mean()


def test_ssim_map_has_the_mean_of_ssim(monkeypatch):
    torch.manual_seed(0)
    grey = torch.rand(2, 1, 64, 48).repeat(1, 3, 1, 1)
    other = (grey + 0.2 * torch.rand(2, 1, 64, 48)).clamp(0, 1)
    monkeypatch.setattr(anomaly_maps, "SCALES", 1)
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
    assert ssim_map(image, stained).max() < 1e-4
    assert colour_map(image, stained)[0, 0, 32, 32] > 0.1


def test_image_scores_by_hand():
    maps = torch.zeros(1, 1, 20, 20)
    maps[0, 0, 0, :4] = torch.tensor([1.0, 2.0, 3.0, 8.0])  # 1% of 400 pixels are 4
    assert image_score(maps, "max").item() == 8
    assert image_score(maps, "top1").item() == pytest.approx(14 / 4)


def test_smoothing_leaves_no_margin():
    flat = smooth(torch.full((1, 1, 40, 30), 0.7), 4.0)
    assert torch.allclose(flat, torch.full_like(flat, 0.7), atol=1e-6)
    spike = torch.zeros(2, 1, 41, 41)
    spike[0, 0, 20, 20] = 1
    spike[1, 0, 0, 0] = 1
    blurred = smooth(spike, 3.0)
    assert blurred[0].sum().item() == pytest.approx(1, abs=1e-5)
    assert blurred[1].max() >= blurred[0].max()
