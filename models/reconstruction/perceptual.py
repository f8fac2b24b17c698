"""Perceptual distance: how far apart two images are for a network that has seen the world."""

from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.tensors import IMAGENET_MEAN, IMAGENET_STD
from utils.errors import UserError
from utils.weights import read_weights

TAPS = (3, 8, 15, 22)
"""Layers of torchvision's `vgg16().features` that are compared: relu1_2, 2_2, 3_3 and 4_3."""


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
        from torchvision.models import VGG16_Weights, vgg16  # slow to import, and rarely needed

        layers = vgg16().features[: TAPS[-1] + 1]
        if weights is None:
            try:
                state = VGG16_Weights.IMAGENET1K_V1.get_state_dict(progress=True)
            except Exception as error:  # no network, no such host, a proxy's page, a full disk
                raise UserError(
                    f"VGG16's weights cannot be downloaded ({type(error).__name__}); name a file "
                    "that holds them with --set loss.vgg16=FILE, or set loss.perceptual=0"
                ) from None
        else:
            state = read_weights(Path(weights), setting="loss.vgg16")
        features = {
            key.removeprefix("features."): value
            for key, value in state.items()
            if key.startswith("features.")
        }
        missing = [key for key in layers.state_dict() if key not in features]
        if missing:
            raise UserError(
                f"{weights} holds no weights of VGG16: features.{missing[0]} is missing"
            )
        try:
            layers.load_state_dict({key: features[key] for key in layers.state_dict()})
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise UserError(f"{weights} does not fit VGG16: {reason}") from None
        for layer in layers:
            if isinstance(layer, nn.ReLU):
                layer.inplace = False  # the tap before it is still needed
        self.layers = layers.requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN)[:, None, None])
        self.register_buffer("std", torch.tensor(IMAGENET_STD)[:, None, None])

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Distance (0-dim) of two batches [B, 3, H, W] in [0, 1], averaged over the taps.

        Each tap is divided by the mean activation of `second`, so that all count alike.
        """
        x, y = ((images - self.mean) / self.std for images in (first, second))
        total = x.new_zeros(())
        for index, layer in enumerate(self.layers):
            x, y = layer(x), layer(y)
            if index in TAPS:
                total = total + F.l1_loss(x, y) / y.detach().abs().mean().clamp_min(1e-6)
        return total / len(TAPS)


@cache
def perceptual_distance(weights: str | None, device: torch.device) -> PerceptualDistance:
    """The distance on a device, loaded when first asked for and then shared.

    Not a part of the loss that asks for it: only training needs it, and no checkpoint holds it.
    """
    return PerceptualDistance(weights).to(device)
