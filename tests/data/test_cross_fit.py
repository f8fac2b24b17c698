import numpy as np
import pytest
import torch
from PIL import Image

from data.pseudo_defects import KINDS, pseudo_split, read_cross_fitted
from models.detector import Detector, Prediction
from train import calibrate_on
from utils.config import DataConfig, load_config
from utils.cross_fit import PARTS, parts

CPU = torch.device("cpu")


@pytest.mark.parametrize("count", [2, 3, PARTS, 11])
def test_each_image_is_scored_once_and_by_the_others(count):
    scored = []
    for others, own in parts(count):
        assert sorted(others + own) == list(range(count))
        assert others
        scored += own
    assert sorted(scored) == list(range(count))


def test_a_single_image_stands_in_for_the_others():
    assert list(parts(1)) == [([0], [0])]


class Remembering(Detector):
    """Scores an image by whether its scale was set with it."""

    def standardise(self, images):
        self.seen = {image.mean().item() for image in images}

    def forward(self, images):
        score = torch.tensor([float(images.mean().item() in self.seen)])
        return Prediction(score.expand(1, 1, 32, 32), score, None)


def test_thresholds_rest_on_scales_set_without_the_image():
    images = np.stack([np.full((32, 32, 3), 10 * number, np.uint8) for number in range(7)])
    detector = Remembering(load_config())
    assert calibrate_on(detector, images, CPU).scores == [0.0] * 7
    assert len(detector.seen) == 7  # new images are scored by the scale of all


def test_drawn_defects_are_scored_on_scales_set_without_their_image(tmp_path):
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        Image.fromarray(np.full((40, 40, 3), 30 * number, np.uint8)).save(path)
    (tmp_path / "5.png").write_bytes(b"damaged")
    scales, scored = [], []
    by_scale = {}

    def standardise(images):
        scales.append({int(image[0, 0, 0]) // 30 for image in images})

    for part in read_cross_fitted(pseudo_split(paths, DataConfig(size=32)), standardise):
        tests = [test for test, _ in part]  # as a whole, for a batch is read before it is scored
        by_scale.setdefault(len(scales) - 1, set()).update(int(test.path.stem) for test in tests)
        scored += tests
    assert len(by_scale) == len(scales) - 1 == PARTS
    for scale, numbers in by_scale.items():
        assert scales[scale] == set(range(5)) - numbers
    assert scales[-1] == set(range(5))
    assert len(set(scored)) == len(scored) == 6 * (1 + len(KINDS))
