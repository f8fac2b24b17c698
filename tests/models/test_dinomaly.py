import pytest
import torch
from drawn_images import texture
from torch.nn import functional as F

from models import build_model, dinomaly
from models.dinomaly import EASY_GRADIENT, linear_attention, mine_hard
from utils.config import load_config
from utils.errors import UserError


def tiny(**overrides):
    """Dinomaly on two blocks of a small transformer with random weights, 128x128."""
    settings = {"model": "dinomaly", "data.size": 128}
    settings |= {"backbone.name": "vit_tiny_patch16_224", "backbone.layers": [0, 1]}
    torch.manual_seed(0)
    return build_model(load_config(overrides=settings | overrides))


@pytest.fixture(scope="module")
def learned():
    """A detector after some steps on a texture."""
    detector, images = tiny().train(), texture(4, (128, 128))
    optimizer = torch.optim.Adam((p for p in detector.parameters() if p.requires_grad), 2e-3)
    for _ in range(30):
        detector.loss(*detector.prepare(images)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return detector.eval()


@pytest.mark.parametrize(("row", "column"), [(40, 64), (0, 90), (100, 0)])
def test_a_planted_defect_is_found_where_it_is(learned, row, column):
    good = texture(5, (128, 128))[4:]
    bad = good.clone()
    bad[..., row : row + 24, column : column + 24] = torch.tensor([0.9, 0.1, 0.1])[:, None, None]
    with torch.inference_mode():
        before, after = learned(good), learned(bad)
    assert after.score > before.score
    y, x = divmod(int((after.anomaly_map - before.anomaly_map).argmax()), 128)
    assert row - 16 <= y < row + 40
    assert column - 16 <= x < column + 40


def test_linear_attention_is_attention_with_another_kernel():
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, 2, 4, 7, 5)
    weights = (F.elu(queries) + 1) @ (F.elu(keys) + 1).transpose(-2, -1)  # [2, 4, 7, 7]
    expected = weights / weights.sum(dim=-1, keepdim=True) @ values
    assert torch.allclose(linear_attention(queries, keys, values), expected, atol=1e-5)


def test_hard_mining_shrinks_the_gradient_of_what_is_well_restored(monkeypatch):
    torch.manual_seed(0)
    wanted = torch.randn(2, 6, 4, 5)
    # The further to the right and the later in the batch, the worse.
    noise = torch.arange(1.0, 41).reshape(2, 1, 4, 5) / 40
    restored = (wanted + noise * wanted.roll(1, dims=1)).requires_grad_()
    monkeypatch.setattr(dinomaly, "HARD_SHARE", 0.2)
    mined = mine_hard(wanted, restored)
    assert torch.allclose(mined, restored)
    mined.sum().backward()
    distance = 1 - F.cosine_similarity(wanted, restored.detach(), dim=1)
    worst = distance >= distance.flatten().sort().values[-8]
    assert worst.sum() == 8
    for channel in restored.grad.unbind(dim=1):
        assert torch.allclose(channel[worst], torch.tensor(1.0))
        assert torch.allclose(channel[~worst], torch.tensor(EASY_GRADIENT))


def test_the_decoder_learns_and_the_encoder_does_not():
    detector = tiny().train()
    detector.loss(*detector.prepare(texture(2, (128, 128)))).backward()
    for name, parameter in detector.named_parameters():
        assert (parameter.grad is None) == name.startswith("backbone."), name
    learning = sum(len(group["params"]) for group in detector.optimizer().param_groups)
    assert learning == sum(not name.startswith("backbone.") for name in detector.state_dict())


def test_only_training_is_noisy():
    detector = tiny()
    sample = detector.prepare(texture(1, (128, 128)))
    with torch.no_grad():
        assert detector.train().loss(*sample) != detector.loss(*sample)
        assert detector.eval().loss(*sample) == detector.loss(*sample)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"backbone.name": "efficientnet_lite0"}, ["efficientnet_lite0", "backbone.name=vit_"]),
        ({"backbone.layers": [1]}, ["backbone.layers"]),
    ],
)
def test_what_cannot_be_restored_is_refused(wrong, words):
    with pytest.raises(UserError) as caught:
        tiny(**wrong)
    assert all(word in str(caught.value) for word in words)
