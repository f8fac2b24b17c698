"""Random crops of training images."""

import numpy as np


def random_crops(images: np.ndarray, side: int, seed: int, epoch: int, step: int) -> np.ndarray:
    """Cut a random square out of each image.

    A network that is convolutional learns as much from a crop as from as many pixels elsewhere, and
    crops of several images tell it more than one image of the same cost.

    Args:
        images: uint8 [B, H, W, 3].
        side: side of the squares in pixels; 0, or more than the image has, leaves it whole.
        seed: with `epoch` and `step` decides where the squares lie.
        epoch: number of the epoch.
        step: number of the step in it.

    Returns:
        uint8 [B, min(side, H), min(side, W), 3].
    """
    height, width = images.shape[1:3]
    if not 0 < side < max(height, width):
        return images
    rows, columns = min(side, height), min(side, width)
    rng = np.random.default_rng([seed, epoch, step])
    tops = rng.integers(0, height - rows + 1, len(images))
    lefts = rng.integers(0, width - columns + 1, len(images))
    return np.stack(
        [
            image[top : top + rows, left : left + columns]
            for image, top, left in zip(images, tops, lefts, strict=True)
        ]
    )
