from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from data.good_images import DecodedImages, GoodImages, in_folds
from data.tiles import Grid
from inspection.calibration import looser_promise, score_drawn_defects
from inspection.threshold import calibrate
from models.detector import Detector, Prediction
from utils.config import load_config


class Change(Detector):
    """Measures the difference to the grey of all good images; notes the fold left out."""

    fold = None

    def forward(self, images):
        difference = (images - 0.5).abs().mean(dim=1, keepdim=True)
        seen.append((self.fold, difference.amax().item()))
        return Prediction(difference, difference.amax(dim=(1, 2, 3)), None)

    @contextmanager
    def without(self, fold):
        self.fold = fold.number
        yield
        self.fold = None


seen = []


def test_each_drawn_defect_is_scored_without_the_fold_of_its_image():
    images = DecodedImages.whole(np.full((30, 64, 64, 3), 127, np.uint8))
    names = [f"bottle/{number}" for number in range(30)]
    good = GoodImages().extended(names, range(30), 0.3, seed=0)
    model = Change(load_config(overrides={"data.size": 64, "data.category": "bottle"}))
    seen.clear()
    scores = score_drawn_defects(
        model, images, good, in_folds(images, good, 1, torch.device("cpu"))
    )
    folds = [fold for fold, _ in seen]
    assert set(folds) == {good.folds[index] for index in np.flatnonzero(good.held_out)}
    assert 30 < len(scores["bottle"]) <= 50
    assert min(scores["bottle"]) > 0.02  # each shows


def test_defects_are_drawn_on_a_tile_inside_the_region():
    tiles = np.full((8, 32, 32, 4), 127, np.uint8)
    tiles[..., 3] = 0
    tiles[[0, 4], :16, :, 3] = 255  # the region lies in the first tile of each image
    grid = Grid((64, 64), (64, 64), (0, 32), (0, 32))
    images = DecodedImages(tiles, [grid] * 2, [0, 4], [""] * 2, [])
    good = GoodImages(["bottle/0", "bottle/1"], [0, 1], [0, 1], [False] * 2)
    model = Change(load_config(overrides={"data.size": 32, "data.category": "bottle"}))
    scores = score_drawn_defects(
        model, images, good, in_folds(images, good, 1, torch.device("cpu"))
    )
    assert min(scores["bottle"]) > 0.02


def test_a_looser_threshold_is_named_where_it_finds_more():
    scores = list(map(float, range(100)))
    one = calibrate(scores, scores, 0.0, 0.02)
    drawn = {"bottle": [one.threshold + 1, one.threshold - 0.5, 0.0, 0.0]}
    assert one.with_false_alarms(0.05).threshold < one.threshold - 0.5
    line = looser_promise({"bottle": one}, drawn, Path("checkpoints/run"))
    assert "25% are found; at 5% of false alarms 50%" in line
    assert "calibrate.py checkpoints/run --false-alarms 0.05" in line
    assert looser_promise({"bottle": one}, {"bottle": [1000.0, 0.0]}, Path("run")) is None
    both = looser_promise({"bottle": one, "nut": one}, drawn | {"nut": [0.0]}, Path("run"))
    assert both.endswith("--false-alarms 0.05 --category bottle")  # the other keeps its own
    assert looser_promise({"bottle": one.with_false_alarms(0.05)}, drawn, Path("run")) is None
