import copy

import numpy as np
import pytest
import torch
from fitted import in_folds, saved

from data.tensors import to_batch
from inspection.torch_inspector import load_detector
from models import build_model
from models.backbones import STRIDES, build_encoder
from models.drawn_defects.corruption import KINDS
from training.loop import pick_micro_batch, train_step
from utils.config import load_config
from utils.errors import UserError

CPU = torch.device("cpu")
ENCODERS = ["efficientnet_lite0", "scratch"]


def tiny(encoder="scratch", **changes):
    """A narrow U-Net with random weights, the pretrained encoder's too."""
    torch.manual_seed(0)
    overrides = {"unet.width": 4, "unet.encoder": encoder, "data.size": 64}
    return build_model(load_config(overrides=overrides | changes))


def pixels(count, side=64):
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def encoder_state(detector):
    return copy.deepcopy(detector.network.encoder.state_dict())


def assert_equal_states(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


@pytest.mark.parametrize("encoder", ENCODERS)
def test_any_size_comes_back(encoder):
    detector = tiny(encoder).eval()
    detector.finish(in_folds(torch.rand(1, 3, 64, 64)))
    for size in ((64, 64), (37, 50), (64, 33), (33, 97)):
        prediction = detector(torch.rand(2, 3, *size))
        assert prediction.anomaly_map.shape == (2, 1, *size)
        assert prediction.reconstruction.shape == (2, 3, *size)
        assert prediction.score.shape == (2,)
        assert all(found.isfinite().all() for found in prediction)


def test_the_encoder_stays_as_it_was_pretrained():
    detector = tiny("efficientnet_lite0", **{"train.lr": 0.1}).train()
    detector.load_pretrained()
    before, decoder = encoder_state(detector), copy.deepcopy(detector.network.merge.state_dict())
    optimizer = detector.optimizer()
    for _ in range(3):
        train_step(detector, optimizer, pixels(2), CPU, 2)
    assert_equal_states(before, encoder_state(detector))  # its running statistics among it
    assert not any(p.requires_grad for p in detector.network.encoder.parameters())
    after = detector.network.merge.state_dict()
    learned = [key for key in decoder if not torch.equal(decoder[key], after[key])]
    assert learned == list(decoder)  # weights and running statistics alike


def test_an_encoder_from_scratch_learns():
    detector = tiny("scratch").train()
    before = encoder_state(detector)
    train_step(detector, detector.optimizer(), pixels(2), CPU, 2)
    after = encoder_state(detector)
    assert not any(torch.equal(before[key], after[key]) for key in before if "weight" in key)


def test_a_run_opens_without_the_package_of_its_encoder(tmp_path, monkeypatch):
    detector = tiny("efficientnet_lite0").eval()
    detector.load_pretrained()
    detector.finish(in_folds(*torch.rand(3, 3, 64, 64).split(1)))
    state, file = detector.state_dict(), saved(detector, tmp_path)

    def missing(name):
        raise UserError("not installed")

    monkeypatch.setattr("models.backbones.packaged_weights", missing)
    loaded, _ = load_detector(file, CPU)
    assert_equal_states(state, loaded.state_dict())
    images = torch.rand(2, 3, 64, 64)
    for ours, theirs in zip(detector(images), loaded(images), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)  # other memory layout, other rounding
    with pytest.raises(UserError, match="not installed"):
        tiny("efficientnet_lite0").load_pretrained()


def test_another_encoder_takes_its_weights_from_a_file(tmp_path):
    from torchvision.models import resnet18

    torch.manual_seed(1)
    state, file = resnet18().state_dict(), tmp_path / "resnet18.pth"
    torch.save(state, file)
    detector = tiny("resnet18", **{"backbone.weights": str(file)}).eval()
    own = detector.network.encoder.network.state_dict()
    assert not torch.equal(own["conv1.weight"], state["conv1.weight"])
    detector.load_pretrained()
    assert len(own) > 100
    assert all(torch.equal(value, state[key]) for key, value in own.items())
    detector.finish(in_folds(torch.rand(1, 3, 64, 64)))
    assert detector(torch.rand(1, 3, 50, 70)).anomaly_map.shape == (1, 1, 50, 70)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18", "vgg11"])
def test_encoders_have_a_map_at_each_stride(name):
    torch.manual_seed(0)
    encoder = build_encoder(name)
    maps = encoder(torch.rand(1, 3, 128, 64))
    assert [m.shape[1] for m in maps] == encoder.channels
    assert [m.shape[2:] for m in maps] == [(128 // s, 64 // s) for s in STRIDES]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("resnet81", ["unet.encoder is 'resnet81'", "did you mean resnet"]),
        ("scratsh", ["did you mean scratch?"]),
        ("vit_tiny_patch16_224", ["vit_tiny_patch16_224", "strides 2, 4, 8, 16, 32"]),
        ("convnext_atto", ["unet.encoder convnext_atto", "convolutional", "resnet18"]),
    ],
)
def test_networks_that_are_no_encoder_are_named(name, words):
    with pytest.raises(UserError) as caught:
        tiny(name)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize("model", ["unet", "draem"])
def test_training_without_any_defect_is_refused(model):
    with pytest.raises(UserError, match=r"corruption.kinds names nothing but clean.* add some"):
        build_model(load_config(overrides={"model": model, "corruption.kinds": "clean"}))


@pytest.mark.parametrize("model", ["unet", "draem"])
def test_the_target_is_the_image_without_what_corrupted_it(model):
    strong = {"model": model, "corruption.kinds": list(KINDS)}
    detector = tiny(**strong)
    images = to_batch(pixels(6), CPU)
    corrupted, clean, mask = detector.prepare(images)
    assert mask.any()
    changed = (corrupted != clean).any(dim=1, keepdim=True)
    assert (changed <= mask).all()
    # What differs harmlessly belongs to the target of the U-Net.
    assert torch.equal(clean, images) == (model == "draem")


def test_good_images_are_at_no_distance_from_the_memory_bank():
    detector = tiny("efficientnet_lite0").eval()
    good = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    detector.finish(in_folds(*good.split(1)))
    other = good.clone()
    other[..., 24:40, 24:40] = 0.1
    known, anomalous = (detector.raw_terms(images)[0][:, 3:] for images in (good, other))
    assert (known.amax(dim=(0, 2, 3)) < 1e-2 * anomalous.amax(dim=(0, 2, 3))).all()


def test_finishing_twice_fills_the_memory_bank_once():
    once, twice = tiny().eval(), tiny().eval()
    images = in_folds(*torch.rand(3, 3, 64, 64).split(1))
    twice.finish(images)
    for detector in (once, twice):
        torch.manual_seed(0)
        detector.finish(images)
    assert_equal_states(once.state_dict(), twice.state_dict())


def gradients(detector, images, pieces):
    """Parameter changes of one train_step with plain gradient descent at rate 1."""
    detector = copy.deepcopy(detector).double()
    loss = detector.loss
    detector.loss = lambda corrupted, clean, mask: loss(corrupted.double(), clean.double(), mask)
    torch.manual_seed(0)  # the same corruption
    trainable = [p for p in detector.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in trainable]
    optimizer = torch.optim.SGD(trainable, lr=1.0)
    train_step(detector, optimizer, images, CPU, pieces)
    return torch.cat([(b - p.detach()).flatten() for b, p in zip(before, trainable, strict=True)])


@pytest.mark.parametrize("encoder", ENCODERS)
def test_split_batch_has_the_gradients_of_the_whole(encoder):
    detector = tiny(encoder).eval()  # batch normalisation alone would see which images are together
    whole = gradients(detector, pixels(5), 5)
    for pieces in (1, 2):
        gap = (gradients(detector, pixels(5), pieces) - whole).abs().max()
        assert gap < 1e-4 * whole.abs().max()


def test_what_passes_at_once_follows_from_size_and_kind_of_device_alone():
    gpu = torch.device("meta")  # any that is no CPU
    for size, expected in {
        (64, 64): (24, 24), (256, 256): (16, 24), (512, 512): (4, 24), (512, 1024): (2, 12),
        (4096, 4096): (1, 1),
    }.items():  # fmt: skip
        config = load_config(overrides={"train.batch": 24, "data.size": list(size)})
        assert tuple(pick_micro_batch(config, device) for device in (CPU, gpu)) == expected
    config = load_config(overrides={"train.batch": 24, "train.crop": 64, "data.size": 4096})
    assert pick_micro_batch(config, CPU) == 24
    for number in (6, 60):
        config = load_config(overrides={"train.batch": 24, "train.micro_batch": number})
        assert pick_micro_batch(config, CPU) == min(number, 24)


def test_where_the_gate_closes_the_network_reconstructs_without_the_detail():
    network = tiny().network.eval()
    images = torch.rand(1, 3, 64, 64)
    for bias, hidden in {30.0: True, -30.0: False}.items():
        torch.nn.init.zeros_(network.gate.weight)
        torch.nn.init.constant_(network.gate.bias, bias)
        (restored, logits, _), weight = network(images), network.stem.weight.detach().clone()
        network.stem.weight.data.mul_(-1)  # another finest detail
        restored_anew, logits_anew, _ = network(images)
        assert torch.allclose(restored, restored_anew, atol=1e-5) == hidden
        assert not torch.allclose(logits, logits_anew, atol=1e-5)
        network.stem.weight.data.copy_(weight)


@pytest.mark.parametrize(
    "settings", [{"data.size": 48}, {"train.crop": 32}, {"model": "draem", "data.size": 48}]
)
def test_images_too_small_for_the_coarsest_level_are_refused(settings):
    with pytest.raises(UserError, match=r"(data.size|train.crop) of \d+ pixels is too small"):
        build_model(load_config(overrides={"data.size": 64} | settings))
