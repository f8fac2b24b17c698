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
    """Return the order in which an epoch takes `count` images: a permutation of 0 .. count - 1."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def random_crops(images: np.ndarray, side: int, seed: int, epoch: int, step: int) -> np.ndarray:
    """Return a random square of each image, uint8 [B, H, W, C], to learn from in a step.

    A convolutional network learns as much from it as from as many pixels elsewhere, and squares of
    several images teach it more than one image of the same cost. A side of 0, or of more than the
    images have, leaves them whole.

    Returns:
        uint8 [B, min(side, H), min(side, W), C].
    """
    height, width = images.shape[1:3]
    if not 0 < side < max(height, width):
        return images
    rows, columns = min(side, height), min(side, width)
    rng = np.random.default_rng([seed, epoch, step])
    tops = rng.integers(0, height - rows + 1, len(images))
    lefts = rng.integers(0, width - columns + 1, len(images))
    corners = zip(images, tops, lefts, strict=True)
    return np.stack([image[y : y + rows, x : x + columns] for image, y, x in corners])
