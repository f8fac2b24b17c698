import pytest
import torch

from models.backbones import LITE, build_encoder
from training.self_supervised import SelfSupervised, vicreg_loss, view


def test_loss_by_hand():
    # Standard deviations 2 and 1, which is enough; covariance 1 off the diagonal, twice, for each.
    first = torch.tensor([[2.0, 1.0], [-2.0, 0.0], [0.0, -1.0]])
    assert vicreg_loss(first, first).item() == pytest.approx(2 * (1 + 1) / 2, abs=1e-4)
    # Moved by 0.2 all over, it has the same spread: 25 * 0.04 on top.
    assert vicreg_loss(first, first + 0.2).item() == pytest.approx(2 + 1, abs=1e-3)
    # Collapsed: standard deviations of the root of 1e-4 instead of 1.
    same = torch.ones(3, 2)
    assert vicreg_loss(same, same).item() == pytest.approx(25 * 0.99, abs=1e-4)


def test_collapse_and_redundancy_cost():
    torch.manual_seed(0)
    varied = torch.randn(64, 8)
    loss = vicreg_loss(varied, varied)
    assert vicreg_loss(varied * 0.01, varied * 0.01) > loss + 10
    copies = varied[:, :1].expand(-1, 8)
    assert vicreg_loss(copies, copies) > loss + 5
    assert vicreg_loss(varied, varied.roll(1, 0)) > loss + 10


def test_views_differ_from_image_to_image():
    torch.manual_seed(0)
    images = torch.rand(1, 3, 48, 32).expand(2, -1, -1, -1)
    seen = view(images)
    assert seen.shape == images.shape
    assert seen.min() >= 0 and seen.max() <= 1
    assert not torch.equal(seen[0], seen[1])


def test_what_learns_is_the_backbone_in_training_mode():
    torch.manual_seed(0)
    model = SelfSupervised(build_encoder(LITE)).train()
    images = torch.rand(4, 3, 64, 64)
    running = model.encoder.network.bn1.running_mean.clone()
    vicreg_loss(model(images), model(images.flip(-1))).backward()
    assert all(parameter.grad is not None for parameter in model.encoder.parameters())
    assert not torch.equal(model.encoder.network.bn1.running_mean, running)
