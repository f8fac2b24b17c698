"""The contract between scripts and detectors: the scripts do not know which detector they run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from data.good_images import Fold
from data.known_defects import KnownDefect
from data.tensors import valid_mask
from utils.config import Config


class Prediction(NamedTuple):
    """Result of a detector for a batch of B images.

    Attributes:
        anomaly_map: [B, 1, H, W] float, at the size of the input; higher is more anomalous. Raw: no
            clamping and no per-image normalisation, so that values compare from image to image.
        score: [B] float, one number an image; higher is more anomalous. It covers the whole frame:
            for padded images and with `data.region` the score is taken again, from valid pixels.
        reconstruction: [B, 3, H, W] float in [0, 1], or None for detectors that do not reconstruct.
    """

    anomaly_map: Tensor
    score: Tensor
    reconstruction: Tensor | None


class VariableLengthBuffers:
    """Mixin for modules whose buffers are loaded at whatever length they were stored.

    PyTorch refuses a state whose shapes differ, but a memory bank has no fixed number of entries.
    """

    _buffers: dict[str, Tensor | None]

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        for name, buffer in self._buffers.items():
            stored = state.get(prefix + name)
            if stored is not None and stored.dim() == buffer.dim():
                setattr(self, name, buffer.new_empty(stored.shape))
        super()._load_from_state_dict(state, prefix, *rest)


class Detector(VariableLengthBuffers, nn.Module):
    """Base class of all detectors: takes the whole `Config` and scores images.

    All that it learns (weights, memory banks, covariances, normalisation) is in parameters and
    buffers, so that `state_dict()` holds it. Detectors derive from `TrainedDetector` or
    `FittedDetector`; both are complete once `finish` has returned.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.known_defects: Sequence[KnownDefect] = ()

    def forward(self, images: Tensor) -> Prediction:
        """Score images [B, 3, H, W], float RGB in [0, 1], each by itself; see `Prediction`.

        The normalisation that a backbone needs happens in here.
        """
        raise NotImplementedError

    def take_defects(self, defects: Sequence[KnownDefect]) -> None:
        """Take the known defects of `data.defects`, before anything is learned.

        Called for detectors that read this setting alone.

        Raises:
            UserError: if the detector cannot learn from one of them.
        """
        self.known_defects = defects

    def finish(self, folds: Sequence[Fold]) -> None:
        """Fit all that is not learned by gradients: memory banks, covariances, normalisation.

        Called once, after the last epoch or the last `collect`.

        Args:
            folds: all good images, also those that training does not use.
        """

    @contextmanager
    def without(self, fold: Fold) -> Iterator[None]:
        """Within it, score as if the detector had not learned from the images of this fold.

        Nothing is fitted, and leaving it restores everything. By default nothing changes, which is
        right for a detector that hardly adapts to single images.
        """
        yield

    @contextmanager
    def caching(self) -> Iterator[None]:
        """Within it, keep the features of images that are seen several times. Default: none."""
        yield

    def valid_mask(self, images: Tensor) -> Tensor | None:
        """Return where images lie inside of `data.region`, bool [B, 1, H, W]; None: everywhere."""
        return None if self.config.data.region is None else valid_mask(images)

    def load_pretrained(self) -> None:
        """Load the pretrained weights that the detector builds upon, if any, when a run starts.

        Not in the constructor: a checkpoint holds these weights, and is opened on machines that
        do not have them.
        """


class TrainedDetector(Detector):
    """Base class of detectors that learn by gradients, in epochs."""

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """Make what one optimiser step learns from, of good images [B, 3, H, W] in [0, 1].

        Called once for the images of a step, before they are split into micro batches; every tensor
        returned has B entries. Detectors that corrupt their input do it here.
        """
        return (images,)

    def loss(self, *sample: Tensor) -> Tensor:
        """Return the mean loss (0-dim) of what `prepare` returned, or of a micro batch of it."""
        raise NotImplementedError

    def optimizer(self) -> torch.optim.Optimizer:
        """Return Adam over the trainable parameters."""
        trainable = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(trainable, lr=self.config.train.lr)


class FittedDetector(Detector):
    """Base class of detectors that collect features of each good image once and then fit them."""

    def collect(self, images: Tensor, fold: int) -> None:
        """Collect features of good images [B, 3, H, W] in [0, 1], all of one fold."""
        raise NotImplementedError
