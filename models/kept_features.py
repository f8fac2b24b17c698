"""What frozen layers make of the images of a training, kept from one pass to the next."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ROOM = 2 * 2**30
"""Bytes that are kept at most; features of further images are made anew in every pass."""


class KeptFeatures:
    """Makes features of images, of each image once.

    Args:
        make: images [B, 3, H, W] -> features, each [B, ...]; always the same of the same image.
    """

    def __init__(self, make: Callable[[Tensor], Sequence[Tensor]]) -> None:
        self.make = make
        self.kept: dict[int, Sequence[Tensor]] = {}

    def of(self, images: Tensor) -> tuple[Tensor, ...]:
        """Features of images [B, 3, H, W], each [B, ...]."""
        found = [self._of_one(image) for image in images.split(1)]
        return tuple(torch.cat(layer) for layer in zip(*found, strict=True))

    def _of_one(self, image: Tensor) -> Sequence[Tensor]:
        # Alone, for other images beside it would change the last bits: a resumed run, which starts
        # with nothing kept, goes on with the same ones.
        key = hash(image.cpu().numpy().tobytes())
        features = self.kept.get(key) or self.make(image)
        if (len(self.kept) + 1) * sum(layer.nbytes for layer in features) <= ROOM:
            self.kept[key] = features
        return features
