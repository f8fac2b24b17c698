"""A random sample of bounded size from a stream of unknown length."""

from collections.abc import Sequence

import torch
from torch import Tensor


def keep_random(
    kept: Sequence[Tensor], keys: Tensor, arriving: Sequence[Tensor], capacity: int
) -> tuple[list[Tensor], Tensor]:
    """Let the next items of a stream compete for a place among the `capacity` that are kept.

    Each item draws a key in [0, 1), and the lowest keys win, so that what is kept is at any time a
    uniform sample of all items so far, without replacement. Draws from torch's CPU generator.

    Args:
        kept: the sample so far, one tensor [n, ...] for each thing that is known of an item, [0,
            ...] at first; changed in place once it is full.
        keys: [n] keys of its items; changed in place likewise.
        arriving: the next items, [m, ...] each.
        capacity: most items to keep.

    Returns:
        The sample, [min(n + m, capacity), ...] each, and its keys.
    """
    drawn = torch.rand(len(arriving[0])).to(keys)
    room = capacity - len(keys)
    kept = list(kept)
    if room > 0:
        kept = [torch.cat([old, new[:room]]) for old, new in zip(kept, arriving, strict=True)]
        keys = torch.cat([keys, drawn[:room]])
        arriving, drawn = [new[room:] for new in arriving], drawn[room:]
    if len(drawn):
        winners = torch.cat([keys, drawn]).topk(capacity, largest=False).indices
        stays = torch.zeros(len(keys), dtype=torch.bool, device=keys.device)
        stays[winners[winners < capacity]] = True
        enters = winners[winners >= capacity] - capacity
        for old, new in zip(kept, arriving, strict=True):
            old[~stays] = new[enters]
        keys[~stays] = drawn[enters]
    return kept, keys
