"""Memory bank of good patches: nearest neighbours, and distances to them.

Roth et al., "Towards total recall in industrial anomaly detection" (PatchCore), CVPR 2022.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from data.good_images import Fold
from data.tensors import near
from models.backbones import concatenated
from models.coreset import RandomSample, greedy_coreset, random_projection
from models.detector import VariableLengthBuffers

# Dimensions in which a coreset is chosen.
PROJECTED = 128

# Good patches around an entry whose mean distance is its local spacing.
NEIGHBOURS = 50

# Patches among which these neighbours are searched. A sample, since most of the nearest ones of all
# patches overlap the patch itself in its own image.
DENSITY_PATCHES = 10_000

# Share of the mean variance added to the variance of each direction before whitening, since
# directions without any variance are noise.
RIDGE = 0.01

# Most by which the distance of a patch that equals one of a known defect is raised, as a share.
GAIN = 2.0

# Patches of known defects that a bank keeps at most, at random: bounds the time of a search.
MAX_DEFECTS = 2000


def locally_aware_patches(maps: list[Tensor]) -> Tensor:
    """Average feature maps [B, C_i, h_i, w_i] over 3x3 neighbours and join them: [B, C, h, w].

    The paper's locally aware patch features (section 3.1).
    """
    # The zeros beyond the border count, as in the authors' code: good patches vary most there, and
    # without zeros many good parts have their highest distance at the frame.
    return concatenated([F.avg_pool2d(m, 3, 1, 1) for m in maps])


def patch_rows(features: Tensor) -> Tensor:
    """Flatten feature maps [B, C, h, w] to one row a patch, [B * h * w, C]."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)


