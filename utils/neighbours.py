"""Exact nearest neighbours in a bank, by blocks of a matrix product."""

import torch
from torch import Tensor


def nearest(
    queries: Tensor, bank: Tensor, memory_mib: float, count: int = 1
) -> tuple[Tensor, Tensor]:
    """The nearest entries of a bank, nearest first.

    Squared distances come from |q|^2 - 2 q.b + |b|^2, a matrix product of some queries with the
    whole bank at a time. It rounds coarsely where q and b almost agree, so the distances of the
    entries found are then computed again from their differences: an entry of the bank is at
    distance 0 of itself. `python -m benchmarks.neighbours` compares it with faiss.

    Args:
        queries: [N, D] float.
        bank: [M, D] float on the same device, M at least `count`.
        memory_mib: the matrix of distances is computed in blocks of at most this size, in MiB, but
            never less than a row.
        count: neighbours of each query.

    Returns:
        Euclidean distances [N, count] and places in the bank [N, count].
    """
    square = bank.square().sum(dim=1)
    rows = max(1, int(memory_mib * 2**20 / (bank.element_size() * len(bank))))
    distances = queries.new_empty(len(queries), count)
    places = torch.empty(len(queries), count, dtype=torch.long, device=queries.device)
    for start in range(0, len(queries), rows):
        block = queries[start : start + rows]
        apart = torch.addmm(square, block, bank.T, alpha=-2)  # |q|^2 changes no ranking
        if count == 1:
            found = apart.argmin(dim=1, keepdim=True)
        else:
            found = apart.topk(count, largest=False).indices
        for rank in range(count):
            difference = block - bank[found[:, rank]]
            distances[start : start + rows, rank] = difference.square().sum(dim=1).sqrt()
        places[start : start + rows] = found
    return distances, places
