import pytest
import torch
from pytorch_msssim import ssim

from models.losses import ReconstructionLoss, focal_loss
from utils.config import load_config


def test_loss_is_l1_plus_ssim_in_float32():
    a, b = torch.rand(2, 3, 40, 40), torch.rand(2, 3, 40, 40)
    nowhere = torch.zeros(2, 1, 40, 40, dtype=torch.bool)
    loss = ReconstructionLoss(load_config(overrides={"loss.l1": 2.0, "loss.ssim": 0.5}).loss)
    expected = 2.0 * (a - b).abs().mean() + 0.5 * (1 - ssim(a, b, data_range=1.0))
    assert torch.allclose(loss(a, b, nowhere), expected)
    with torch.autocast("cpu", torch.bfloat16):
        low = loss(a.bfloat16(), b.bfloat16(), nowhere)
    assert low.dtype == torch.float32
    assert torch.allclose(low, loss(a.bfloat16().float(), b.bfloat16().float(), nowhere))


def test_what_was_corrupted_weighs_more_in_the_reconstruction():
    target = torch.rand(2, 3, 40, 40)
    inside = torch.zeros(2, 1, 40, 40, dtype=torch.bool)
    inside[..., 10:14, 5:30] = True
    nowhere = torch.zeros_like(inside)
    loss = ReconstructionLoss(load_config().loss)
    wrong_inside = torch.where(inside, 1 - target, target)
    wrong_outside = torch.where(inside, target, 1 - target)
    assert loss(wrong_inside, target, inside) > 1.5 * loss(wrong_inside, target, nowhere)
    assert loss(wrong_outside, target, inside) == loss(wrong_outside, target, nowhere)


def test_focal_loss_by_hand():
    logits = torch.tensor([[[[2.0, -1.0]]]])
    mask = torch.tensor([[[[True, True]]]])
    right = torch.sigmoid(logits)  # probability of what is true
    expected = (-((1 - right) ** 2) * right.log()).mean()
    assert focal_loss(logits, mask).item() == pytest.approx(expected.item(), rel=1e-5)
    assert focal_loss(-logits, ~mask).item() == pytest.approx(expected.item(), rel=1e-5)
    sure, unsure = focal_loss(torch.tensor([[[[4.0]]]]), torch.tensor([[[[True]]]])), expected
    assert sure < 0.01 * unsure


def test_balanced_focal_loss_weighs_small_defects_more():
    logits = torch.zeros(1, 1, 96, 96, requires_grad=True)
    mask = torch.zeros(1, 1, 96, 96, dtype=torch.bool)
    mask[..., 10:12, 10:12] = True  # a spot
    mask[..., 30:, :] = True  # a large patch
    gradients = []
    for balance in (0.0, 4.0):
        gradients.append(torch.autograd.grad(focal_loss(logits, mask, balance=balance), logits)[0])
    weight = (gradients[1] / gradients[0])[0, 0]
    assert torch.allclose(weight[~mask[0, 0]], torch.ones(()))
    assert weight[70, 50] == pytest.approx(1)
    # 4 pixels near the peak of a Gaussian of 4 pixels have 4 / (2 pi 16) of its mass.
    assert weight[10, 10] == pytest.approx(2 * torch.pi * 16 / 4, rel=0.05)
