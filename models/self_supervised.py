"""Teaching a backbone what a plant's photographs look like, without labels: VICReg.

Bardes, Ponce and LeCun, "VICReg: Variance-invariance-covariance regularization for self-supervised
learning", ICLR 2022, https://arxiv.org/abs/2105.04906. Of the methods that ask for no negative
examples, and hence for no large batches, it is the one whose loss rises when all images become the
same to the network, so that its progress can be read off.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from models.backbones import Backbone

WIDTH = 512
"""Numbers that an image is embedded in."""

INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0
"""Weights of the terms, the paper's."""


def vicreg_loss(first: Tensor, second: Tensor) -> Tensor:
    """Loss of embeddings [B, D] of two views of the same B images, B from 2: 0-dim.

    Views of one image should be embedded alike, each number should vary within the batch with a
    standard deviation of one at least, and no two numbers should say the same.
    """
    loss = INVARIANCE * F.mse_loss(first, second)
    for embedded in (first, second):
        deviation = (embedded.var(dim=0) + 1e-4).sqrt()  # the root of zero has no gradient
        loss = loss + VARIANCE / 2 * F.relu(1 - deviation).mean()
        covariance = embedded.T.cov()
        redundant = covariance.square().sum() - covariance.diagonal().square().sum()
        loss = loss + COVARIANCE * redundant / embedded.shape[1]
    return loss


def view(images: Tensor) -> Tensor:
    """Another view of each of the images [B, 3, H, W] in [0, 1], at the same size.

    The paper also takes away colour and most of an image. Here the network should go on telling
    a film of oil by its colour, and one place on a part from another.
    """
    change = v2.Compose(
        [
            v2.RandomResizedCrop(images.shape[-2:], scale=(0.5, 1.0), ratio=(0.8, 1.25)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.1, hue=0.02),
            v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], p=0.3),
        ]
    )
    return torch.stack([change(image) for image in images])  # one draw would serve the whole batch


class SelfSupervised(nn.Module):
    """A backbone that learns, with the head that embeds what its last tapped layer sees.

    Args:
        encoder: the backbone; no longer frozen from here on.
    """

    def __init__(self, encoder: Backbone) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(True)
        widths, layers = (encoder.channels[-1], WIDTH, WIDTH), []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.head = nn.Sequential(*layers, nn.Linear(WIDTH, WIDTH))

    def train(self, mode: bool = True) -> "SelfSupervised":
        """As of any module: backbones stay in evaluation mode elsewhere."""
        super().train(mode)
        self.encoder.network.train(mode)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, WIDTH] of images [B, 3, H, W] in [0, 1]."""
        return self.head(self.encoder.maps(images)[-1].mean(dim=(2, 3)))
