"""A memory of good patches, and how far others lie from it."""

from collections.abc import Collection, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from data.tensors import near
from models.backbones import concatenated
from models.coreset import PROJECTION, greedy_coreset, random_projection
from models.detector import StoredAtAnyLength
from models.neighbours import nearest, nearest_few
from models.reservoir import keep_random

DENSITY_SAMPLE = 10_000
"""Patches among which the density of good patches is measured. A sample, since most of the nearest
of all patches overlap the patch itself in its own image."""


def patch_features(maps: list[Tensor]) -> Tensor:
    """Feature maps [B, C_i, h_i, w_i], each averaged over 3x3 neighbours: [B, C, h, w], joined."""
    # Not counting what lies outside leaves no margin of weak features.
    return concatenated([F.avg_pool2d(m, 3, 1, 1, count_include_pad=False) for m in maps])


def rows(features: Tensor) -> Tensor:
    """Feature maps [B, C, h, w] as one row a patch, [B * h * w, C]."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


class _Others(NamedTuple):
    """What a bank is without a fold: its entries, their places, and how they are whitened anew."""

    bank: Tensor
    places: Tensor
    anew: Tensor | None


class MemoryBank(StoredAtAnyLength, nn.Module):
    """Features of good patches, thinned out by a greedy coreset (PatchCore: Roth et al., 2022).

    Distances are measured by how densely good patches lie around the nearest entry, so that patches
    of a varied texture are not called strange for lying far apart. It differs from the paper in
    that, and in that the coreset is chosen from a random sample of the patches, which bounds the
    memory of a fit.

    Whitened, all directions of the features count alike that good patches vary in: a rare
    combination of common features, such as a bent piece of an ordinary edge, then lies far out,
    where in plain distances what varies most decides.

    Args:
        channels: C of the features.
        whiten: compare whitened features.
    """

    def __init__(self, channels: int, whiten: bool = False) -> None:
        super().__init__()
        self.whiten = whiten
        self._others: _Others | None = None
        self.register_buffer("whitening", torch.eye(channels) if whiten else torch.zeros(0, 0))
        # Without each fold in turn: what a few images have in common hangs on every one of them.
        self.register_buffer("whitenings", torch.zeros(0, channels, channels))
        # Until it is thinned out, the bank is a sample of all patches, with its keys.
        self.register_buffer("bank", torch.zeros(0, channels))
        self.register_buffer("folds", torch.zeros(0, dtype=torch.int16))
        self.register_buffer("keys", torch.zeros(0))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))
        self.register_buffer("spacing", torch.zeros(0))
        # What the density of further patches is measured among; half precision is plenty for that.
        self.register_buffer("sample", torch.zeros(0, channels, dtype=torch.float16))
        self.register_buffer("sample_keys", torch.zeros(0))

    def clear(self) -> None:
        """Forget all patches."""
        for name in ("bank", "folds", "keys", "spacing", "sample", "sample_keys"):
            setattr(self, name, getattr(self, name)[:0])
        self.seen.zero_()

    @torch.no_grad()
    def collect(
        self, features: Tensor, capacity: int, fold: int, valid: Tensor | None = None
    ) -> None:
        """Let the patches of features [B, C, h, w], all of one fold, compete for a place.

        Args:
            features: of good images.
            capacity: places that there are.
            fold: number of their fold.
            valid: what counts of these images, bool [B, 1, H, W]; None: all. Patches far from
                that take no part.
        """
        arriving = rows(features)
        if valid is not None:
            arriving = arriving[rows(near(valid, features.shape[-2:]))[:, 0] > 0]
        folds = self.folds.new_full((len(arriving),), fold)
        self.seen += len(arriving)
        kept = (self.bank, self.folds)
        (self.bank, self.folds), self.keys = keep_random(
            kept, self.keys, (arriving, folds), capacity
        )

    @torch.no_grad()
    def thin_out(self, share: float, density: int, capacity: int, by_fold: bool = True) -> None:
        """Keep a share of the patches, and measure how densely the others lie around them.

        If each fold chooses a coreset of its own, what remains without a fold is what would have
        been chosen without it, and patches of further images can be collected and thinned out
        later: folds do not ask what others have chosen, and of a coreset the first entries are a
        smaller coreset. A small memory is better chosen from all patches together, for folds
        choose much alike; without one of them there is then a little less than there would be.

        Args:
            share: of the patches that stays, at least one of each fold.
            density: neighbours that tell how densely patches lie; 0 leaves distances as they are.
            capacity: as of `collect`.
            by_fold: whether each fold chooses its own.
        """
        # Entries that were chosen earlier have negative keys, by which no other takes their place:
        # -1 and more, by the share of their fold's patches that were chosen before them.
        rate, earlier = min(1.0, capacity / int(self.seen)), self.keys < 0
        if self.whiten and earlier.any():  # whitened like the entries that are there
            further = int(self.folds.max()) + 1 - len(self.whitenings)
            self.whitenings = torch.cat([self.whitenings, self.whitening.expand(further, -1, -1)])
        elif self.whiten:
            self.whitening = whitening(self.bank)
            others = (self.bank[self.folds != fold] for fold in range(int(self.folds.max()) + 1))
            self.whitenings = torch.stack(
                [whitening(patches if len(patches) > 1 else self.bank) for patches in others]
            )
        stays = earlier & (self.keys + 1 < share * rate)
        # Further patches are sampled as sparsely as all are now.
        new = ~earlier & (self.keys < rate) if earlier.any() else ~earlier
        candidates, folds, drawn = self._compared(self.bank[new]), self.folds[new], self.keys[new]
        projected = random_projection(candidates, PROJECTION)
        chosen, keys = [], [self.keys[stays]]
        every = torch.arange(len(candidates), device=candidates.device)
        parts = [every[folds == fold] for fold in folds.unique()] if by_fold else [every]
        for own in tqdm(parts, "coreset", disable=None):
            wanted = min(max(1, round(share * len(own))), len(own))
            chosen.append(own[greedy_coreset(projected[own], wanted, quiet=True)])
            order = torch.arange(wanted).to(self.keys) + 0.5
            order[0] = 0  # one stays in any case
            keys.append(order / len(own) * rate - 1)
        places = torch.cat([every[:0], *chosen])
        self.bank = torch.cat([self.bank[stays], candidates[places]])
        self.folds = torch.cat([self.folds[stays], folds[places]])
        self.keys = torch.cat(keys)
        if density:
            drawn = torch.cat([self.sample_keys, drawn])
            lowest = drawn.topk(min(DENSITY_SAMPLE, capacity, len(drawn)), largest=False).indices
            sample = torch.cat([self.sample.to(candidates), candidates])[lowest]
            if by_fold:  # further ones may come
                self.sample, self.sample_keys = sample.half(), drawn[lowest]
            around = min(density, len(sample))
            distances, _ = nearest_few(self.bank, sample, around)
            spacing = distances.mean(dim=1)
            # Not below the median: flat areas, all alike, would turn their noise into defects.
            self.spacing = spacing.clamp_min(spacing.median()).clamp_min(1e-6)

    @torch.no_grad()
    def leave_out(self, fold: int | None) -> None:
        """Compare with the patches of all folds but this one from now on; None: with all.

        A fold that is alone in the bank stays in.
        """
        self._others = None
        if fold is None or not (self.folds != fold).any():
            return
        places = (self.folds != fold).nonzero()[:, 0]
        bank, anew = self.bank[places], None
        if self.whiten:
            anew = torch.linalg.solve(self.whitening, self.whitenings[fold])
            bank = bank @ anew
        self._others = _Others(bank, places, anew)

    def distances(self, features: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """How far the patches of features [B, C, h, w] lie from the bank.

        Args:
            features: of images.
            valid: what counts of these, as of `collect`. Far from that distances are 0.

        Returns:
            Distances [B, 1, h, w], and the places [B * h * w] of the nearest entries among those
            that are not left out.
        """
        patches, others = self._compared(rows(features)), self._others
        if others is None:
            distances, places = nearest(patches, self.bank)
        else:
            patches = patches if others.anew is None else patches @ others.anew
            distances, places = nearest(patches, others.bank)
            places = others.places[places]
        if len(self.spacing):
            distances = distances / self.spacing[places]
        distances = distances.view(features.shape[0], 1, *features.shape[-2:])
        if valid is not None:
            distances = distances * near(valid, features.shape[-2:])
        return distances, places

    def _compared(self, patches: Tensor) -> Tensor:
        """Patches [N, C] as their distances are measured."""
        return patches @ self.whitening if self.whiten else patches


def distances_to(
    memories: Collection[MemoryBank], patches: list[Tensor], valid: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """How far patches lie from several memories.

    Args:
        memories: M of them.
        patches: features [B, C, h, w] for each memory.
        valid: as of `MemoryBank.collect`.

    Returns:
        Distances [B, M, h, w], as fine as the first features, and the places [B * h * w] of the
        nearest entries in each.
    """
    pairs = zip(memories, patches, strict=True)
    found = [memory.distances(features, valid) for memory, features in pairs]
    return concatenated([distances for distances, _ in found]), [places for _, places in found]


def leaving_out(memories: Collection[MemoryBank], count: int) -> Iterator[int]:
    """Have memories be in turn without each of `count` folds; see `Detector.leaving_out`."""
    try:
        for number in range(count):
            for memory in memories:
                memory.leave_out(number)
            yield number
    finally:
        for memory in memories:
            memory.leave_out(None)


RIDGE = 0.01
"""Share of the mean variance that is added to all: directions without any are noise."""


def whitening(patches: Tensor) -> Tensor:
    """The matrix [C, C] that makes patches [N, C] vary alike in all directions."""
    # In float64, which MPS has not.
    variances, directions = torch.linalg.eigh(torch.cov(patches.cpu().double().T))
    ridge = (RIDGE * variances.mean()).clamp_min(1e-12)
    return (directions / (variances.clamp_min(0) + ridge).sqrt()).to(patches)
