"""The contract that every detector meets, so that the scripts need not know which one they run."""

from collections.abc import Iterable
from typing import Any, NamedTuple

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


class StoredAtAnyLength:
    """A module whose buffers are taken at whatever length they were stored.

    What was collected so far, and memory banks, have no fixed number of entries.
    """

    _buffers: dict[str, Tensor | None]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, buffer in self._buffers.items():
            stored = state.get(prefix + name)
            if stored is not None and stored.dim() == buffer.dim():
                setattr(self, name, buffer.new_empty(stored.shape))
        super()._load_from_state_dict(state, prefix, *rest)


class Detector(StoredAtAnyLength, nn.Module):
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

    @property
    def epochs(self) -> int:
        """Passes over train/good: those that the detector wants, or else `train.epochs`."""
        return self.config.train.epochs if self.sweeps is None else self.sweeps

    def forward(self, images: Tensor) -> Prediction:
        """Score images [B, 3, H, W], float RGB in [0, 1], each by itself; see `Prediction`.

        Any normalisation that a backbone wants happens in here.
        """
        raise NotImplementedError

    def load_pretrained(self) -> None:
        """Load the weights that the detector builds upon, if any; called once, when a run starts.

        Never by the constructor: a checkpoint holds them, and is opened where they may be missing.
        """

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """What one optimiser step learns from, made of good images [B, 3, H, W] in [0, 1].

        Called once for the images of a step, before they are split into what fits the memory; every
        tensor returned has B entries. Detectors that corrupt their input do it here.
        """
        return (images,)

    def learn(self, *sample: Tensor) -> Tensor | None:
        """Take in what `prepare` returned, or a piece of it.

        Returns the differentiable loss (0-dim, the mean over the batch) of a detector that learns
        by gradients, or None from one that merely collects what `finish` will fit.
        """
        raise NotImplementedError

    def finish(self, images: Iterable[Tensor]) -> None:
        """Fit what `learn` collected; called once, after the last batch.

        Args:
            images: the good images once more, batches [B, 3, H, W] in [0, 1], for detectors that
                want them.
        """

    def standardise(self, images: Iterable[Tensor]) -> None:
        """Set the scale of the anomaly map on held-out good images, batches [B, 3, H, W] in [0, 1].

        Called after `finish`, in evaluation mode, and again when a finished run is scored anew.
        """

    def optimizer(self) -> torch.optim.Optimizer | None:
        """Adam over the trainable parameters, or None where there are none."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(trainable, lr=self.config.train.lr) if trainable else None
