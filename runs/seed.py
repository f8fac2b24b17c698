"""One seed behind everything random.

All that is random in a step follows from the seed and the number of the step alone, so a resumed
run needs no stored random state to go on exactly as the unbroken one.
"""

import numpy as np
import torch


def seed_step(seed: int, epoch: int, step: int, rank: int = 0) -> None:
    """Seed torch's generators for one step; epoch and step -1 are for the initial weights.

    Processes that train together differ in their rank, so that each draws corruption of its own.
    """
    entropy = [seed, epoch + 1, step + 1, rank]
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1)


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """The order in which an epoch visits `count` images: a permutation of 0 .. count - 1."""
    return np.random.default_rng([seed, epoch]).permutation(count)
