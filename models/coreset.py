"""Choosing few points that leave no other point far from all of them."""

import math

import torch
from torch import Tensor
from tqdm import tqdm

PROJECTION = 128
"""Dimensions that the coreset of a memory is chosen in."""

BLOCK = 2048
"""Points that compete at a time."""

CHUNK = 256
"""Points of a block that are brought up to date by one matrix product."""


def random_projection(points: Tensor, dimensions: int) -> Tensor:
    """Project points [N, D] to [N, dimensions], keeping distances roughly (Johnson-Lindenstrauss).

    Points of no more dimensions come back as they are. Draws from torch's generator of the CPU.
    """
    if points.shape[1] <= dimensions:
        return points
    directions = torch.randn(points.shape[1], dimensions).to(points)
    return points @ directions / math.sqrt(dimensions)


def greedy_coreset(points: Tensor, count: int, quiet: bool = False) -> Tensor:
    """Greedy k-centre: the first point, then again and again the one farthest from those chosen.

    No point can be left more than twice as far from the chosen ones as the best choice of as many
    would leave it (Gonzalez, Theoretical Computer Science 1985).

    Choosing a centre can only bring the others closer to their nearest centre, so a distance
    computed earlier bounds today's from above. Hence only the block of points with the highest
    bounds is brought up to date, and centres are taken from it for as long as its farthest point is
    farther than the highest bound outside. That makes the same choice as updating all points for
    every centre, but most points are left alone most of the time, and the work is in matrix
    products.

    Args:
        points: [N, D] float.
        count: centres to choose, at most N.
        quiet: no progress bar.

    Returns:
        [count] places of the centres among the points, in the order of choice.
    """
    points = points - points.mean(dim=0)  # short vectors: less is lost to rounding
    square = points.square().sum(dim=1)
    chosen = torch.zeros(count, dtype=torch.long, device=points.device)
    centres, centre_square = points.new_empty(count, points.shape[1]), points.new_empty(count)

    def squared_distances(place: int, others: Tensor, others_square: Tensor, step: int) -> Tensor:
        chosen[step], centres[step], centre_square[step] = place, points[place], square[place]
        product = torch.addmv(others_square, others, centres[step], alpha=-2)
        return product.add_(centre_square[step]).clamp_min_(0)

    # bound: squared distance to the nearest of the first `seen` centres; -1 for a centre itself.
    bound = squared_distances(0, points, square, step=0)
    bound[0] = -1
    seen = torch.ones(len(points), dtype=torch.long, device=points.device)
    done = 1
    with tqdm(total=count, initial=1, desc="coreset", unit="patch", disable=quiet or None) as bar:
        while done < count:
            highest, block = bound.topk(min(BLOCK + 1, len(points)))
            outside = highest[BLOCK] if len(points) > BLOCK else -1
            block = block[:BLOCK]
            block = block[seen[block].argsort()]
            for chunk in block.split(CHUNK):
                news = slice(int(seen[chunk[0]]), done)  # centres that some of them have not seen
                if news.start < done:
                    cross = torch.addmm(
                        centre_square[news], points[chunk], centres[news].T, alpha=-2
                    )
                    apart = (cross.amin(dim=1) + square[chunk]).clamp_min_(0)
                    bound[chunk] = torch.minimum(bound[chunk], apart)
            competing, competing_square, distance = points[block], square[block], bound[block]
            before = done
            while done < count:
                farthest, winner = distance.max(dim=0)
                if farthest < outside:
                    break
                place = int(block[winner])
                apart = squared_distances(place, competing, competing_square, step=done)
                distance = torch.minimum(distance, apart)
                distance[winner] = -1
                done += 1
            bound[block], seen[block] = distance, done
            bar.update(done - before)
    return chosen
