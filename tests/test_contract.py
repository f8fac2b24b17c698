import json
import sys

import torch

import eval as evaluation
import models
import train
from models.base import Detector, Prediction
from utils.anomaly_map import absolute_error_map, image_score


class MeanImage(Detector):
    """A detector that fits in one sweep: the mean of the good images."""

    sweeps = 1

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("mean", torch.zeros(3, *config.data.size))
        self.seen = []

    def learn(self, images):
        self.seen.append(images)

    def finish(self):
        self.mean = torch.cat(self.seen).mean(dim=0)

    def forward(self, images):
        anomaly_map = absolute_error_map(images, self.mean.expand_as(images))
        return Prediction(anomaly_map, image_score(anomaly_map, "mean"), None)


def test_scripts_run_a_detector_that_they_have_never_heard_of(tmp_path, dataset, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(models.DETECTORS, "mean_image", MeanImage)
    arguments = ["--data-root", str(dataset), "--size", "48", "--batch", "4"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--model", "mean_image", *arguments])
    assert train.main() == 0
    monkeypatch.setattr(sys, "argv", ["eval.py"])
    assert evaluation.main() == 0
    (file,) = tmp_path.glob("outputs/*/eval/metrics.json")
    metrics = json.loads(file.read_text())
    assert metrics["auroc_oil"] > 0.5  # a dark blotch is far from the mean image
    (history,) = tmp_path.glob("checkpoints/*/history.csv")
    assert len(history.read_text().splitlines()) == 2  # a header and a single sweep
