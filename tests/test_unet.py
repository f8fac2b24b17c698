import copy

import numpy as np
import pytest
import torch
from pytorch_msssim import ssim

from models import build_model
from models.unet import RestoringUNet, ScaleNorm, UNet
from train import train_step
from utils import micro_batch
from utils.anomaly_map import image_score, smooth
from utils.checkpoint import Progress
from utils.config import LossConfig, load_config
from utils.errors import UserError
from utils.losses import ReconstructionLoss, focal_loss
from utils.pixels import to_batch

CPU = torch.device("cpu")


def settings(width, depth, norm):
    overrides = {"unet.width": width, "unet.depth": depth, "unet.norm": norm}
    return load_config(overrides=overrides).unet


def tiny(norm, changes=()):
    overrides = {"unet.width": 4, "unet.depth": 2, "unet.norm": norm, "data.size": 32}
    torch.manual_seed(0)
    return build_model(load_config(overrides=overrides | dict(changes)))


@pytest.mark.parametrize("size", [(37, 50), (64, 33), (32, 32), (17, 90)])
def test_any_size_comes_back(size):
    detector = tiny("group").eval()
    prediction = detector(torch.rand(2, 3, *size))
    assert prediction.anomaly_map.shape == (2, 1, *size)
    assert prediction.reconstruction.shape == (2, 3, *size)
    assert prediction.score.shape == (2,)


def test_too_small_an_image_is_refused():
    with pytest.raises(ValueError, match="too small"):
        UNet(3, 3, settings(4, 4, "group"))(torch.rand(1, 3, 12, 64), scale=1)


@pytest.mark.parametrize("width", [1, 6, 12, 20])
def test_every_width_builds(width):
    for norm in ("group", "batch", "none"):
        network = UNet(3, 1, settings(width, 2, norm))
        assert network(torch.rand(1, 3, 32, 32), scale=1).shape == (1, 1, 32, 32)


def test_size_must_allow_the_depth():
    with pytest.raises(UserError, match="unet.depth"):
        build_model(load_config(overrides={"unet.width": 1, "unet.depth": 5, "data.size": 32}))


def test_size_must_allow_the_scales():
    overrides = {"unet.width": 1, "unet.depth": 4, "data.size": 32, "unet.scales": [1, 2]}
    with pytest.raises(UserError, match="shrunk by 2.*34 or more"):
        build_model(load_config(overrides=overrides))
    overrides["data.size"] = 34
    build_model(load_config(overrides=overrides)).eval()(torch.rand(1, 3, 34, 34))


def test_what_the_small_image_shows_is_marked_where_it_lies():
    detector = tiny("group").eval()
    images = torch.rand(1, 3, 64, 64)

    def spoil_small_ones(x, scale):
        if scale == 2:
            x = x.clone()
            x[..., 8:12, 20:24] = 0
        return x, x[:, :0]

    detector.restore.forward = spoil_small_ones
    prediction = detector(images)
    y, x = divmod(int(prediction.anomaly_map.argmax()), 64)
    assert 16 <= y < 24
    assert 40 <= x < 48
    assert torch.equal(prediction.reconstruction, images)  # that of the full size


@pytest.mark.parametrize("how", ["mean", "max"])
def test_the_maps_of_the_scales_become_one(how):
    detector = tiny("group", {"score.scales": how})
    maps, weights = torch.rand(2, 8, 32, 32), [1.0, 0.0, 3.0, 0.0]
    scales = torch.stack([maps[:, 0] + 3 * maps[:, 2], maps[:, 4] + 3 * maps[:, 6]])
    expected = scales.mean(dim=0) if how == "mean" else scales.amax(dim=0)
    found = detector.combine(maps, weights, by_position=False)
    assert torch.allclose(found, expected[:, None], atol=1e-6)


def test_each_scale_is_normalised_by_its_own_statistics():
    detector, fresh = tiny("batch"), tiny("batch")
    norms = [module for module in detector.modules() if isinstance(module, ScaleNorm)]
    small = torch.rand(8, 3, 16, 16)
    detector.train()
    for _ in range(200):
        trained = detector.restore(small, 2)[0]
    assert all((norm.running_mean[0] == 0).all() for norm in norms)
    assert all((norm.running_var[0] == 1).all() for norm in norms)
    detector.eval()
    assert torch.allclose(detector.restore(small, 2)[0], trained, atol=0.01)
    assert torch.equal(detector.restore(small, 1)[0], fresh.eval().restore(small, 1)[0])


def test_statistics_common_to_all_scales_are_still_read():
    detector, old = tiny("batch"), tiny("batch").state_dict()
    for name, tensor in old.items():
        if "running_" in name:
            old[name] = torch.rand_like(tensor[0])
    detector.load_state_dict(old)
    for name, tensor in detector.state_dict().items():
        if "running_" in name:
            assert tensor.shape == (2, *old[name].shape)
            assert (tensor == old[name]).all()


def test_where_the_gate_is_shut_the_image_stays_as_it_is():
    torch.manual_seed(0)
    unet = load_config(overrides={"unet.width": 4, "unet.depth": 2}).unet
    network = RestoringUNet(unet, gated=True).eval()
    head, images = network.network.head, torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        head.weight[3] = 0
        for bias, share in {-30.0: 0.0, 0.0: 0.5, 30.0: 1.0}.items():
            head.bias[3] = bias
            restored, gate = network(images, 1)
            assert (gate == bias).all()
            predicted = torch.sigmoid(network.network(images, 1)[:, :3])
            assert torch.allclose(restored, torch.lerp(images, predicted, share), atol=1e-6)


