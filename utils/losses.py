"""Training losses."""

import torch
from pytorch_msssim import ssim
from torch import Tensor, nn

from utils.config import LossConfig


class ReconstructionLoss(nn.Module):
    """Weighted L1 + (1 - SSIM) between images in [0, 1] (SSIM: Wang et al., TIP 2004).

    Computed in float32 even under autocast: in half precision SSIM's variances cancel to noise.
    """

    def __init__(self, weights: LossConfig) -> None:
        super().__init__()
        self.weights = weights

    def forward(self, reconstruction: Tensor, target: Tensor) -> Tensor:
        """Mean loss (0-dim) over a batch; both arguments are [B, 3, H, W] in [0, 1]."""
        with torch.autocast(target.device.type, enabled=False):
            reconstruction, target = reconstruction.float(), target.float()
            loss = target.new_zeros(())
            if self.weights.l1:
                loss = loss + self.weights.l1 * (reconstruction - target).abs().mean()
            if self.weights.ssim:
                similarity = ssim(reconstruction, target, data_range=1.0)
                loss = loss + self.weights.ssim * (1 - similarity)
            return loss
