import torch
from fitted import TensorFold

from models.anomaly_maps import smooth
from models.normalisation import Normalisation
from utils.config import load_config

SIZE = (64, 48)  # of the maps, at half the resolution of the images


def fitted(maps, **settings):
    """A normalisation fitted to maps [N, T, H, W] in folds of several lengths."""
    size = [2 * side for side in maps.shape[-2:]]
    normalisation = Normalisation(
        maps.shape[1], load_config(overrides={"data.size": size} | settings).data
    )
    normalisation.fit([maps[i : i + 5] for i in range(0, len(maps), 5)])
    return normalisation


def test_maps_of_all_units_have_one_normalisation():
    torch.manual_seed(0)
    units = torch.tensor([1.0, 1000.0, 1e-3])[:, None, None]
    maps = torch.rand(12, 1, *SIZE) * units + 5 * units
    found = fitted(maps)(maps)
    assert found.mean(dim=(0, 2, 3)).abs().max() < 0.01  # 0 is ordinary
    assert torch.allclose(found[:, :1].expand_as(found), found, atol=1e-3)


def test_maps_of_another_size_are_taken():
    normalisation = fitted(torch.rand(3, 2, *SIZE))
    for size in ((16, 20), (63, 101)):
        assert normalisation(torch.rand(1, 2, *size)).shape == (1, 2, *size)


def test_a_high_border_of_good_maps_is_removed():
    torch.manual_seed(0)
    from_border = [torch.minimum(torch.arange(n), torch.arange(n).flip(0)) for n in SIZE]
    distance = torch.minimum(from_border[0][:, None], from_border[1])
    border = distance < 8
    maps = smooth(torch.rand(10, 1, *SIZE), 1.0) + 3 * torch.exp(-distance / 8)
    before, after = (
        ((found[..., border].mean() - found[..., ~border].mean()) / found.max()).abs()
        for found in (maps, fitted(maps)(maps))
    )
    assert before > 0.3
    assert after < 0.15
    maps[0, 0, 2, 20] = 15  # a defect there still does
    assert fitted(maps[1:])(maps[:1]).argmax() == 2 * 48 + 20


def test_a_map_that_is_alike_everywhere_stays_finite():
    normalisation = fitted(torch.full((2, 1, *SIZE), 0.3))
    assert normalisation(torch.rand(1, 1, *SIZE)).isfinite().all()


def test_a_varying_cell_of_aligned_parts_weighs_less():
    torch.manual_seed(0)
    maps = 0.1 * torch.rand(60, 1, *SIZE)
    maps[..., 24:32, 16:24] += 2 * torch.rand(60, 1, 1, 1)  # an edge that differs from part to part
    defective = maps[:1].clone()
    defective[..., 44:48, 32:36] = 1  # less than the edge shows on many a good part
    assert defective.argmax() != maps.argmax()
    normalisation = fitted(maps[1:])
    assert normalisation(defective).argmax().item() // SIZE[1] in range(44, 48)
    assert normalisation(maps[:1]).max() < normalisation(defective).max() / 2
    for parts in ("bolt,nut", "all"):  # whose cells do not show the same
        assert fitted(maps[1:], **{"data.category": parts}).std[0].unique().numel() == 1


def test_parts_that_lie_anywhere_have_one_normalisation():
    torch.manual_seed(0)
    maps = 0.02 * torch.rand(60, 1, *SIZE)
    for one, down, across in zip(maps, *torch.randint(0, 40, (2, 60)), strict=True):
        one[:, down : down + 8, across : across + 8] += torch.rand(()) + 0.5
    assert fitted(maps).std[0].unique().numel() == 1


def test_dust_where_good_parts_never_vary_is_not_blown_up():
    torch.manual_seed(0)
    maps = torch.zeros(60, 1, *SIZE)
    maps[..., 16:48, 8:40] = 5 * torch.rand(32, 32) + torch.rand(60, 1, 32, 32)
    normalisation = fitted(maps)
    assert normalisation.std[0].unique().numel() > 1
    dust = maps[:2].clone()
    dust[0, 0, 30:34, 20:24] += 4  # on the part
    dust[1, 0, 4:8, 2:6] += 4  # beside it
    on, beside = normalisation(dust).amax(dim=(1, 2, 3))
    assert beside < 4 * on


def test_without_a_fold_it_is_that_of_the_others():
    torch.manual_seed(0)
    maps = torch.rand(12, 2, *SIZE)
    maps[3:6] *= 3
    whole = Normalisation(2, load_config(overrides={"data.size": [128, 96]}).data)
    others = Normalisation(2, load_config(overrides={"data.size": [128, 96]}).data)
    whole.fit(list(maps.split(3)))
    others.fit([maps[:3], maps[6:9], maps[9:]])
    with whole.without(TensorFold(1, [])):
        assert torch.allclose(whole(maps), others(maps))
    assert not torch.allclose(whole(maps), others(maps))
