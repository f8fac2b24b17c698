"""Patch memory: the tokens of a vision transformer, compared with those of good parts.

After AnomalyDINO (Damm et al., WACV 2025), which needs few good images or even a single one.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from data.tensors import turned
from models.backbones import concatenated
from models.detector import FittedDetector, Folds, Prediction
from models.feature_detector import FeatureDetector
from models.memory_bank import MemoryBank, leaving_out
from utils.config import Config


class PatchMemory(FeatureDetector, FittedDetector):
    """A bank of patch tokens of good parts, all of them or a random sample.

    It differs from the paper in that several middle layers are compared instead of the last one,
    that the background is not masked, and that rotated copies are turned by any angle.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, default="vit_small_patch14_dinov2")
        self.memory = MemoryBank(sum(self.backbone.channels))

    def tokens(self, images: Tensor) -> Tensor:
        """Features [B, C, h, w] of images [B, 3, H, W]: of unit length in each layer.

        A squared distance is then the sum over the layers of 2 - 2 times the cosine similarity.
        """
        return concatenated([F.normalize(maps, dim=1) for maps in self.maps(images)])

    @torch.no_grad()
    def collect(self, images: Tensor, fold: int) -> None:
        """Let the tokens of the images, and of rotated copies, compete for a place in the bank."""
        self.keep()
        settings = self.config.patch_memory
        for turn in range(settings.rotations):
            copies = turned(images, 2 * math.pi * turn / settings.rotations)
            self.memory.collect(
                self.tokens(copies), settings.patches, fold, self.valid_mask(copies)
            )

    def leaving_out(self, folds: Folds) -> Iterator[int]:
        """Be in turn without what each fold brought to the memory; see `Detector.leaving_out`."""
        yield from leaving_out([self.memory], len(folds))
        self.kept = None

    def forward(self, images: Tensor) -> Prediction:
        """Score images by the distance of their tokens to the bank; see `Detector.forward`."""
        distances, _ = self.memory.distances(self.tokens(images), self.valid_mask(images))
        return self.predict(distances, images.shape[-2:])
