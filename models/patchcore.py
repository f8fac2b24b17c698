"""PatchCore: a part is as strange as the patch that lies farthest from all good patches.

Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.backbones import LITE, concatenated
from models.base import Prediction
from models.features import FeatureDetector, rows
from utils.config import Config
from utils.coreset import greedy_coreset, random_projection
from utils.neighbours import nearest, nearest_few
from utils.reservoir import keep_random

DENSITY_SAMPLE = 10_000
"""Patches among which the density of good patches is measured. A sample, since most of the nearest
of all patches overlap the patch itself in its own image."""


class PatchCore(FeatureDetector):
    """A bank of features of good patches, thinned out by a greedy coreset.

    It differs from the paper in two ways, both of which can be switched off: `patchcore.density`
    measures distances by how densely good patches lie, and the coreset is chosen from a random
    sample of at most `patchcore.candidates` patches, which bounds the memory of a fit.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, default=LITE)
        # Until it is thinned out by `finish`, the bank is a sample of all patches, with its keys.
        self.register_buffer("bank", torch.zeros(0, sum(self.backbone.channels)))
        self.register_buffer("keys", torch.zeros(0))
        self.register_buffer("spacing", torch.zeros(0))

    def patches(self, images: Tensor) -> Tensor:
        """Features [B, C, h, w] of images [B, 3, H, W], each averaged over 3x3 neighbours."""
        maps = self.backbone(images)
        # Not counting what lies outside leaves no margin of weak features.
        return concatenated([F.avg_pool2d(m, 3, 1, 1, count_include_pad=False) for m in maps])

    @torch.no_grad()
    def learn(self, images: Tensor) -> None:
        """Let the patches of the images compete for a place in the sample."""
        patches = rows(self.patches(images))
        capacity = self.config.patchcore.candidates
        self.bank, self.keys = keep_random(self.bank, self.keys, patches, capacity)

    @torch.no_grad()
    def finish(self) -> None:
        """Thin the sample out to the coreset, and measure how densely patches lie around it."""
        settings = self.config.patchcore
        candidates = self.bank
        count = max(1, round(settings.coreset * len(candidates)))
        projected = random_projection(candidates, settings.projection)
        self.bank = candidates[greedy_coreset(projected, count)]
        self.keys = self.keys[:0]
        if settings.density:
            sample = candidates[torch.randperm(len(candidates))[:DENSITY_SAMPLE]]
            around = min(settings.density, len(sample))
            distances, _ = nearest_few(self.bank, sample, around, self.config.search.memory_mib)
            spacing = distances.mean(dim=1)
            # Not below the median: flat areas, all alike, would turn their noise into defects.
            self.spacing = spacing.clamp_min(spacing.median()).clamp_min(1e-6)

    def forward(self, images: Tensor) -> Prediction:
        """Score images by the distance of their patches to the bank; see `Detector.forward`."""
        settings = self.config.patchcore
        features = self.patches(images)
        patches = rows(features)
        memory_mib = self.config.search.memory_mib
        distances, places = nearest(patches, self.bank, memory_mib)
        if settings.density:
            distances = distances / self.spacing[places]
        maps = distances.view(images.shape[0], 1, *features.shape[-2:])
        prediction = self.predict(maps, images.shape[-2:])
        if not settings.reweight:
            return prediction
        highest, patch = maps.flatten(1).max(dim=1)
        place = patch + torch.arange(images.shape[0], device=patch.device) * maps[0].numel()
        weight = self.weight(patches[place], places[place])
        return prediction._replace(score=highest * weight)

    def weight(self, patches: Tensor, places: Tensor) -> Tensor:
        """The paper's weight of the strangest patch of each image: [B, C], [B] -> [B] in [0, 1].

        One minus the softmax of the distance to the nearest entry, among the distances to the
        entries around that one: a patch whose nearest entry is itself a rare one counts more.
        """
        count = min(self.config.patchcore.reweight, len(self.bank))
        memory_mib = self.config.search.memory_mib
        _, around = nearest_few(self.bank[places], self.bank, count, memory_mib)  # itself first
        apart = (self.bank[around] - patches[:, None]).square().sum(dim=2).sqrt()
        return 1 - apart.softmax(dim=1)[:, 0]