def test_the_gate_learns_where_the_image_was_corrupted():
    overrides = {"unet.width": 4, "unet.depth": 2, "unet.gate": True, "data.size": 34}
    clean = torch.rand(2, 3, 32, 32)
    mask = torch.zeros(2, 1, 32, 32, dtype=torch.bool)
    mask[..., 8:20, 4:16] = True
    losses = {}
    for weight in (0.0, 10.0):
        torch.manual_seed(0)
        detector = build_model(load_config(overrides=overrides | {"loss.focal": weight}))
        losses[weight] = detector.learn(*[clean, clean, mask] * 2)
        _, gate = detector.restore(clean, 1)
    by_hand = focal_loss(gate, mask, balance=detector.config.loss.balance)
    assert torch.allclose(losses[10.0] - losses[0.0], 10 * by_hand, rtol=1e-4)


@pytest.mark.parametrize("settings", [{"unet.gate": True}, {"model": "draem"}])
def test_what_tells_corruption_is_refused_without_any(settings):
    with pytest.raises(UserError, match=r"corruption is none; raise one of corruption.mask"):
        build_model(load_config(overrides=settings | {"corruption": "none"}))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_the_gate_has_its_share_of_the_map(share):
    settings = {"unet.gate": True, "score.gate": share, "score.l1": 0, "score.msgms": 2}
    detector = build_model(load_config(overrides=settings))
    weights = dict(zip(detector.terms, detector.weights, strict=True))
    rest = 1 - share
    expected = {"msgms": rest / 2, "ssim": rest / 4, "l1": 0, "colour": rest / 4, "gate": share}
    assert weights == pytest.approx(expected)


def test_hidden_cells_tell_a_gate_nothing():
    with pytest.raises(UserError, match=r"score.cells.*unet.gate"):
        build_model(load_config(overrides={"unet.gate": True, "score.cells": [8]}))


def test_default_network_has_the_stated_size():
    parameters = sum(p.numel() for p in build_model(load_config()).parameters())
    assert 7.7e6 < parameters < 7.8e6


def gradients(detector, images, pieces):
    """Parameter changes of one train_step with plain gradient descent at rate 1."""
    detector = copy.deepcopy(detector).double()  # else GroupNorm's own rounding is what is seen
    learn = detector.learn
    detector.learn = lambda *sample: learn(*(tensor.double() for tensor in sample))
    torch.manual_seed(0)  # the same corruption
    before = [p.detach().clone() for p in detector.parameters()]
    optimizer = torch.optim.SGD(detector.parameters(), lr=1.0)
    train_step(detector, optimizer, images, CPU, Progress(micro_batch=pieces))
    return [b - p.detach() for b, p in zip(before, detector.parameters(), strict=True)]


@pytest.mark.parametrize("norm", ["group", "none", "batch"])
def test_split_batch_has_the_gradients_of_the_whole(norm):
    images = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8)
    detector = tiny(norm).train()
    whole = gradients(detector, images, 5)
    for pieces in (1, 2):
        split = gradients(detector, images, pieces)
        gap = max((a - b).abs().max().item() for a, b in zip(whole, split, strict=True))
        assert (gap < 1e-5) == (norm != "batch")


def test_loss_is_l1_plus_ssim_in_float32():
    a, b = torch.rand(2, 3, 40, 40), torch.rand(2, 3, 40, 40)
    mask = torch.zeros(2, 1, 40, 40, dtype=torch.bool)
    loss = ReconstructionLoss(LossConfig(l1=2.0, ssim=0.5))
    expected = 2.0 * (a - b).abs().mean() + 0.5 * (1 - ssim(a, b, data_range=1.0))
    assert torch.allclose(loss(a, b, mask), expected)
    with torch.autocast("cpu", torch.bfloat16):
        low = loss(a.bfloat16(), b.bfloat16(), mask)
    assert low.dtype == torch.float32
    assert torch.allclose(low, loss(a.bfloat16().float(), b.bfloat16().float(), mask))


def test_loss_may_weigh_what_was_corrupted_more():
    target = torch.rand(2, 3, 40, 40)
    inside = torch.zeros(2, 1, 40, 40, dtype=torch.bool)
    inside[..., 10:14, 5:30] = True
    plain, weighing = (ReconstructionLoss(LossConfig(corrupted=weight)) for weight in (0.0, 9.0))
    wrong_inside = torch.where(inside, 1 - target, target)
    wrong_outside = torch.where(inside, target, 1 - target)
    assert torch.allclose(
        weighing(wrong_inside, target, inside), 10 * plain(wrong_inside, target, inside)
    )
    assert weighing(wrong_outside, target, inside) == plain(wrong_outside, target, inside)


def test_image_scores_by_hand():
    maps = torch.zeros(1, 1, 20, 20)
    maps[0, 0, 0, :4] = torch.tensor([1.0, 2.0, 3.0, 8.0])  # 1% of 400 pixels are 4
    assert image_score(maps, "mean").item() == pytest.approx(14 / 400)
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


def test_micro_batch_fits_the_memory(monkeypatch):
    detector = tiny("batch")
    before = copy.deepcopy(detector.state_dict())
    image = to_batch(np.zeros((1, 32, 32, 3), np.uint8), CPU)
    assert micro_batch.pick_micro_batch(6, detector, image, 24) == 6
    assert micro_batch.pick_micro_batch(60, detector, image, 24) == 24
    bytes_an_image = micro_batch.saved_bytes(detector, image)
    enough = 2 * 5.5 * micro_batch.PEAK_OVER_SAVED * bytes_an_image
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: int(enough))
    assert micro_batch.pick_micro_batch("auto", detector, image, 24) == 5
    monkeypatch.setattr(micro_batch, "free_memory", lambda device: 0)
    assert micro_batch.pick_micro_batch("auto", detector, image, 24) == 1
    after = detector.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
