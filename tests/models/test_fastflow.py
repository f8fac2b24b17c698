import pytest
import torch
from drawn_images import texture
from fitted import detector

from models import fastflow
from models.fastflow import MAX_LOG_SCALE, Flow, energy, positional_encoding

CHANNELS = 5  # halves that differ


@pytest.fixture
def flow(monkeypatch):
    """A flow of four steps that has moved away from where it starts, in double precision."""
    monkeypatch.setattr(fastflow, "STEPS", 4)
    torch.manual_seed(0)
    flow = Flow(CHANNELS).eval()
    for weights in flow.parameters():
        torch.nn.init.normal_(weights, std=0.5)
    return flow.double()


def test_its_log_determinant_is_that_of_its_jacobian(flow):
    features = torch.randn(1, CHANNELS, 3, 4, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda x: flow(x)[0].flatten(), features)
    scale = (flow.scale.running_var + flow.scale.eps).rsqrt().log().sum() * 3 * 4  # not learned
    expected = torch.linalg.slogdet(jacobian.view(60, 60)).logabsdet - scale
    _, log_determinant = flow(features)
    assert log_determinant.shape == (1, 1, 3, 4)
    assert log_determinant.sum().item() == pytest.approx(expected.item(), rel=1e-6)
    assert abs(expected) > 1


def test_its_steps_can_be_undone(flow):
    x = torch.randn(2, CHANNELS, 6, 6, dtype=torch.float64)
    after, position = x, positional_encoding(6, 6).double()
    for step in flow.steps:
        after, _ = step(after, position)
    for step in reversed(flow.steps):
        kept, changed = after.split(step.halves, dim=1)
        inputs = torch.cat([kept, position.expand(2, -1, -1, -1)], dim=1)
        log_scale, shift = step.subnet(inputs).chunk(2, dim=1)
        log_scale = MAX_LOG_SCALE * torch.tanh(log_scale / MAX_LOG_SCALE)
        before = torch.cat([kept, (changed - shift) * (-log_scale).exp()], dim=1)
        after = before[:, step.order.argsort()]
    assert (after - x).abs().max() < 1e-9


def test_what_is_common_at_one_position_is_rare_at_another():
    torch.manual_seed(0)
    good = torch.randn(64, CHANNELS, 8, 8)
    good[..., :4] += 3  # on the left, as good parts are
    flow = Flow(CHANNELS)
    optimizer = torch.optim.Adam(flow.parameters(), 1e-2)
    for _ in range(200):
        noise, log_determinant = flow(good)
        optimizer.zero_grad()
        (energy(noise) - log_determinant / CHANNELS).mean().backward()
        optimizer.step()
    with torch.no_grad():
        as_they_are, turned = (energy(flow.eval()(x)[0]).mean() for x in (good, good.flip(3)))
    assert turned > 2 * as_they_are


def test_it_finds_what_it_has_not_learned():
    good = texture(12, (64, 64))
    model = detector("fastflow", **{"train.lr": 1e-2})
    model.load_pretrained()
    optimizer = model.optimizer()
    model.train()
    losses = []
    for _ in range(30):
        loss = model.loss(*model.prepare(good[1:]))
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0] - 0.5
    model.eval().finish([])
    defective = good[:1].clone()
    defective[:, :, 40:50, 12:22] = torch.tensor([0.9, 0.2, 0.1])[:, None, None]
    with torch.no_grad():
        maps, scores, _ = model(torch.cat([good[:1], defective]))
        learned = model(good[1:]).score
    assert scores[1] > max(scores[0], learned.max())
    row, column = divmod(int(maps[1].argmax()), 64)
    assert 34 <= row < 56
    assert 6 <= column < 28


def test_a_cache_computes_the_features_of_each_image_once(monkeypatch):
    images = texture(4, (64, 64))
    model = detector("fastflow")
    expected = [
        torch.cat(layer) for layer in zip(*map(model.backbone, images.split(1)), strict=True)
    ]
    seen = []
    forward = model.backbone.forward
    monkeypatch.setattr(model.backbone, "forward", lambda x: seen.append(len(x)) or forward(x))
    with model.caching():
        for order in ([0, 1, 2], [3, 2, 1, 0]):
            _, *found = model.prepare(images[order])
            assert all(torch.equal(a, b[order]) for a, b in zip(found, expected, strict=True))
    assert sum(seen) == 4
    model.prepare(images)
    assert sum(seen) == 8
