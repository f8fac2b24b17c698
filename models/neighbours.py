"""Exact nearest neighbours in a bank, by blocks of a matrix product.

Squared distances are |q|^2 - 2 q.b + |b|^2, of which |q|^2 changes no ranking. The product rounds
coarsely where q and b almost agree, so the distances of what was found are computed again from the
differences: an entry of the bank is at distance 0 from itself.
"""

import torch
from torch import Tensor

MEMORY_MIB = 8.0
"""Distances that are held at a time, in MiB."""

GRAPH_TILE = 2048
"""The same in an exported graph, where each block is some nodes more."""

TILE = 512
"""Entries of the bank in a block: few enough that the block's minimum is taken in the cache."""


def nearest(queries: Tensor, bank: Tensor, memory_mib: float = MEMORY_MIB) -> tuple[Tensor, Tensor]:
    """The nearest entry of a bank for each query.

    Every block of the matrix of distances is reduced to its row minima at once, which is faster
    than asking for their places too; those are looked up afterwards, in the one block of each query
    that holds its minimum.

    Args:
        queries: [N, D] float.
        bank: [M, D] float on the same device, M at least 1.
        memory_mib: size of a block of distances, in MiB; never less than a row of `TILE`.

    Returns:
        Euclidean distances [N] and places in the bank [N].
    """
    if torch.compiler.is_exporting():
        return _nearest_in_graph(queries, bank)
    rows = max(1, int(memory_mib * 2**20 / (queries.element_size() * TILE)))
    tiles, squares = bank.split(TILE), bank.square().sum(dim=1).split(TILE)
    places = torch.empty(len(queries), dtype=torch.long, device=queries.device)
    for part, found in zip(queries.split(rows), places.split(rows), strict=True):
        least = part.new_full((len(part),), torch.inf)
        holder = torch.zeros_like(found)
        for number, (tile, square) in enumerate(zip(tiles, squares, strict=True)):
            lowest = torch.addmm(square, part, tile.T, alpha=-2).amin(dim=1)
            holder[lowest < least] = number
            least = torch.minimum(least, lowest)
        for number in holder.unique().tolist():
            held = (holder == number).nonzero()[:, 0]
            apart = torch.addmm(squares[number], part[held], tiles[number].T, alpha=-2)
            found[held] = number * TILE + apart.argmin(dim=1)
    return _distances(queries, bank, places), places


def nearest_few(
    queries: Tensor, bank: Tensor, count: int, memory_mib: float = MEMORY_MIB
) -> tuple[Tensor, Tensor]:
    """The `count` nearest entries of a bank for each query, nearest first.

    Args:
        queries: [N, D] float.
        bank: [M, D] float on the same device, M at least `count`.
        count: neighbours of each query.
        memory_mib: size of a block of distances, in MiB; never less than one query's.

    Returns:
        Euclidean distances [N, count] and places in the bank [N, count].
    """
    rows = max(1, int(memory_mib * 2**20 / (queries.element_size() * len(bank))))
    # A graph cannot hold a loop over queries, of which it does not know how many there will be.
    parts = [queries] if torch.compiler.is_exporting() else queries.split(rows)
    square = bank.square().sum(dim=1)
    places = torch.cat(
        [
            torch.addmm(square, part, bank.T, alpha=-2).topk(count, largest=False).indices
            for part in parts
        ]
    )
    # One rank at a time: all entries found would take `count` times the memory of the queries.
    distances = [_distances(queries, bank, places[:, rank]) for rank in range(count)]
    return torch.stack(distances, dim=1), places


def _nearest_in_graph(queries: Tensor, bank: Tensor) -> tuple[Tensor, Tensor]:
    """`nearest` without a step that depends on the values: what an exported graph can hold.

    It loops over the bank, whose size is known.
    """
    least, places = None, None
    for start in range(0, len(bank), GRAPH_TILE):
        tile = bank[start : start + GRAPH_TILE]
        apart = torch.addmm(tile.square().sum(dim=1), queries, tile.T, alpha=-2)
        lowest, place = apart.min(dim=1)
        if least is None:
            least, places = lowest, place
        else:
            places = torch.where(lowest < least, place + start, places)
            least = torch.minimum(lowest, least)
    return _distances(queries, bank, places), places


def _distances(queries: Tensor, bank: Tensor, places: Tensor) -> Tensor:
    return (queries - bank[places]).square().sum(dim=1).sqrt()
