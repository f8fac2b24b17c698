"""The U-Net: encoder, decoder and skip connections. Needs nothing but PyTorch.

Ronneberger et al., "U-Net: convolutional networks for biomedical image segmentation", MICCAI 2015.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Times that the encoder halves the resolution: fewer see too little of a large defect.
LEVELS = 5

# Channels that carry the finest detail of the image past the encoder.
STEM_CHANNELS = 16


class DoubleConv(nn.Sequential):
    """(3x3 convolution, batch normalisation, ReLU) twice; keeps height and width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            # Zeros at the border, not reflections: those take a copy of every map, and the network
            # learns to handle the border.
            layers.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=False))
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class ScratchEncoder(nn.Module):
    """Encoder with random weights: feature maps at strides 2, 4, 8, 16 and 32.

    Args:
        inputs: channels of the image.
        width: channels at stride 2; each level below has twice as many, up to eight times.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.channels = [width * min(2**level, 8) for level in range(LEVELS)]
        self.first = nn.Conv2d(inputs, width, 4, stride=2, padding=1)
        above = [width, *self.channels[:-1]]
        self.levels = nn.ModuleList(map(DoubleConv, above, self.channels))

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return feature maps [B, C_i, H / 2^i, W / 2^i], i from 1, of images [B, inputs, H, W]."""
        x, maps = self.first(images), []
        for number, level in enumerate(self.levels):
            x = level(F.max_pool2d(x, 2, ceil_mode=True) if number else x)
            maps.append(x)
        return maps


class UNet(nn.Module):
    """Encoder and decoder with skip connections.

    The finest level has half the resolution of the image: a convolution of stride 2 brings the
    pixels to it, and each of its pixels becomes 2x2 of the output (sub-pixel convolution: Shi et
    al., CVPR 2016). Convolutions at full resolution would cost as much as all others together.

    Args:
        encoder: maps images to feature maps at strides 2, 4, 8 and so on; has `channels`.
        inputs: channels of the images.
        outputs: channels of the output.
        width: channels of the decoder at stride 2; each level below has half as many again, up to
            four times as many.
    """

    def __init__(self, encoder: nn.Module, inputs: int, outputs: int, width: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.stem = nn.Conv2d(inputs, STEM_CHANNELS, 4, stride=2, padding=1)
        # Feature maps of a pretrained network differ in scale by orders of magnitude.
        self.taps = nn.ModuleList(map(nn.BatchNorm2d, encoder.channels))
        self.skips = [encoder.channels[0] + STEM_CHANNELS, *encoder.channels[1:-1]]
        self.widths = [round(width * min(1.5**level, 4)) for level in range(len(self.skips))]
        below = [*self.widths[1:], encoder.channels[-1]]
        self.merge = nn.ModuleList(
            DoubleConv(deep + skip, own)
            for deep, skip, own in zip(below, self.skips, self.widths, strict=True)
        )
        self.head = nn.Conv2d(width, 4 * outputs, 3, padding=1)

    def encode(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return the skip connections at strides 2, 4, 8 ... and the encoder's feature maps.

        Images [B, inputs, H, W] of any size from two pixels a side.
        """
        height, width = images.shape[-2:]
        if height % 2 or width % 2:  # the finest level needs even sides; `forward` crops again
            images = F.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
        maps = self.encoder(images)
        skips = [tap(features) for tap, features in zip(self.taps, maps, strict=True)]
        skips[0] = torch.cat([skips[0], self.stem(images)], dim=1)
        return skips, maps

    def decode(self, x: Tensor, skips: list[Tensor], finest: int = 0) -> Tensor:
        """Upsample x through the levels of the decoder, coarse to fine, down to level `finest`."""
        for level, skip in reversed(list(enumerate(skips, start=finest))):
            x = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
            x = self.merge[level](torch.cat([skip, x], dim=1))
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Map images [B, inputs, H, W] to an output [B, outputs, H, W], unbounded."""
        skips, _ = self.encode(images)
        output = F.pixel_shuffle(self.head(self.decode(skips[-1], skips[:-1])), 2)
        return output[..., : images.shape[-2], : images.shape[-1]]
