"""The registry says which settings a detector reads; whether that is so, its whole life shows."""

import pytest
import torch
from drawn_images import texture
from fitted import in_folds

from models import ALL_READ, DETECTORS, build_model, reads
from models.detector import TrainedDetector
from utils.config import Config, load_config

ELSEWHERE = ("train", "loss.vgg16")
"""Read by train.py, or where there is a perceptual loss."""


class Noting:
    """A section of the settings that notes which of them are asked for."""

    def __init__(self, section, asked, prefix=""):
        self._section, self._asked, self._prefix = section, asked, prefix

    def __getattr__(self, name):
        value, key = getattr(self._section, name), self._prefix + name
        if hasattr(value, "model_dump"):
            return Noting(value, self._asked, f"{key}.")
        self._asked.add(key)
        return value


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_reads_what_the_registry_says(name, monkeypatch):
    monkeypatch.setattr("models.backbones.Backbone.load", lambda self, weights: None)
    small = {"unet.width": 4, "backbone.name": "vit_tiny_patch16_224", "backbone.layers": [2, 4]}
    asked = set()
    config = load_config(overrides={"model": name, "data.size": 64} | small)
    model = build_model(Noting(config, asked))
    images = texture(4, (64, 64))
    model.load_pretrained()
    folds = in_folds(images[:2], images[2:])
    if isinstance(model, TrainedDetector):
        model.loss(*model.prepare(images))
        model.optimizer()
        model.eval().finish(folds)
    else:
        for fold in folds:
            model.collect(fold[0], fold.number)
        model.eval().finish(folds)
    with torch.no_grad(), model.without(folds[0]):
        model(images)
    assert all(reads(name, key) for key in asked), asked
    said = {
        f"{section}.{key}"
        for section, settings in Config.model_fields.items()
        for key in getattr(settings.annotation, "model_fields", ())
        if reads(name, f"{section}.{key}")
    }
    own = {key for key in said if not {key, key.partition(".")[0]} & {*ALL_READ, *ELSEWHERE}}
    assert own <= asked, own - asked
