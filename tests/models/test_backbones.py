import pytest
import torch
from torch import nn

from models import backbones
from models.backbones import LITE, build_backbone
from utils.config import load_config
from utils.errors import UserError


def settings(**changes):
    """The section of the backbone with some settings changed."""
    return load_config(overrides={f"backbone.{k}": v for k, v in changes.items()}).backbone


def lite(layers=("2", "4")):
    return build_backbone(settings(layers=layers), LITE)


@pytest.mark.parametrize(
    ("name", "layers", "shapes"),
    [
        (LITE, [2, 10], [(24, 16, 24), (112, 4, 6)]),
        ("resnet18", ["layer1", "layer3"], [(64, 16, 24), (256, 4, 6)]),
        ("vit_tiny_patch16_224", [3, 1], [(192, 4, 6), (192, 4, 6)]),
    ],
)
def test_taps_of_each_library(name, layers, shapes):
    torch.manual_seed(0)
    backbone = build_backbone(settings(name=name, layers=layers), LITE)
    assert backbone.channels == [channels for channels, _, _ in shapes]
    images = torch.rand(2, 3, 64, 96)
    maps = backbone.train()(images)
    assert [m.shape for m in maps] == [(2, *shape) for shape in shapes]
    assert all(m.isfinite().all() and m.std() > 0 for m in maps)
    # Frozen, also in training: neither gradients, nor running statistics, nor dropped paths.
    assert not any(p.requires_grad for p in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    assert all(torch.equal(a, b) for a, b in zip(maps, backbone(images), strict=True))


def test_layers_come_in_the_order_asked_for():
    torch.manual_seed(0)
    backbone = build_backbone(settings(name="vit_tiny_patch16_224", layers=[3, 1]), LITE)
    images = torch.rand(1, 3, 64, 64)
    late, early = backbone(images)
    backbone.layers = ("1", "3")
    assert torch.equal(backbone(images)[1], late)
    assert not torch.equal(early, late)


def test_images_of_any_size_fit_the_patches():
    backbone = build_backbone(settings(name="vit_tiny_patch16_224", layers=[0]), LITE)
    assert backbone(torch.rand(1, 3, 70, 33))[0].shape == (1, 192, 4, 2)


def test_packaged_weights_are_the_pretrained_ones():
    backbone = lite()
    before = backbone(torch.rand(1, 3, 64, 64))
    backbone.load(None)
    assert not torch.equal(before[0], backbone(torch.rand(1, 3, 64, 64))[0])
    # Statistics of a trained network: no running mean is still at zero.
    norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.running_mean.abs().max() > 0 for norm in norms)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_come_from_a_file(tmp_path, suffix):
    from safetensors.torch import save_file

    torch.manual_seed(0)
    whole = build_backbone(settings(name="resnet18", layers=["layer4"]), LITE)
    file = tmp_path / f"weights.{suffix}"
    state = {key: value.clone() for key, value in whole.network.state_dict().items()}
    state["fc.weight"] = torch.zeros(3)  # a layer that is not needed may have any shape
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    part = build_backbone(settings(name="resnet18", layers=["layer1"]), LITE)
    assert not torch.equal(part.network.state_dict()["conv1.weight"], state["conv1.weight"])
    part.load(str(file))
    for key, value in part.network.state_dict().items():
        assert torch.equal(value, state[key])


def test_weights_that_do_not_fit_are_named(tmp_path):
    backbone = lite()
    state = dict(backbone.network.state_dict())
    file = tmp_path / "weights.pt"

    def refused(*words):
        with pytest.raises(UserError) as caught:
            backbone.load(str(file))
        assert "\n" not in str(caught.value)
        assert all(word in str(caught.value) for word in words), str(caught.value)

    refused("no weights at", "weights.pt")
    torch.save(state | {"_bn0.weight": torch.zeros(5)}, file)
    refused("_bn0.weight", "[5]", "[32]")
    del state["_blocks.1._bn0.weight"]
    state["stem.weight"] = torch.zeros(1)
    torch.save(state, file)
    refused("_blocks.1._bn0.weight is missing", "stem.weight is unexpected")
    torch.save({"weights": [1, 2]}, file)
    refused("weights.pt is damaged")


def test_without_a_network_there_are_three_ways_out(monkeypatch):
    backbone = build_backbone(settings(name="resnet18"), LITE)

    def offline():
        raise OSError("no such host")

    monkeypatch.setattr(backbone, "download", offline)
    with pytest.raises(UserError) as caught:
        backbone.load(None)
    for way in ("connect to the internet", "backbone.weights=FILE", f"backbone.name={LITE}"):
        assert way in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "resnet81"}, ["resnet81", "did you mean resnet"]),
        ({"name": "resnet18", "layers": ["layer5"]}, ["layer5", "did you mean layer"]),
        ({"layers": [16]}, ["'16'", LITE]),
    ],
)
def test_unknown_networks_and_layers_are_named(wrong, words):
    with pytest.raises(UserError) as caught:
        build_backbone(settings(**wrong), LITE)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_features_of_several_layers_are_laid_over_one_another():
    fine, coarse = torch.rand(1, 2, 8, 6), torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    together = backbones.concatenated([fine, coarse])
    assert together.shape == (1, 3, 8, 6)
    assert torch.equal(together[:, :2], fine)
    corners = together[0, 2][[0, 0, -1, -1], [0, -1, 0, -1]]
    assert torch.equal(corners, torch.tensor([1.0, 2.0, 3.0, 4.0]))
