"""Choosing the patches of a memory bank: a random sample of bounded size, then a greedy coreset."""

import math

import torch
from torch import Tensor
from tqdm import tqdm

# Points that compete at a time.
BLOCK = 2048

# Points of a block whose bounds are updated by one matrix product.
CHUNK = 256


class RandomSample:
    """Uniform sample, without replacement, of at most `capacity` rows of a stream.

    Each row draws a key in [0, 1), and the lowest keys stay (reservoir sampling: Vitter, 1985). The
    keys come from torch's CPU generator, so that all devices choose alike.

    Args:
        capacity: rows at most; None for no limit.

    Attributes:
        rows: [n, C], those that are kept.
        folds: [n] int16, the number of the fold that each is of.
        keys: [n] in [0, 1).
    """

    def __init__(self, capacity: int | None) -> None:
        self.capacity = capacity
        self.rows = self.folds = self.keys = torch.zeros(0)

    def add(self, rows: Tensor, fold: int) -> None:
        """Let rows [m, C], all of one fold, compete for a place in the sample."""
        keys = torch.rand(len(rows)).to(rows)
        folds = torch.full((len(rows),), fold, dtype=torch.int16, device=rows.device)
        if not len(self.keys):
            self.rows, self.folds, self.keys = rows[:0], folds[:0], keys[:0]
        free = len(rows) if self.capacity is None else self.capacity - len(self.keys)
        if free > 0:
            self.rows = torch.cat([self.rows, rows[:free]])
            self.folds = torch.cat([self.folds, folds[:free]])
            self.keys = torch.cat([self.keys, keys[:free]])
            rows, folds, keys = rows[free:], folds[free:], keys[free:]
        if not len(keys):
            return
        # Full: overwrite in place, for copying the whole sample at every batch would cost more.
        lowest = torch.cat([self.keys, keys]).topk(self.capacity, largest=False).indices
        stays = torch.zeros(self.capacity, dtype=torch.bool, device=keys.device)
        stays[lowest[lowest < self.capacity]] = True
        enters = lowest[lowest >= self.capacity] - self.capacity
        for kept, new in ((self.rows, rows), (self.folds, folds), (self.keys, keys)):
            kept[~stays] = new[enters]


def random_projection(points: Tensor, dimensions: int) -> Tensor:
    """Project points [N, D] to [N, dimensions], keeping distances roughly (Johnson-Lindenstrauss).

    Points of no more dimensions are returned unchanged. Draws from torch's CPU generator.
    """
    if points.shape[1] <= dimensions:
        return points
    directions = torch.randn(points.shape[1], dimensions).to(points)
    return points @ directions / math.sqrt(dimensions)


def greedy_coreset(points: Tensor, count: int, quiet: bool = False) -> Tensor:
    """Choose a greedy k-centre coreset: the first point, then always the farthest from the chosen.

    No point is left more than twice as far from the centres as the best choice of as many would
    leave it (Gonzalez, Theoretical Computer Science 1985).

    A new centre can only bring points closer to their nearest centre, so a distance computed
    earlier is an upper bound of today's. Hence only the block of points with the highest bounds is
    updated, and centres are taken from it as long as its farthest point is farther than the highest
    bound outside. The choice is the same as with an update of all points for every centre.

    Args:
        points: [N, D] float.
        count: centres to choose, at most N.
        quiet: no progress bar.

    Returns:
        [count] indices of the centres, in the order of choice.
    """
    points = points - points.mean(dim=0)  # short vectors: less is lost to rounding
    square = points.square().sum(dim=1)
    chosen = torch.zeros(count, dtype=torch.long, device=points.device)
    centres, centre_square = points.new_empty(count, points.shape[1]), points.new_empty(count)

    def squared_distances(index: int, others: Tensor, others_square: Tensor, step: int) -> Tensor:
        chosen[step], centres[step], centre_square[step] = index, points[index], square[index]
        # |x - c|^2 = |x|^2 - 2 x.c + |c|^2
        product = torch.addmv(others_square, others, centres[step], alpha=-2)
        return product.add_(centre_square[step]).clamp_min_(0)

    # bound: squared distance to the nearest of the first `updated` centres; -1 for centres.
    bound = squared_distances(0, points, square, step=0)
    bound[0] = -1
    updated = torch.ones(len(points), dtype=torch.long, device=points.device)
    done = 1
    with tqdm(total=count, initial=1, desc="coreset", unit="patch", disable=quiet or None) as bar:
        while done < count:
            highest, block = bound.topk(min(BLOCK + 1, len(points)))
            outside = highest[BLOCK] if len(points) > BLOCK else -1
            block = block[:BLOCK]
            # By the number of centres they lack, so that a chunk lacks about the same ones.
            block = block[updated[block].argsort()]
            for chunk in block.split(CHUNK):
                lacking = slice(int(updated[chunk[0]]), done)
                if lacking.start < done:
                    cross = torch.addmm(
                        centre_square[lacking], points[chunk], centres[lacking].T, alpha=-2
                    )
                    distance = (cross.amin(dim=1) + square[chunk]).clamp_min_(0)
                    bound[chunk] = torch.minimum(bound[chunk], distance)
            competing, competing_square, distance = points[block], square[block], bound[block]
            before = done
            while done < count:
                farthest, winner = distance.max(dim=0)
                if farthest < outside:
                    break  # a point outside of the block may be farther
                new = squared_distances(int(block[winner]), competing, competing_square, step=done)
                distance = torch.minimum(distance, new)
                distance[winner] = -1
                done += 1
            bound[block], updated[block] = distance, done
            bar.update(done - before)
    return chosen
