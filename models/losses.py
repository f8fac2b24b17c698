"""Training losses."""

import torch
from pytorch_msssim import ssim
from torch import Tensor, nn
from torch.nn import functional as F

from models.anomaly_maps import smooth
from models.perceptual import perceptual_distance
from utils.config import LossConfig

CORRUPTED = 10.0
"""How much more the absolute error counts where the input was corrupted. Most of an image is good:
weighed alike, copying what may or may not be a defect would be the best guess."""


class ReconstructionLoss(nn.Module):
    """Weighted sum of differences between images in [0, 1]; the weights are those of `loss`.

    L1, 1 - SSIM (Wang et al., TIP 2004) and the distance of VGG16's features. Computed in float32
    even under autocast: in half precision SSIM's variances cancel to noise.

    Raises:
        UserError: if `loss.perceptual` is set and VGG16's weights cannot be had.
    """

    def __init__(self, weights: LossConfig) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, reconstruction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Mean loss (0-dim) over a batch.

        Args:
            reconstruction: [B, 3, H, W] in [0, 1].
            target: the same.
            mask: bool [B, 1, H, W], True where the network's input was corrupted.
        """
        with torch.autocast(target.device.type, enabled=False):
            reconstruction, target = reconstruction.float(), target.float()
            error = (reconstruction - target).abs()
            loss = self.weights.l1 * (error * (1 + CORRUPTED * mask)).mean()
            if self.weights.ssim:
                similarity = ssim(reconstruction, target, data_range=1.0)
                loss = loss + self.weights.ssim * (1 - similarity)
            if self.weights.perceptual:
                distance = perceptual_distance(self.weights.vgg16, target.device)
                loss = loss + self.weights.perceptual * distance(reconstruction, target)
            return loss


LEAST_DENSITY = 0.02
"""Bounds the weight of a defect's pixel in `focal_loss` to 50."""


def focal_loss(logits: Tensor, mask: Tensor, gamma: float = 2.0, balance: float = 0.0) -> Tensor:
    """Focal loss (Lin et al., ICCV 2017) of the verdict on each pixel, 0-dim, in float32.

    Pixels that are right already weigh little, so that the few of a defect are not outvoted. Those
    of cracks and spots still are, by the many of large defects: with `balance` a defect's pixel
    weighs the more the less of its surroundings is defective.

    Args:
        logits: [B, 1, H, W], unbounded; positive says defect.
        mask: [B, 1, H, W] bool, True where defective.
        gamma: how much more an uncertain pixel weighs.
        balance: extent of the surroundings, the standard deviation of a Gaussian in pixels; 0
            weighs all pixels of defects alike.
    """
    with torch.autocast(mask.device.type, enabled=False):
        logits, labels = logits.float(), mask.float()
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        wrong = torch.sigmoid(torch.where(mask, -logits, logits))
        loss = wrong**gamma * loss
        if balance:
            density = smooth(labels, balance).clamp_min(LEAST_DENSITY)
            loss = torch.where(mask, loss / density, loss)
        return loss.mean()
