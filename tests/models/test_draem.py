import pytest
import torch

from data.good_images import Fold, decode_all
from data.mvtec import Category
from data.tensors import to_batch
from models import build_model
from models.image_score import image_score
from training.loop import train_step
from utils.config import load_config

CPU = torch.device("cpu")
STEPS = {"unet": 60, "draem": 150}


@pytest.fixture(scope="module", params=STEPS)
def learned(request, dataset):
    """A detector after a few steps on the sample category, and held-out good images."""
    paths = Category(dataset, "tile").train_images()
    config = load_config(overrides={
        "model": request.param, "data.size": 64, "unet.width": 8,
        "train.lr": 3e-3, "score.smooth": 0.03,
    })  # fmt: skip
    images, held_out = (decode_all(part, config.data, quiet=True)[0].tiles
                        for part in (paths[3:], paths[:3]))  # fmt: skip
    torch.manual_seed(0)
    detector = build_model(config).train()
    detector.load_pretrained()
    optimizer = detector.optimizer()
    steps = STEPS[request.param]
    for step in range(steps):
        torch.manual_seed(step)
        for group in optimizer.param_groups:  # falls to zero, so that running statistics settle
            group["lr"] = config.train.lr * min(1, 2 * (1 - step / steps))
        train_step(detector, optimizer, images, CPU, 8)
    detector.eval()
    with torch.inference_mode():
        folds = [Fold(place, images, [place], 1, CPU) for place in range(len(images))]
        detector.finish(folds)
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


def test_good_borders_are_no_stranger_than_the_middle(learned):
    detector, held_out = learned
    with torch.inference_mode():
        maps = torch.cat([detector(to_batch(i[None], CPU)).anomaly_map for i in held_out])
    middle = maps[..., 16:-16, 16:-16]
    border = (maps.sum() - middle.sum()) / (maps.numel() - middle.numel())
    rise = image_score(maps, "top1").mean() - maps.mean()
    assert (border - middle.mean()).abs() < 0.5 * rise
