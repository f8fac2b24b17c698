"""Score of an image: one number of its anomaly map.

`image_score` is part of a detector, and of its ONNX graph. `score_of_valid` does the same for the
valid pixels of one map; it runs where torch is not installed.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

# The score is the mean of the highest 1 / 100 of the pixels: a single noisy pixel does not decide
# it, and a small defect still raises it.
TOP_SHARE = 100


def image_score(maps: "Tensor", reduce: str) -> "Tensor":
    """Return one score for each anomaly map: [B, 1, H, W] to [B].

    Args:
        maps: anomaly maps.
        reduce: `score.reduce`: "max", or "top1" for the mean of the highest 1% of the pixels.
    """
    pixels = maps.flatten(1)
    return pixels.topk(_count(pixels.shape[1], reduce), dim=1).values.mean(dim=1)


def score_of_valid(values: np.ndarray, reduce: str) -> float:
    """Return the score of the valid pixels of a map, float32 [N]; see `image_score`."""
    count = _count(values.size, reduce)
    return float(np.partition(values, -count)[-count:].mean())


def _count(pixels: int, reduce: str) -> int:
    """Return how many of the highest pixels the score is the mean of."""
    return 1 if reduce == "max" else max(1, pixels // TOP_SHARE)
