"""PatchCore: the anomaly score of a patch is its distance to the nearest good patch.

Roth et al., "Towards total recall in industrial anomaly detection", CVPR 2022.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from data.good_images import Fold
from models.backbones import LITE
from models.detector import FittedDetector, Prediction
from models.feature_detector import FeatureDetector
from models.known_defects import learn_defects
from models.memory_bank import (
    MemoryBank,
    distances_to,
    locally_aware_patches,
    nearest_few,
    patch_rows,
    without,
)
from models.normalisation import Normalisation, out_of_fold_maps
from utils.config import Config
from utils.errors import UserError

# Patches from which each coreset is chosen: bounds the memory of a fit.
CANDIDATES = 200_000

# b of the paper's equation 7.
REWEIGHT_NEIGHBOURS = 9


class PatchCore(FeatureDetector, FittedDetector):
    """Memory banks of good patches, and the distance of other patches to them.

    With `patchcore.paper` it is the paper's method: the layers are joined, one memory bank holds a
    coreset of all patches, the anomaly map is the distance to it, and the image score is the
    re-weighted highest distance (equations 6 and 7).

    By default it differs in three points, each measured in docs/experiments.md. Each layer has two
    memory banks of its own, one with plain and one with whitened features, since a part that lies
    anywhere seldom shows the same fine features beside the same coarse ones. The map is the mean of
    the distances, each divided by the local spacing of good patches. And it is normalised by
    position (`Normalisation`), the image score being that of `score.reduce`.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, default=LITE)
        self.paper = config.patchcore.paper
        with_defects = config.data.defects is not None
        if self.paper and with_defects:
            raise UserError("data.defects needs patchcore.paper=false; set one of the two")
        if self.paper:
            banks = [MemoryBank(sum(self.backbone.channels))]
            if config.data.resize == "pad" or config.data.region:
                raise UserError(
                    "patchcore.paper scores the whole frame, padding and the outside of data.region"
                    " too; set patchcore.paper=false, or neither data.region nor data.resize=pad"
                )
        else:
            layers = self.backbone.channels
            banks = [
                MemoryBank(c, w, CANDIDATES, with_defects) for c in layers for w in (False, True)
            ]
        self.banks = nn.ModuleList(banks)
        self.normalisation = None if self.paper else Normalisation(1, config.data)

    def patches(self, images: Tensor) -> list[Tensor]:
        """Return locally aware patch features [B, C, h, w] of images, for each memory bank."""
        layers = self.features(images)
        if self.paper:
            return [locally_aware_patches(list(layers))]
        return [features for layer in layers for features in [locally_aware_patches([layer])] * 2]

    def collect(self, images: Tensor, fold: int) -> None:
        """See `FittedDetector.collect`."""
        valid = self.valid_mask(images)
        for bank, features in zip(self.banks, self.patches(images), strict=True):
            bank.collect(features, fold, valid)

    @torch.no_grad()
    def finish(self, folds: Sequence[Fold]) -> None:
        """Choose the coresets, then normalise; see `Detector.finish`."""
        for bank in self.banks:
            # The paper's greedy selection runs over all patches, not over those of a fold.
            bank.fit(self.config.patchcore.coreset, by_fold=not self.paper, spacing=not self.paper)
        self.normalise(folds)

    def normalise(self, folds: Sequence[Fold]) -> None:
        """Learn the known defects, if any, then normalise the distances, which they change."""
        if self.known_defects:
            learn_defects(self.banks, self.patches, self.valid_mask, self.known_defects, folds)
        if self.normalisation is not None:
            maps = out_of_fold_maps(
                folds, lambda images: self.distances(images)[0], lambda f: without(self.banks, f)
            )
            self.normalisation.fit(maps)

    def without(self, fold: Fold) -> AbstractContextManager[None]:
        """See `Detector.without`."""
        parts = [*self.banks] if self.paper else [*self.banks, self.normalisation]
        return without(parts, fold)

    def distances(self, images: Tensor) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return the mean distance of patches to the memory banks, [B, 1, h, w] (equation 6).

        With it the patches, and the indices of their nearest entries, for each bank.
        """
        patches = self.patches(images)
        distances, entries = distances_to(self.banks, patches, self.valid_mask(images))
        return distances.mean(dim=1, keepdim=True), patches, entries

    def forward(self, images: Tensor) -> Prediction:
        """Score images; see `Detector.forward`."""
        distances, patches, entries = self.distances(images)
        if self.normalisation is not None:
            return self.predict(self.normalisation(distances), images.shape[-2:])
        prediction = self.predict(distances, images.shape[-2:])
        highest, patch = distances.flatten(1).max(dim=1)
        # Index of each image's highest patch among the rows of all images.
        row = patch + torch.arange(images.shape[0], device=patch.device) * distances[0].numel()
        weight = self.weight(patch_rows(patches[0])[row], entries[0][row])
        return prediction._replace(score=weight * highest)

    def weight(self, patches: Tensor, entries: Tensor) -> Tensor:
        """Return the weight of equation 7 for patches [B, C] with nearest entries [B]: in [0, 1].

        w = 1 - exp|x - m*| / sum over the b nearest entries m of m* of exp|x - m|: a patch whose
        nearest entry is itself rare among good patches counts more.
        """
        bank = self.banks[0].bank
        count = min(REWEIGHT_NEIGHBOURS, len(bank))
        _, around = nearest_few(bank[entries], bank, count)  # m* itself comes first
        distances = (bank[around] - patches[:, None]).square().sum(dim=2).sqrt()
        return 1 - distances.softmax(dim=1)[:, 0]
