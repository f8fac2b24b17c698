"""Patches of known defects (`data.defects`), as second memory banks beside those of good patches.

The distance of a patch to the good ones is raised where a known defect is nearer; see
`MemoryBank.distances`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data.good_images import Fold
from data.known_defects import KnownDefect
from data.tensors import to_batch
from models.memory_bank import MemoryBank, distances_to, patch_rows, without
from models.normalisation import out_of_fold_maps
from utils.errors import say_once

# Quantile of the distances of unseen good patches above which a patch of a defect is kept. What
# lies nearer looks like a good part: it teaches nothing, and raises the scores of good parts.
APART = 0.999

# Share of the patches of an image without a mask that are taken for its defect: the farthest.
TOP_SHARE = 0.01


@torch.no_grad()
def learn_defects(
    banks: Sequence[MemoryBank],
    patches_of: Callable[[Tensor], list[Tensor]],
    valid_of: Callable[[Tensor], Tensor | None],
    defects: Sequence[KnownDefect],
    folds: Sequence[Fold],
) -> None:
    """Give each memory bank of good patches a second one, of patches of known defects.

    Of an image with a mask these are the patches in which the mask marks a pixel, of one without
    the share `TOP_SHARE` that is farthest from the good ones; and of these the ones that are
    farther than the share `APART` of the patches of unseen good parts.

    Args:
        banks: M of them, fitted.
        patches_of: images [B, 3, H, W] to features [B, C, h, w] for each bank.
        valid_of: images to the region of interest, bool [B, 1, H, W], or None.
        defects: known defects.
        folds: all good images.
    """

    def distances(images: Tensor) -> Tensor:
        return distances_to(banks, patches_of(images), valid_of(images))[0]

    of_good = torch.cat(out_of_fold_maps(folds, distances, lambda fold: without(banks, fold)))
    of_good[of_good == 0] = torch.nan  # outside of the region of interest
    limits = np.nanquantile(of_good.numpy(), APART, axis=(0, 2, 3))  # [M]
    found: list[list[Tensor]] = [[] for _ in banks]
    for defect in defects:
        images = to_batch(defect.tiles, banks[0].bank.device)
        far = distances(images)
        if defect.masks is None:
            mean = far.mean(dim=1, keepdim=True)
            count = max(1, round(TOP_SHARE * mean.numel()))
            marked = mean >= mean.flatten().topk(count).values[-1]
        else:
            masks = torch.from_numpy(defect.masks).to(images)[:, None]
            marked = F.interpolate(masks, far.shape[-2:], mode="area") > 0
        apart = marked & (far > torch.from_numpy(limits).to(far)[:, None, None])
        for number, features in enumerate(patches_of(images)):
            kept = apart[:, number : number + 1].float()
            rows = patch_rows(F.interpolate(kept, features.shape[-2:], mode="area"))[:, 0] > 0
            found[number].append(patch_rows(features)[rows])
    for bank, own in zip(banks, found, strict=True):
        bank.set_defects(torch.cat(own))
    if not any(len(bank.defects) for bank in banks):
        say_once("data.defects teaches nothing: all of its patches look like those of good parts")
