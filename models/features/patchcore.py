"""PatchCore: a part is as strange as the patch that lies farthest from all good patches.

Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022.
"""

import torch
from torch import Tensor

from models.detector import Prediction
from models.features.backbones import LITE
from models.features.feature_detector import MemoryDetector
from models.features.memory_bank import patch_features, rows
from models.features.neighbours import nearest_few
from utils.config import Config
from utils.errors import UserError


class PatchCore(MemoryDetector):
    """A memory of good patches, and the distance of others to it.

    It differs from the paper in what `MemoryBank` says; `patchcore.density=0` and a number of
    `patchcore.candidates` that all patches fit in are the paper.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, default=LITE)
        if config.patchcore.reweight and (config.data.fit == "pad" or config.data.region):
            raise UserError(
                "patchcore.reweight scores the whole frame, padding and what is outside of "
                "data.region too; set patchcore.reweight to 0, or neither data.region nor "
                "data.fit=pad"
            )

    def patches(self, images: Tensor) -> Tensor:
        """Features [B, C, h, w] of images [B, 3, H, W], each averaged over 3x3 neighbours."""
        return patch_features(self.maps(images))

    def collect(self, images: Tensor, fold: int) -> None:
        """Let the patches of the images compete for a place in the memory."""
        self.keep()
        capacity = self.config.patchcore.candidates
        self.memory.collect(self.patches(images), capacity, fold, self.counted(images))

    def finish(self) -> None:
        """Thin the memory out to the coreset."""
        settings = self.config.patchcore
        self.memory.thin_out(settings.coreset, settings.density, settings.candidates)

    def forward(self, images: Tensor) -> Prediction:
        """Score images by the distance of their patches to the memory; see `Detector.forward`."""
        features = self.patches(images)
        maps, places = self.memory.distances(features, self.counted(images))
        prediction = self.predict(maps, images.shape[-2:])
        if not self.config.patchcore.reweight:
            return prediction
        highest, patch = maps.flatten(1).max(dim=1)
        place = patch + torch.arange(images.shape[0], device=patch.device) * maps[0].numel()
        weight = self.weight(rows(features)[place], places[place])
        return prediction._replace(score=highest * weight)

    def weight(self, patches: Tensor, places: Tensor) -> Tensor:
        """The paper's weight of the strangest patch of each image: [B, C], [B] -> [B] in [0, 1].

        One minus the softmax of the distance to the nearest entry, among the distances to the
        entries around that one: a patch whose nearest entry is itself a rare one counts more.
        """
        bank = self.memory.bank
        count = min(self.config.patchcore.reweight, len(bank))
        _, around = nearest_few(bank[places], bank, count)  # itself
        apart = (bank[around] - patches[:, None]).square().sum(dim=2).sqrt()
        return 1 - apart.softmax(dim=1)[:, 0]
