import json
import signal
import sys

import torch

import eval as evaluation
import models
import train
from models.detector import FittedDetector, Prediction
from models.image_score import image_score
from training import loop


class MeanImage(FittedDetector):
    """A detector that fits in one pass: the mean of the good images."""

    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("mean", torch.zeros(3, *config.data.size))
        self.register_buffer("seen", torch.zeros(0, 3, *config.data.size))

    def collect(self, images, fold):
        self.seen = torch.cat([self.seen, images])

    def finish(self, folds):
        assert len(self.seen) == 11
        self.mean, self.seen = self.seen.mean(dim=0), self.seen[:0]

    def forward(self, images):
        anomaly_map = (images - self.mean).abs().mean(dim=1, keepdim=True)
        return Prediction(anomaly_map, image_score(anomaly_map, "top1"), None)


MEAN_IMAGE = models.Entry(f"{__name__}:MeanImage", ())


def test_scripts_run_a_detector_that_they_have_never_heard_of(tmp_path, dataset, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(models.DETECTORS, "mean_image", MEAN_IMAGE)
    arguments = ["--data-root", str(dataset), "--size", "48", "--batch", "4"]
    monkeypatch.setattr(sys, "argv", ["train.py", "--model", "mean_image", *arguments])
    assert train.main() == 0
    monkeypatch.setattr(sys, "argv", ["eval.py"])
    assert evaluation.main() == 0
    (file,) = tmp_path.glob("outputs/*/eval/metrics.json")
    metrics = json.loads(file.read_text())
    assert metrics["auroc_oil"] > 0.5  # a dark blotch is far from the mean image


def test_a_pass_that_was_interrupted_starts_over(tmp_path, dataset, monkeypatch):
    monkeypatch.setitem(models.DETECTORS, "mean_image", MEAN_IMAGE)
    flags = ["--data-root", str(dataset), "--size", "48", "--batch", "4", "--model", "mean_image"]
    means = []
    for name in ("whole", "interrupted"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setattr(sys, "argv", ["train.py", *flags])
        if name == "interrupted":
            seed_step = loop.seed_step

            def interrupted(seed, epoch, step):
                if step == 3:
                    signal.raise_signal(signal.SIGINT)
                seed_step(seed, epoch, step)  # noqa: B023

            monkeypatch.setattr(loop, "seed_step", interrupted)
            assert train.main() == 130
            monkeypatch.setattr(loop, "seed_step", seed_step)
            monkeypatch.setattr(sys, "argv", ["train.py", "--resume"])
        assert train.main() == 0
        (file,) = (tmp_path / name).glob("checkpoints/*/last.pt")
        means.append(torch.load(file)["model"]["mean"])
    assert torch.equal(means[0], means[1])
