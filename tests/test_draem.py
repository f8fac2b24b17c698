import pytest
import torch

from data.cache import decode_all
from data.mvtec import Category, split_holdout
from models import build_model
from train import train_step
from utils.checkpoint import Progress
from utils.config import load_config
from utils.losses import focal_loss
from utils.pixels import to_batch

CPU = torch.device("cpu")
STEPS = {"unet": 100, "unet with a gate": 300, "draem": 150}


@pytest.fixture(scope="module", params=STEPS)
def learned(request, dataset):
    """A detector after a few steps on the sample category, and held-out good images."""
    paths = Category(dataset, "tile").train_images()
    train_paths, held_out_paths = split_holdout(paths, 0.3, 0)
    images, held_out = (decode_all(part, (64, 64), 1, quiet=True)
                        for part in (train_paths, held_out_paths))  # fmt: skip
    config = load_config(overrides={
        "model": request.param.split()[0], "unet.gate": "gate" in request.param, "data.size": 64,
        "unet.width": 8, "unet.depth": 3, "train.lr": 3e-3, "score.smooth": 2.0,
    })  # fmt: skip
    torch.manual_seed(0)
    detector = build_model(config).train()
    optimizer = detector.optimizer()
    for step in range(STEPS[request.param]):
        torch.manual_seed(step)
        train_step(detector, optimizer, images, CPU, Progress(micro_batch=8))
    detector.eval()
    with torch.inference_mode():
        detector.standardise(to_batch(held_out[i : i + 1], CPU) for i in range(len(held_out)))
    return detector, held_out


@pytest.mark.parametrize("at", [(25, 30), (0, 30), (25, 56), (50, 4)])
def test_a_planted_defect_is_found_also_at_the_border(learned, at):
    detector, held_out = learned
    row, column = at
    for good in held_out:
        bad = good.copy()
        bad[row : row + 12, column : column + 8] = (250, 30, 30)
        with torch.inference_mode():
            before, after = (detector(to_batch(image[None], CPU)) for image in (good, bad))
        assert after.score > before.score
        change = (after.anomaly_map - before.anomaly_map)[0, 0]
        y, x = divmod(int(change.argmax()), 64)
        assert row - 12 <= y < row + 24
        assert column - 12 <= x < column + 20


def test_with_flips_the_map_of_a_mirrored_part_is_the_mirrored_map(learned):
    detector, held_out = learned
    score = detector.config.score
    mirrored_config = detector.config.model_copy(
        update={"score": score.model_copy(update={"flips": True})}
    )
    mirrored = build_model(mirrored_config).eval()
    mirrored.load_state_dict(detector.state_dict())
    image = to_batch(held_out[:1], CPU)

    def asymmetry(network):
        one, other = (network(view).anomaly_map for view in (image, image.flip(-1)))
        return (one - other.flip(-1)).abs().max() / one.abs().max()

    with torch.inference_mode():
        assert asymmetry(mirrored) < 1e-4
        assert asymmetry(detector) > 1e-2


def test_good_borders_are_no_stranger_than_the_middle(learned):
    detector, held_out = learned
    with torch.inference_mode():
        maps = torch.cat([detector(to_batch(i[None], CPU)).anomaly_map for i in held_out])
    middle = maps[..., 16:-16, 16:-16]
    border = (maps.sum() - middle.sum()) / (maps.numel() - middle.numel())
    assert (border - middle.mean()).abs() < 0.2  # of the spread that good parts have


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
