"""Patch memory: tokens of a vision transformer, compared with those of good parts.

After AnomalyDINO (Damm et al., WACV 2025), which needs few good images or even a single one.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn import functional as F

from data.good_images import Fold
from data.tensors import turned
from models.backbones import concatenated
from models.detector import FittedDetector, Prediction
from models.feature_detector import FeatureDetector
from models.known_defects import learn_defects
from models.memory_bank import MemoryBank
from utils.config import Config

# Tokens that the memory bank keeps, a random sample of all.
TOKENS = 20_000


class PatchMemory(FeatureDetector, FittedDetector):
    """Memory bank of patch tokens of good parts, and distances to it.

    It differs from the paper in that several middle layers are compared instead of the last one,
    that the background is not masked, and that rotated copies are turned by any angle.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, default="vit_small_patch14_dinov2")
        channels, with_defects = sum(self.backbone.channels), config.data.defects is not None
        self.bank = MemoryBank(channels, candidates=TOKENS, defects=with_defects)

    def tokens(self, images: Tensor) -> Tensor:
        """Return tokens [B, C, h, w] of images [B, 3, H, W], of unit length in each layer."""
        # So that a squared distance is the sum over the layers of 2 - 2 * cosine similarity.
        return concatenated([F.normalize(maps, dim=1) for maps in self.features(images)])

    @torch.no_grad()
    def collect(self, images: Tensor, fold: int) -> None:
        """Collect the tokens of the images and of their rotated copies."""
        rotations = self.config.patch_memory.rotations
        for turn in range(rotations):
            copies = turned(images, 2 * math.pi * turn / rotations)
            self.bank.collect(self.tokens(copies), fold, self.valid_mask(copies))

    def finish(self, folds: Sequence[Fold]) -> None:
        """Keep the whole sample, and learn known defects; see `Detector.finish`."""
        self.bank.store()
        if self.known_defects:
            banks, patches_of = [self.bank], lambda images: [self.tokens(images)]
            learn_defects(banks, patches_of, self.valid_mask, self.known_defects, folds)

    def without(self, fold: Fold) -> AbstractContextManager[None]:
        """See `Detector.without`."""
        return self.bank.without(fold)

    def forward(self, images: Tensor) -> Prediction:
        """Score images by the distance of their tokens to the bank; see `Detector.forward`."""
        distances, _ = self.bank.distances(self.tokens(images), self.valid_mask(images))
        return self.predict(distances, images.shape[-2:])
