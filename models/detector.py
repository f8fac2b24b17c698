"""The contract that every detector meets, so that the scripts need not know which one they run."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from data.tensors import valid_mask
from utils.config import Config


class Prediction(NamedTuple):
    """What a detector says of a batch of B images.

    Attributes:
        anomaly_map: [B, 1, H, W] float, at the size of the input; higher is stranger. Raw: no
            clamping and no per-image normalisation, so that values compare from image to image.
        score: [B] float, one number an image; higher is stranger. Of padded images (`data.resize`),
            and with `data.region`, it says nothing: the score is that of what counts of the map.
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


Folds = Sequence[Collection[Tensor]]
"""The good images that a detector knows, dealt into folds: batches [B, 3, H, W] in [0, 1] of each.

Every fold can be gone through more than once; it gives the same images in the same order.
"""


class Detector(StoredAtAnyLength, nn.Module):
    """Base class of all detectors: takes the whole `Config` and scores images.

    All that it learns (weights, memory, covariances) is in parameters and buffers, so that
    `state_dict()` holds it. Detectors derive from `TrainedDetector` or `FittedDetector`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config

    def forward(self, images: Tensor) -> Prediction:
        """Score images [B, 3, H, W], float RGB in [0, 1], each by itself; see `Prediction`.

        Any normalisation that a backbone wants happens in here.
        """
        raise NotImplementedError

    def valid_mask(self, images: Tensor) -> Tensor | None:
        """What of images counts by `data.region`: bool [B, 1, H, W]; None: all of it."""
        return None if self.config.data.region is None else valid_mask(images)

    def load_pretrained(self) -> None:
        """Load the weights that the detector builds upon, if any; called once, when a run starts.

        Never by the constructor: a checkpoint holds them, and is opened where they may be missing.
        """

    def leaving_out(self, folds: Folds) -> Iterator[int]:
        """Be in turn what the detector would be without each of the folds; at last whole again.

        `for number in detector.leaving_out(folds): ...` scores the images of that fold as if they
        had not been learned from. By default a detector stays as it is: right for images that it
        really has not learned from.
        """
        yield from range(len(folds))


class TrainedDetector(Detector):
    """Base class of detectors that learn by gradients, in epochs."""

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """What one optimiser step learns from, made of good images [B, 3, H, W] in [0, 1].

        Called once for the images of a step, before they are split into what fits the memory; every
        tensor returned has B entries. Detectors that corrupt their input do it here.
        """
        return (images,)

    def loss(self, *sample: Tensor) -> Tensor:
        """Loss of what `prepare` returned, or of a piece of it: 0-dim, the mean over the batch."""
        raise NotImplementedError

    def finish(self, folds: Folds) -> None:
        """Take in what is not learned by gradients; called once, after the last epoch.

        Args:
            folds: all good images, those that training did not see among them.
        """

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam over the trainable parameters."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(trainable, lr=self.config.train.lr)


class FittedDetector(Detector):
    """Base class of detectors that see each good image once and then fit to what they collected.

    Further images can be collected later, and fitted to, without those that were there before.
    """

    def collect(self, images: Tensor, fold: int) -> None:
        """Take in good images [B, 3, H, W] in [0, 1], all of one fold."""
        raise NotImplementedError

    def finish(self) -> None:
        """Fit to what was collected; called after the last batch."""
