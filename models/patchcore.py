"""PatchCore: a part is as strange as the patch that lies farthest from all good patches.

Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

from models.backbones import LITE
from models.detector import FittedDetector, Folds, Prediction
from models.feature_detector import FeatureDetector
from models.memory_bank import (
    MemoryBank,
    distances_to,
    leaving_out,
    patch_features,
    rows,
)
from models.neighbours import nearest_few
from models.normalisation import Normalisation
from utils.config import Config
from utils.errors import UserError


class PatchCore(FeatureDetector, FittedDetector):
    """Two memories of good patches for each layer, and the mean distance of others to them all.

    One is plain, the other whitened. Layers are not joined, for a part that lies anywhere seldom
    shows the same fine features beside the same coarse ones. It differs from the paper in these, in
    the scale of its map, and in what `MemoryBank` says; `patchcore.joined=true`,
    `patchcore.density=0`, `patchcore.reweight=9` and a number of `patchcore.candidates` that all
    patches fit in give the paper's score.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, default=LITE)
        if config.patchcore.joined:
            memories = [MemoryBank(sum(self.backbone.channels))]
        else:
            memories = [MemoryBank(c, w) for c in self.backbone.channels for w in (False, True)]
        self.memories = nn.ModuleList(memories)
        self.scale = Normalisation(1, config.data)
        if config.patchcore.reweight and (config.data.resize == "pad" or config.data.region):
            raise UserError(
                "patchcore.reweight scores the whole frame, padding and what is outside of "
                "data.region too; set patchcore.reweight to 0, or neither data.region nor "
                "data.resize=pad"
            )
        if config.patchcore.reweight and not config.patchcore.joined:
            raise UserError(
                "patchcore.reweight is the paper's, of layers that are joined; set "
                "patchcore.joined to true, or patchcore.reweight to 0"
            )

    def patches(self, images: Tensor) -> list[Tensor]:
        """Features [B, C, h, w] of images [B, 3, H, W], averaged over 3x3, for each memory."""
        maps = self.maps(images)
        if self.config.patchcore.joined:
            return [patch_features(maps)]
        return [features for layer in maps for features in [patch_features([layer])] * 2]

    def collect(self, images: Tensor, fold: int) -> None:
        """Let the patches of the images compete for a place in the memories."""
        self.keep()
        capacity, valid = self.config.patchcore.candidates, self.valid_mask(images)
        for memory, features in zip(self.memories, self.patches(images), strict=True):
            memory.collect(features, capacity, fold, valid)

    def finish(self) -> None:
        """Thin the memories out to their coresets."""
        settings = self.config.patchcore
        for memory in self.memories:
            memory.thin_out(settings.coreset, settings.density, settings.candidates)

    def leaving_out(self, folds: Folds) -> Iterator[int]:
        """Be in turn without what each fold brought to memories and scale; see `Detector`."""
        leave = partial(leaving_out, self.memories, len(folds))
        if all(map(len, folds)):
            yield from self.scale.leaving_out(folds, self.strangeness, leave)
        else:  # images were added to others that are gone: the scale stays as those set it
            yield from leave()
        self.kept = None

    def strangeness(self, images: Tensor) -> Tensor:
        """Mean distance of the patches of images [B, 3, H, W] to all memories: [B, 1, h, w]."""
        distances, _ = distances_to(self.memories, self.patches(images), self.valid_mask(images))
        return distances.mean(dim=1, keepdim=True)

    def forward(self, images: Tensor) -> Prediction:
        """Score images by the distances of their patches; see `Detector.forward`."""
        patches = self.patches(images)
        distances, places = distances_to(self.memories, patches, self.valid_mask(images))
        maps = distances.mean(dim=1, keepdim=True)
        prediction = self.predict(self.scale(maps), images.shape[-2:])
        if not self.config.patchcore.reweight:
            return prediction
        (features,), (places,) = patches, places
        highest, patch = maps.flatten(1).max(dim=1)
        place = patch + torch.arange(images.shape[0], device=patch.device) * maps[0].numel()
        weight = self.weight(rows(features)[place], places[place])
        return prediction._replace(score=highest * weight)

    def weight(self, patches: Tensor, places: Tensor) -> Tensor:
        """The paper's weight of the strangest patch of each image: [B, C], [B] -> [B] in [0, 1].

        One minus the softmax of the distance to the nearest entry, among the distances to the
        entries around that one: a patch whose nearest entry is itself a rare one counts more.
        """
        bank = self.memories[0].bank
        count = min(self.config.patchcore.reweight, len(bank))
        _, around = nearest_few(bank[places], bank, count)  # itself
        apart = (bank[around] - patches[:, None]).square().sum(dim=2).sqrt()
        return 1 - apart.softmax(dim=1)[:, 0]
