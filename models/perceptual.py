"""Perceptual distance: how far apart two images are for a network that has seen the world."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.backbones import TorchvisionBackbone
from utils.errors import UserError
from utils.weights import read_weights

TAPS = ("features.3", "features.8", "features.15", "features.22")
"""Layers of torchvision's VGG16 that are compared: relu1_2, 2_2, 3_3 and 4_3."""


class PerceptualDistance(nn.Module):
    """Mean absolute difference of VGG16's features (Johnson et al., ECCV 2016).

    Args:
        weights: file with torchvision's VGG16 weights, or those of its convolutions alone
            (`features.0.weight` and so on); None downloads the ImageNet weights.

    Raises:
        UserError: if the weights cannot be had, saying how to get them.
    """

    def __init__(self, weights: str | None = None) -> None:
        super().__init__()
        self.vgg16 = TorchvisionBackbone("vgg16", TAPS)
        if weights is None:
            try:
                state = self.vgg16.download()
            except Exception as error:  # no network, no such host, a proxy's page, a full disk
                raise UserError(
                    f"VGG16's weights cannot be downloaded ({type(error).__name__}); name a file "
                    "that holds them with --set loss.vgg16=FILE, or set loss.perceptual=0"
                ) from None
        else:
            state = read_weights(Path(weights), setting="loss.vgg16")
        own = self.vgg16.network.state_dict()
        missing = [key for key in own if key not in state]
        if missing:
            raise UserError(f"{weights} holds no weights of VGG16: {missing[0]} is missing")
        try:
            self.vgg16.network.load_state_dict({key: state[key] for key in own})
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"{weights} does not fit VGG16: {reason}") from None

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distance (0-dim) of two batches [B, 3, H, W] in [0, 1], averaged over the taps.

        Each tap is divided by the mean activation of `second`, so that all count alike.
        """
        mean, std = (first.new_tensor(v)[:, None, None] for v in (self.vgg16.mean, self.vgg16.std))
        taps = [self.vgg16.features((images - mean) / std) for images in (first, second)]
        distances = [
            F.l1_loss(x, y) / y.detach().abs().mean().clamp_min(1e-6)
            for x, y in zip(*taps, strict=True)
        ]
        return torch.stack(distances).mean()


@cache
def perceptual_distance(weights: str | None, device: torch.device) -> PerceptualDistance:
    """The distance on a device, loaded when first asked for and then shared.

    Not a part of the loss that asks for it: only training needs it, and no checkpoint holds it.
    """
    return PerceptualDistance(weights).to(device)
