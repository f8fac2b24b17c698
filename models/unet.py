"""U-Net autoencoder: learns to reproduce good parts; what it cannot reproduce is an anomaly."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.base import Detector, Prediction
from utils.anomaly_map import absolute_error_map, image_score, smooth
from utils.config import Config
from utils.errors import UserError
from utils.losses import ReconstructionLoss


def normalisation(kind: str, channels: int) -> nn.Module:
    """The normalisation layer that `unet.norm` names."""
    if kind == "batch":
        return nn.BatchNorm2d(channels)
    if kind == "group":
        return nn.GroupNorm(num_groups=math.gcd(8, channels), num_channels=channels)
    return nn.Identity()


def double_conv(inputs: int, outputs: int, norm: str) -> nn.Sequential:
    """(3x3 convolution, normalisation, ReLU) twice; keeps height and width."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        # Reflecting at the border leaves no dark frame in the reconstruction, nor in the map.
        layers.append(
            nn.Conv2d(channels, outputs, 3, padding=1, padding_mode="reflect", bias=norm == "none")
        )
        layers += [normalisation(norm, outputs), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


class UNet(nn.Module):
    """Encoder and decoder with skip connections (Ronneberger et al., MICCAI 2015).

    Fully convolutional. Inputs whose height or width is no multiple of 2**depth are padded by
    reflection, and the output is cropped back.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        width: channels of the first level; each level below has twice as many.
        depth: number of times that the resolution is halved.
        norm: "batch", "group" or "none".
    """

    def __init__(self, inputs: int, outputs: int, width: int, depth: int, norm: str) -> None:
        super().__init__()
        widths = [width * 2**level for level in range(depth + 1)]
        self.stem = double_conv(inputs, width, norm)
        self.down = nn.ModuleList(
            double_conv(above, below, norm)
            for above, below in zip(widths, widths[1:], strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, above, 2, stride=2)
            for above, below in zip(widths, widths[1:], strict=False)
        )
        self.merge = nn.ModuleList(double_conv(2 * above, above, norm) for above in widths[:-1])
        self.head = nn.Conv2d(width, outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Map [B, inputs, H, W] to [B, outputs, H, W], unbounded.

        Raises:
            ValueError: if H or W is too small to be padded by reflection.
        """
        height, width = images.shape[-2:]
        stride = 2 ** len(self.down)
        pad_bottom, pad_right = -height % stride, -width % stride
        # The coarsest level needs two pixels a side: its convolutions reflect as well.
        if min(height + pad_bottom, width + pad_right) < 2 * stride or (
            pad_bottom >= height or pad_right >= width
        ):
            raise ValueError(
                f"an image of {height}x{width} pixels is too small for a U-Net that halves it "
                f"{len(self.down)} times; it needs more than {stride} pixels a side"
            )
        x = images
        if pad_bottom or pad_right:
            x = F.pad(x, (0, pad_right, 0, pad_bottom), mode="reflect")
        x = self.stem(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(F.max_pool2d(x, 2))
        for up, merge, skip in zip(
            reversed(self.up), reversed(self.merge), reversed(skips), strict=True
        ):
            x = merge(torch.cat([skip, up(x)], dim=1))
        return self.head(x)[..., :height, :width]


class UNetAutoencoder(Detector):
    """A U-Net that reconstructs its input; the anomaly map is the smoothed reconstruction error."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        unet = config.unet
        if min(config.data.size) <= 2**unet.depth:
            raise UserError(
                f"data.size of {min(config.data.size)} pixels is too small to be halved "
                f"{unet.depth} times; raise --size above {2**unet.depth} or lower unet.depth"
            )
        self.network = UNet(3, 3, unet.width, unet.depth, unet.norm)
        self.loss = ReconstructionLoss(config.loss)

    def reconstruct(self, images: Tensor) -> Tensor:
        """Reconstruction of images [B, 3, H, W], in [0, 1]."""
        return torch.sigmoid(self.network(images))

    def learn(self, images: Tensor) -> Tensor:
        """L1 + SSIM between the reconstruction and the images themselves."""
        return self.loss(self.reconstruct(images), images)

    def forward(self, images: Tensor) -> Prediction:
        """Score images by how badly they are reconstructed; see `Detector.forward`."""
        reconstruction = self.reconstruct(images)
        anomaly_map = smooth(absolute_error_map(images, reconstruction), self.config.score.smooth)
        score = image_score(anomaly_map, self.config.score.reduce)
        return Prediction(anomaly_map, score, reconstruction)
