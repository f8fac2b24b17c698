"""Score of an image: one number of its anomaly map.

`image_score` is part of a detector, and of its ONNX graph. `score_of_valid` is the same of
valid pixels alone, of which each image has another number; it runs where torch is not installed.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

# The mean of the highest 1% of a map is not decided by a single noisy pixel, and yet by a small
# defect.
TOP = 100  # one of so many pixels


def image_score(maps: "Tensor", reduce: str) -> "Tensor":
    """Return the scores of images: maps [B, 1, H, W] -> [B].

    Args:
        maps: anomaly maps.
        reduce: `score.reduce`: "max", or "top1" for the mean of the highest 1% of the pixels.
    """
    pixels = maps.flatten(1)
    count = 1 if reduce == "max" else max(1, pixels.shape[1] // TOP)
    return pixels.topk(count, dim=1).values.mean(dim=1)


def score_of_valid(values: np.ndarray, reduce: str) -> float:
    """Return the score of some pixels of a map, float32 [N]; see `image_score`."""
    count = 1 if reduce == "max" else max(1, values.size // TOP)
    return float(np.partition(values, -count)[-count:].mean())
