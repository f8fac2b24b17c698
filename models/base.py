"""The contract that every detector meets, so that the scripts need not know which one they run."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.config import Config


class Prediction(NamedTuple):
    """What a detector says of a batch of B images.

    Attributes:
        anomaly_map: [B, 1, H, W] float, at the size of the input; higher is stranger. Raw: no
            clamping and no per-image normalisation, so that values compare from image to image.
        score: [B] float, one number an image; higher is stranger.
        reconstruction: [B, 3, H, W] float in [0, 1], or None for detectors that do not reconstruct.
    """

    anomaly_map: Tensor
    score: Tensor
    reconstruction: Tensor | None


class Detector(nn.Module):
    """Base class of all detectors: gradient-trained ones and those that fit in one sweep alike.

    A subclass takes the whole `Config`, keeps all that it learns (weights, memory bank,
    covariances) in parameters and buffers, so that `state_dict()` holds it, and implements
    `forward` and `learn`.
    """

    sweeps: int | None = None
    """Passes over train/good that the detector wants; None leaves it to `train.epochs`."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def forward(self, images: Tensor) -> Prediction:
        """Score images [B, 3, H, W], float RGB in [0, 1]; see `Prediction`.

        Any normalisation that a backbone wants happens in here.
        """
        raise NotImplementedError

    def learn(self, images: Tensor) -> Tensor | None:
        """Take in one batch of good images [B, 3, H, W], float RGB in [0, 1].

        Returns the differentiable loss (0-dim, the mean over the batch) of a detector that learns
        by gradients, or None from one that merely collects what `finish` will fit.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """Fit what `learn` collected; called once, after the last batch."""

    def optimizer(self) -> torch.optim.Optimizer | None:
        """Adam over the trainable parameters, or None where there are none."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(trainable, lr=self.config.train.lr) if trainable else None