class MemoryBank(VariableLengthBuffers, nn.Module):
    """Coreset of features of good patches, and distances of other patches to it.

    It differs from the paper in three points. The coreset is chosen from a random sample of the
    patches, which bounds memory. Distances may be divided by the local spacing of good patches (a
    local density, as in local outlier factors: Breunig et al., SIGMOD 2000), for patches of a
    varied texture lie far apart although all are good. And features may be whitened: all directions
    in which good patches vary weigh alike, and a rare combination of common features, such as a
    bent piece of an ordinary edge, lies far out.

    Args:
        channels: C of the features.
        whiten: whether distances are those of whitened features (Mahalanobis distances).
        candidates: patches from which the coreset is chosen; None for all.
        defects: whether patches of known defects are kept beside the good ones.

    Attributes:
        fold_share: if not 0, distances are those of `nearest_by_fold` with this share.
    """

    def __init__(
        self,
        channels: int,
        whiten: bool = False,
        candidates: int | None = None,
        defects: bool = False,
    ) -> None:
        super().__init__()
        self.whiten = whiten
        self.sample = RandomSample(candidates)
        self.register_buffer("bank", torch.zeros(0, channels))  # whitened, if at all
        self.register_buffer("folds", torch.zeros(0, dtype=torch.int16))  # of the entries
        self.register_buffer("spacing", torch.zeros(0))  # of the entries; empty: all 1
        self.register_buffer("whitening", torch.eye(channels) if whiten else torch.zeros(0, 0))
        # One more for each fold, fitted without it: with few images every one shapes the matrix.
        self.register_buffer("whitenings", torch.zeros(0, channels, channels))
        # Patches of known defects, whitened as the entries are; None: not in the state at all.
        self.register_buffer("defects", torch.zeros(0, channels) if defects else None)
        self.fold_share = 0.0
        self._excluded: tuple[Tensor, Tensor, Tensor | None] | None = None  # set by `without`

    @torch.no_grad()
    def collect(self, features: Tensor, fold: int, valid: Tensor | None = None) -> None:
        """Sample patches of good images.

        Args:
            features: [B, C, h, w], all of one fold.
            fold: its number.
            valid: bool [B, 1, H, W], the region of interest; patches far from it take no part.
        """
        patches = patch_rows(features)
        if valid is not None:
            patches = patches[patch_rows(near(valid, features.shape[-2:]))[:, 0] > 0]
        self.sample.add(patches, fold)

    @torch.no_grad()
    def fit(self, share: float, by_fold: bool = True, spacing: bool = True) -> None:
        """Choose the coreset of the sampled patches, and measure the spacing around its entries.

        Args:
            share: of the patches that the coreset keeps, at least one of each fold.
            by_fold: choose a coreset of each fold, so that the bank without a fold is exactly what
                it would be if that fold had not been there. A small bank is better chosen from all
                patches together, for folds choose much alike.
            spacing: divide distances by the local spacing; False: plain distances.
        """
        patches, folds, keys = self.sample.rows, self.sample.folds, self.sample.keys
        self.sample = RandomSample(self.sample.capacity)  # its memory is free again
        if self.whiten:
            self.whitening = whitening(patches)
            others = (patches[folds != fold] for fold in range(int(folds.max()) + 1))
            self.whitenings = torch.stack(
                [whitening(other if len(other) > 1 else patches) for other in others]
            )
            patches = patches @ self.whitening
        projected = random_projection(patches, PROJECTED)
        every = torch.arange(len(patches), device=patches.device)
        groups = [every[folds == fold] for fold in folds.unique()] if by_fold else [every]
        chosen = []
        for group in tqdm(groups, "coreset", disable=None):
            count = min(max(1, round(share * len(group))), len(group))
            chosen.append(group[greedy_coreset(projected[group], count, quiet=True)])
        entries = torch.cat(chosen)
        self.bank, self.folds = patches[entries], folds[entries]
        if spacing:
            count = min(DENSITY_PATCHES, len(patches))
            among = patches[keys.topk(count, largest=False).indices]  # low keys: a random sample
            distances, _ = nearest_few(self.bank, among, min(NEIGHBOURS, count))
            mean = distances.mean(dim=1)
            # Not below the median: in flat areas, all alike, noise would become anomalous.
            self.spacing = mean.clamp_min(mean.median()).clamp_min(1e-6)

    def store(self) -> None:
        """Keep all sampled patches as the bank, without a coreset."""
        self.bank, self.folds = self.sample.rows, self.sample.folds
        self.sample = RandomSample(self.sample.capacity)

    def set_defects(self, patches: Tensor) -> None:
        """Keep patches [N, C] of known defects, `MAX_DEFECTS` of them at most."""
        patches = patches[torch.randperm(len(patches))[:MAX_DEFECTS].to(patches.device)]
        self.defects = patches @ self.whitening if self.whiten else patches

    @contextmanager
    def without(self, fold: Fold) -> Iterator[None]:
        """Within it, measure distances to the patches of all other folds.

        The patches of a fold that is alone in the bank stay.
        """
        entries = (self.folds != fold.number).nonzero()[:, 0]
        if not len(entries):
            yield
            return
        bank, change = self.bank[entries], None
        if self.whiten:
            # From whitened by all folds to whitened without this one: x W^-1 W_k.
            change = torch.linalg.solve(self.whitening, self.whitenings[fold.number])
            bank = bank @ change
        self._excluded = bank, entries, change
        try:
            yield
        finally:
            self._excluded = None

    def distances(self, features: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the distances of patches to their nearest entries.

        Where a known defect is nearer, at distance d_bad < d, d becomes
        d * (1 + GAIN * (1 - d_bad / d)): up to 1 + GAIN times as much. Elsewhere nothing changes.

        Args:
            features: [B, C, h, w].
            valid: bool [B, 1, H, W], the region of interest; far from it distances are 0.

        Returns:
            Distances [B, 1, h, w] >= 0, and indices [B * h * w] of the nearest entries.
        """
        patches = patch_rows(features)
        if self.whiten:
            patches = patches @ self.whitening
        defects = self.defects
        if self._excluded is None:
            distances, nearest_entries = self._nearest(patches, self.bank, self.folds)
        else:
            bank, entries, change = self._excluded
            if change is not None:
                patches = patches @ change
                defects = None if defects is None else defects @ change
            distances, indices = self._nearest(patches, bank, self.folds[entries])
            nearest_entries = entries[indices]
        if defects is not None and len(defects):
            # d (1 + GAIN (1 - d_bad / d)) = d + GAIN (d - d_bad), before the spacing divides it
            distances = distances + GAIN * (distances - nearest(patches, defects)[0]).clamp_min(0)
        if len(self.spacing):
            distances = distances / self.spacing[nearest_entries]
        distances = distances.view(features.shape[0], 1, *features.shape[-2:])
        if valid is not None:
            distances = distances * near(valid, features.shape[-2:])
        return distances, nearest_entries

    def _nearest(self, patches: Tensor, bank: Tensor, folds: Tensor) -> tuple[Tensor, Tensor]:
        if not self.fold_share:
            return nearest(patches, bank)
        return nearest_by_fold(patches, bank, folds, self.fold_share)


def distances_to(
    banks: Sequence[MemoryBank], patches: list[Tensor], valid: Tensor | None
) -> tuple[Tensor, list[Tensor]]:
    """Return the distances of patches to several memory banks.

    Args:
        banks: M of them.
        patches: features [B, C, h, w] for each bank.
        valid: bool [B, 1, H, W], the region of interest; None: everywhere.

    Returns:
        Distances [B, M, h, w], at the resolution of the first features, and for each bank the
        indices [B * h * w] of the nearest entries.
    """
    pairs = zip(banks, patches, strict=True)
    found = [bank.distances(features, valid) for bank, features in pairs]
    return concatenated([distances for distances, _ in found]), [entries for _, entries in found]


@contextmanager
def without(parts: Iterable[nn.Module], fold: Fold) -> Iterator[None]:
    """Within it, several parts of a detector, each with a `without` of its own, lack a fold."""
    with ExitStack() as stack:
        for part in parts:
            stack.enter_context(part.without(fold))
        yield


def whitening(patches: Tensor) -> Tensor:
    """Return the matrix [C, C] that gives patches [N, C] equal variance in all directions."""
    # On the CPU, since MPS has no float64, which the smallest variances need.
    variances, directions = torch.linalg.eigh(torch.cov(patches.cpu().double().T))
    ridge = (RIDGE * variances.mean()).clamp_min(1e-12)
    return (directions / (variances.clamp_min(0) + ridge).sqrt()).to(patches)


# Size of the block of distances that is held at a time, in MiB.
BLOCK_MIB = 8.0

# Entries of a bank in a block: few enough that the block's minimum is taken in the cache.
BLOCK_ENTRIES = 512

# The same in an exported graph, where each block adds some nodes, and on a GPU, which is idle with
# less; and queries at a time there: blocks of 256 MiB.
GRAPH_ENTRIES, GPU_QUERIES = 2048, 2**15


def nearest(queries: Tensor, bank: Tensor, block_mib: float = BLOCK_MIB) -> tuple[Tensor, Tensor]:
    """Find the nearest entry of a bank for each query, exactly.

    Squared distances are |q|^2 - 2 q.b + |b|^2, in which |q|^2 changes no ranking. Each block of
    the matrix is reduced to its row minima at once, which is faster than an argmin; the index is
    found afterwards, in the one block of each query that holds its minimum.

    Args:
        queries: [N, D] float.
        bank: [M, D] float on the same device, M at least 1.
        block_mib: size of a block of distances on a CPU, in MiB.

    Returns:
        Euclidean distances [N] and indices into the bank [N].
    """
    if torch.compiler.is_exporting():
        return _nearest_in_graph(queries, bank)
    if queries.device.type != "cpu":
        # A step that depends on values would have the CPU wait for the GPU.
        found = [_nearest_in_graph(part, bank) for part in queries.split(GPU_QUERIES)]
        distances, indices = map(torch.cat, zip(*found, strict=True))
        return distances, indices
    rows = max(1, int(block_mib * 2**20 / (queries.element_size() * BLOCK_ENTRIES)))
    blocks, squares = bank.split(BLOCK_ENTRIES), bank.square().sum(dim=1).split(BLOCK_ENTRIES)
    indices = torch.empty(len(queries), dtype=torch.long, device=queries.device)
    for part, found in zip(queries.split(rows), indices.split(rows), strict=True):
        lowest = part.new_full((len(part),), torch.inf)
        holder = torch.zeros_like(found)
        for number, (block, square) in enumerate(zip(blocks, squares, strict=True)):
            minimum = torch.addmm(square, part, block.T, alpha=-2).amin(dim=1)
            holder[minimum < lowest] = number
            lowest = torch.minimum(lowest, minimum)
        for number in holder.unique().tolist():
            held = (holder == number).nonzero()[:, 0]
            product = torch.addmm(squares[number], part[held], blocks[number].T, alpha=-2)
            found[held] = number * BLOCK_ENTRIES + product.argmin(dim=1)
    return _distances(queries, bank, indices), indices


def nearest_by_fold(
    queries: Tensor, bank: Tensor, folds: Tensor, share: float
) -> tuple[Tensor, Tensor]:
    """Find an entry of a bank for each query such that a share of the folds has one as near.

    A patch of a defect is near to entries of other such defects, which are in few folds; a patch of
    good parts is near to entries of most.

    Args:
        queries: [N, D] float.
        bank: [M, D] float.
        folds: number of the fold of each entry, [M].
        share: of the folds, rounded down; one at least.

    Returns:
        Distances and indices as of `nearest`.
    """
    found = []
    for fold in folds.unique():
        own = (folds == fold).nonzero()[:, 0]
        distances, indices = nearest(queries, bank[own])
        found.append((distances, own[indices]))
    distances, indices = (torch.stack(values) for values in zip(*found, strict=True))
    distances, chosen = distances.kthvalue(max(1, int(share * len(found))), dim=0)
    return distances, indices.gather(0, chosen[None])[0]


def nearest_few(
    queries: Tensor, bank: Tensor, count: int, block_mib: float = BLOCK_MIB
) -> tuple[Tensor, Tensor]:
    """Find the `count` nearest entries of a bank for each query, nearest first.

    Args:
        queries: [N, D] float.
        bank: [M, D] float on the same device, M at least `count`.
        count: neighbours of each query.
        block_mib: size of a block of distances, in MiB; never less than one query's.

    Returns:
        Euclidean distances [N, count] and indices into the bank [N, count].
    """
    rows = max(1, int(block_mib * 2**20 / (queries.element_size() * len(bank))))
    # A graph cannot hold a loop over queries, whose number it does not know.
    parts = [queries] if torch.compiler.is_exporting() else queries.split(rows)
    square = bank.square().sum(dim=1)
    indices = torch.cat(
        [
            torch.addmm(square, part, bank.T, alpha=-2).topk(count, largest=False).indices
            for part in parts
        ]
    )
    # One rank at a time: all neighbours at once would take `count` times the queries' memory.
    distances = [_distances(queries, bank, indices[:, rank]) for rank in range(count)]
    return torch.stack(distances, dim=1), indices


def _nearest_in_graph(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """`nearest` without steps that depend on values, which an exported graph cannot hold."""
    lowest, indices = None, None
    for start in range(0, len(bank), GRAPH_ENTRIES):
        block = bank[start : start + GRAPH_ENTRIES]
        product = torch.addmm(block.square().sum(dim=1), queries, block.T, alpha=-2)
        minimum, index = product.min(dim=1)
        if lowest is None:
            lowest, indices = minimum, index
        else:
            indices = torch.where(minimum < lowest, index + start, indices)
            lowest = torch.minimum(minimum, lowest)
    return _distances(queries, bank, indices), indices


def _distances(queries: Tensor, bank: Tensor, indices: Tensor) -> Tensor:
    """Distances from the differences: the product rounds coarsely where q and b almost agree."""
    return (queries - bank[indices]).square().sum(dim=1).sqrt()
