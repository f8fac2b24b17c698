"""Feature detectors on a small backbone, fitted in a moment, and checkpoints of such."""

from dataclasses import asdict

import torch

from data.good_images import GoodImages
from inspection.threshold import calibrate
from models import build_model
from models.patchcore import PatchCore
from training.checkpoint import Checkpoint, Progress, save_checkpoint
from utils.config import load_config


def detector(name, **overrides):
    """A detector on a small backbone with random weights, 64x64."""
    settings = {"model": name, "data.size": 64, "backbone.name": "efficientnet_lite0"}
    settings |= {"backbone.layers": [1, 2]} | overrides
    torch.manual_seed(0)
    return build_model(load_config(overrides=settings)).eval()


def fitted(name, images, pieces=(3, 5, 4), **overrides):
    """The detector, fitted to images that come in folds of these lengths."""
    model = detector(name, **overrides)
    torch.manual_seed(1)
    folds = [[piece] for piece in images.split(pieces)]
    for number, (piece,) in enumerate(folds):
        model.collect(piece, number)
    model.finish()
    for _ in model.leaving_out(folds if len(folds) > 1 else []):  # as the verdict is set
        pass
    return model


def unscaled_scores(model, images):
    """Scores [B] of images [B, 3, H, W] by distances as they are, also of one that has a scale."""
    if isinstance(model, PatchCore):
        return model.predict(model.strangeness(images), images.shape[-2:]).score
    return model(images).score


def saved(model, folder):
    """The checkpoint of a finished run that holds the detector: its file, below a folder."""
    calibrations = {"tile": asdict(calibrate([0.5], [0.5], 0.0, 0.02))}
    state = model.state_dict()
    save_checkpoint(
        folder, Checkpoint(model.config, GoodImages(), state, None, Progress(), [], calibrations)
    )
    return folder / "last.pt"
