import torch

from utils.anomaly_map import smooth
from utils.standardise import Standardisation

SIZE = (64, 48)


def fitted(maps):
    """A scale set on maps [N, T, H, W] in batches of several lengths."""
    scale = Standardisation(maps.shape[1], tuple(maps.shape[-2:]))
    scale.fit(maps[i : i + 5] for i in range(0, len(maps), 5))
    return scale


def test_maps_of_all_units_have_one_scale():
    torch.manual_seed(0)
    units = torch.tensor([1.0, 1000.0, 1e-3])[:, None, None]
    maps = torch.rand(12, 1, *SIZE) * units + 5 * units
    found = fitted(maps)(maps)
    assert found.mean(dim=(0, 2, 3)).abs().max() < 0.01  # 0 is ordinary
    assert torch.allclose(found[:, :1].expand_as(found), found, atol=1e-3)
    highest = found.flatten(2).topk(64 * 48 // 100, dim=2).values.mean()
    assert (highest - 1).abs() < 1e-3  # 1 is as high as the strangest hundredth


def test_maps_of_another_size_are_taken():
    scale = fitted(torch.rand(3, 2, *SIZE))
    for size in ((16, 20), (63, 101)):
        assert scale(torch.rand(1, 2, *size)).shape == (1, 2, *size)


def test_a_bright_border_of_good_maps_does_not_count():
    torch.manual_seed(0)
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[8:-8, 8:-8] = True
    maps = torch.rand(10, 1, *SIZE)
    maps[..., ~inside] += 3
    maps = smooth(maps, 3.0)
    scale = fitted(maps)
    before, after = (
        (found[..., ~inside].mean() - found[..., inside].mean()).abs()
        for found in (maps, scale(maps) * scale.rise)
    )
    assert after < 0.1 * before
    maps[0, 0, 2, 20] = 15  # a defect there still does
    assert fitted(maps[1:])(maps[:1]).argmax() == 2 * 48 + 20


def test_a_map_that_is_alike_everywhere_stays_finite():
    scale = fitted(torch.full((2, 1, *SIZE), 0.3))
    assert scale(torch.rand(1, 1, *SIZE)).isfinite().all()
