"""Feature detectors on a small backbone, fitted in a moment, and checkpoints of such."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from data.good_images import GoodImages
from data.known_defects import KnownDefect
from data.tensors import to_pixels
from inspection.threshold import calibrate
from models import build_model
from models.detector import TrainedDetector
from models.patchcore import PatchCore
from training.checkpoint import Checkpoint, Progress, save_checkpoint
from utils.config import load_config


class TensorFold(list):
    """A fold of batches [B, 3, H, W] that are given as they are."""

    def __init__(self, number, batches):
        super().__init__(batches)
        self.number, self.held_out, self.scored = number, self, self


def in_folds(*batches):
    """Folds of one batch each."""
    return [TensorFold(number, [batch]) for number, batch in enumerate(batches)]


def detector(name, **overrides):
    """A detector on a small backbone with random weights, 64x64."""
    settings = {"model": name, "data.size": 64, "backbone.name": "efficientnet_lite0"}
    settings |= {"backbone.layers": [1, 2]} | overrides
    torch.manual_seed(0)
    return build_model(load_config(overrides=settings)).eval()


def fit(model, folds):
    """Have a detector learn from folds, with the same random choices each time."""
    torch.manual_seed(1)
    if not isinstance(model, TrainedDetector):
        for fold in folds:
            for batch in fold:
                model.collect(batch, fold.number)
    model.finish(folds)
    return model


def fitted(name, images, pieces=(3, 5, 4), defects=(), **overrides):
    """The detector, fitted to images that come in folds of these lengths, and to known defects."""
    model = detector(name, **overrides, **({"data.defects": "known"} if defects else {}))
    model.take_defects(defects)
    return fit(model, in_folds(*images.split(pieces)))


def known(images, masks=None):
    """Known defects, one an image [B, 3, H, W], with masks bool [B, H, W] or without."""
    shares = [None] * len(images) if masks is None else 255 * masks.numpy().astype(np.uint8)
    return [
        KnownDefect(Path(f"{number}.png"), pixels[None], None if own is None else own[None], "")
        for number, (pixels, own) in enumerate(zip(to_pixels(images), shares, strict=True))
    ]


def raw_scores(model, images):
    """Scores [B] of images [B, 3, H, W] without normalisation."""
    if isinstance(model, PatchCore):
        return model.predict(model.distances(images)[0], images.shape[-2:]).score
    return model(images).score


def saved(model, folder):
    """The checkpoint of a finished run that holds the detector: its file, below a folder."""
    calibrations = {"tile": asdict(calibrate([0.5], [0.5], 0.0, 0.02))}
    state = model.state_dict()
    save_checkpoint(
        folder, Checkpoint(model.config, GoodImages(), state, None, Progress(), [], calibrations)
    )
    return folder / "last.pt"
