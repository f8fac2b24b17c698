"""Training losses."""

from functools import cache

import torch
from pytorch_msssim import ssim
from torch import Tensor, nn
from torch.nn import functional as F

from models.anomaly_maps import smooth
from models.backbones import Backbone
from utils.config import LossConfig

# How much more the absolute error weighs where the input was corrupted. Most of an image is good:
# weighed alike, copying what may or may not be a defect would be the best guess.
CORRUPTED_WEIGHT = 10.0

# Bound on the weight of a defect's pixel in `focal_loss`.
MAX_DENSITY_WEIGHT = 50.0


class ReconstructionLoss(nn.Module):
    """Weighted sum of differences between images in [0, 1]; the weights are those of `loss`.

    L1, 1 - SSIM (Wang et al., TIP 2004) and the distance of VGG16's features.

    Raises:
        UserError: if `loss.perceptual` is set and VGG16's weights cannot be had.
    """

    def __init__(self, weights: LossConfig) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, reconstruction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        """Return the mean loss (0-dim) over a batch.

        Args:
            reconstruction: [B, 3, H, W] in [0, 1].
            target: the same.
            mask: bool [B, 1, H, W], True where the network's input was corrupted.
        """
        # In float32 even under autocast: in half precision SSIM's variances cancel to noise.
        with torch.autocast(target.device.type, enabled=False):
            reconstruction, target = reconstruction.float(), target.float()
            error = (reconstruction - target).abs()
            loss = self.weights.l1 * (error * (1 + CORRUPTED_WEIGHT * mask)).mean()
            if self.weights.ssim:
                similarity = ssim(reconstruction, target, data_range=1.0)
                loss = loss + self.weights.ssim * (1 - similarity)
            if self.weights.perceptual:
                # Loaded at the first step: detectors are also built to inspect, without VGG16.
                distance = perceptual_distance(self.weights.vgg16, target.device)
                loss = loss + self.weights.perceptual * distance(reconstruction, target)
            return loss


class PerceptualDistance(nn.Module):
    """Mean absolute difference of VGG16's features (Johnson et al., ECCV 2016).

    Args:
        weights: file with torchvision's VGG16 weights, or those of its convolutions alone
            (`features.0.weight` and so on); None downloads the ImageNet weights.

    Raises:
        UserError: if the weights cannot be had, with the way to get them.
    """

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        # The last ReLU before each of the first four poolings: relu1_2, 2_2, 3_3 and 4_3.
        self.vgg16 = Backbone("vgg16", range(4), setting=None)
        self.vgg16.load(weights, setting="loss.vgg16")

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the distance (0-dim) of two batches [B, 3, H, W] in [0, 1], mean of the layers."""
        distances = [
            # Activations differ in scale by layer: divided by their mean, all layers weigh alike.
            F.l1_loss(x, y) / y.detach().abs().mean().clamp_min(1e-6)
            for x, y in zip(self.vgg16.features(first), self.vgg16.features(second), strict=True)
        ]
        return torch.stack(distances).mean()


@cache
def perceptual_distance(weights: str | None, device: torch.device) -> PerceptualDistance:
    """Return the distance on a device, loaded at the first call and then shared.

    Not a module of the loss: only training needs it, and no checkpoint should hold it.
    """
    return PerceptualDistance(weights).to(device)


def focal_loss(logits: Tensor, mask: Tensor, gamma: float = 2.0, balance: float = 0.0) -> Tensor:
    """Return the focal loss (Lin et al., ICCV 2017) of segmentation logits, 0-dim, in float32.

    With `balance` a defect's pixel weighs the more, the fewer of the pixels around it are
    defective: otherwise the many pixels of large defects outvote those of cracks and spots.

    Args:
        logits: [B, 1, H, W], unbounded; positive for a defect.
        mask: [B, 1, H, W] bool, True where defective.
        gamma: how much less a pixel weighs that is classified well already.
        balance: standard deviation in pixels of the Gaussian that averages the mask; 0 weighs all
            pixels of defects alike.
    """
    with torch.autocast(mask.device.type, enabled=False):
        logits, labels = logits.float(), mask.float()
        loss = F.binary_cross_entropy_with_logits(logits, labels, reduction="none")
        # (1 - p_t)^gamma * -log(p_t), p_t: probability of the true class
        wrong = torch.sigmoid(torch.where(mask, -logits, logits))
        loss = wrong**gamma * loss
        if balance:
            # An isolated pixel has a density near 0, which alone would decide the loss.
            density = smooth(labels, balance).clamp_min(1 / MAX_DENSITY_WEIGHT)
            loss = torch.where(mask, loss / density, loss)
        return loss.mean()
