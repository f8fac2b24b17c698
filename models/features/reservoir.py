"""A random sample of bounded size from a stream of unknown length."""

import torch
from torch import Tensor


def keep_random(
    kept: Tensor, keys: Tensor, arriving: Tensor, capacity: int
) -> tuple[Tensor, Tensor]:
    """Let the next items of a stream compete for a place among the `capacity` that are kept.

    Each item draws a key in [0, 1), and the lowest keys win, so that what is kept is at any time a
    uniform sample of all items so far, without replacement. Draws from torch's CPU generator.

    Args:
        kept: [n, D] the sample so far, [0, D] at first; changed in place once it is full.
        keys: [n] keys of its items; changed in place likewise.
        arriving: [m, D] the next items.
        capacity: most items to keep.

    Returns:
        The sample [min(n + m, capacity), D] and its keys.
    """
    drawn = torch.rand(len(arriving)).to(keys)
    room = capacity - len(kept)
    if room > 0:
        kept = torch.cat([kept, arriving[:room]])
        keys = torch.cat([keys, drawn[:room]])
        arriving, drawn = arriving[room:], drawn[room:]
    if len(arriving):
        winners = torch.cat([keys, drawn]).topk(capacity, largest=False).indices
        stays = torch.zeros(len(keys), dtype=torch.bool, device=keys.device)
        stays[winners[winners < capacity]] = True
        enters = winners[winners >= capacity] - capacity
        kept[~stays] = arriving[enters]
        keys[~stays] = drawn[enters]
    return kept, keys
