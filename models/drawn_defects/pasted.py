"""Known defects (`data.defects`), pasted onto good images as one more kind of drawn defect."""

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.drawing import log_uniform, per_image, resampled, signed, uniform
from data.known_defects import KnownDefect
from data.tensors import to_batch
from models.drawn_defects.corruption import Drawn
from utils.errors import UserError


class PastedDefects:
    """Known defects, cut out by their masks; drawn as the kinds of `corruption` are.

    Args:
        defects: known defects.

    Raises:
        UserError: if one of them has no mask.
    """

    def __init__(self, defects: Sequence[KnownDefect]) -> None:
        for path in (defect.path for defect in defects if defect.masks is None):
            way = "this detector cuts defects out by masks; add one, or take patchcore"
            raise UserError(f"{path} of data.defects has no mask, and {way}")
        tiles = np.concatenate([defect.tiles for defect in defects])
        masks = torch.from_numpy(np.concatenate([defect.masks for defect in defects]))
        self.images = to_batch(tiles, torch.device("cpu"))
        # Softened, so that no hard edge gives it away.
        self.shares = F.avg_pool2d(masks[:, None].float() / 255, 5, 1, 2)
        self.centres = torch.stack([mask.nonzero().float().mean(dim=0) for mask in masks])

    def __call__(self, images: Tensor, at: Tensor, structured: Tensor, batch: Tensor) -> Drawn:
        """Paste a random defect, turned, scaled and half of the time mirrored."""
        count, size = len(images), images.shape[-2:]
        own = torch.randint(len(self.images), (count,))
        turn, zoom = uniform(-math.pi, math.pi, count), signed(log_uniform(0.7, 1.4, count))
        moved = at, self.centres[own], turn, zoom, size
        piece = resampled(self.images[own].to(images), *moved)
        shares = resampled(self.shares[own].to(images), *moved, beyond="zeros")
        return piece, shares * per_image(uniform(0.5, 1, count), images)
