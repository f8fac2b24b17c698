"""U-Net autoencoder: restores good parts, says what it takes for a defect, remembers good features.

Three witnesses look at an image: what the network would change in it, what it calls a defect, and
how far the features of its encoder lie from those of good parts.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.anomaly_maps import colour_map, image_score, smooth, ssim_map
from models.backbones import Backbone, build_encoder
from models.detector import Folds, Prediction, TrainedDetector
from models.drawn_defects.augmentation import augment
from models.drawn_defects.corruption import KINDS, corrupt
from models.losses import ReconstructionLoss, focal_loss
from models.memory_bank import MemoryBank, distances_to, leaving_out, patch_features
from models.normalisation import Normalisation
from utils.config import Config
from utils.errors import UserError

CANDIDATES = 100_000
"""Patches that the memory is chosen from: bounds what filling it takes."""

STEM = 16
"""Channels that carry the finest detail of the image past the encoder."""

VEILED = 2
"""Levels of the decoder, the finest ones, that may be denied the detail of a defect."""

LEVELS = 5
"""Times that an encoder halves the resolution: fewer see too little of a large defect."""


def check_size(config: Config) -> None:
    """Raise `UserError` if images, or crops, are too small for `LEVELS`."""
    # Two pixels a side at the coarsest level: batch normalisation wants more than one.
    least = 2 * 2**LEVELS
    for key, side in {"data.size": min(config.data.size), "train.crop": config.train.crop}.items():
        if 0 < side < least:
            raise UserError(
                f"{key} of {side} pixels is too small for the U-Net; raise it to {least} or more"
            )


def check_corruption(config: Config, learner: str) -> None:
    """Raise `UserError` if no image is ever corrupted, which is what `learner` learns to tell."""
    if not set(KINDS) & set(config.corruption.kinds):
        raise UserError(
            f"{learner} learns to tell what was corrupted, but corruption.kinds names nothing but "
            f"clean; add some of {', '.join(KINDS)}"
        )


class DoubleConv(nn.Sequential):
    """(3x3 convolution, batch normalisation, ReLU) twice; keeps height and width."""

    def __init__(self, inputs: int, outputs: int) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            # Zeros at the border, not reflections: those take a copy of every map, and the network
            # learns to know the border.
            layers.append(nn.Conv2d(channels, outputs, 3, padding=1, bias=False))
            layers += [nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class ScratchEncoder(nn.Module):
    """An encoder that starts from random weights: feature maps at strides 2, 4, 8 and so on.

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
        """Feature maps [B, C_i, H / 2^i, W / 2^i] of images [B, inputs, H, W], i from 1."""
        x, maps = self.first(images), []
        for number, level in enumerate(self.levels):
            x = level(F.max_pool2d(x, 2, ceil_mode=True) if number else x)
            maps.append(x)
        return maps


class UNet(nn.Module):
    """Encoder and decoder with skip connections (Ronneberger et al., MICCAI 2015).

    The finest level is that of half the resolution: a convolution of stride 2 brings the pixels to
    it, and each of its pixels stands for 2x2 of the output (sub-pixel convolution: Shi et al., CVPR
    2016). Convolutions at full size, which would cost as much as all the rest, there are none.

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
        self.stem = nn.Conv2d(inputs, STEM, 4, stride=2, padding=1)
        # Taps of a pretrained network differ in scale by orders of magnitude.
        self.taps = nn.ModuleList(map(nn.BatchNorm2d, encoder.channels))
        self.skips = [encoder.channels[0] + STEM, *encoder.channels[1:-1]]
        self.widths = [round(width * min(1.5**level, 4)) for level in range(len(self.skips))]
        below = [*self.widths[1:], encoder.channels[-1]]
        self.merge = nn.ModuleList(
            DoubleConv(deep + skip, own)
            for deep, skip, own in zip(below, self.skips, self.widths, strict=True)
        )
        self.head = nn.Conv2d(width, 4 * outputs, 3, padding=1)

    def encode(self, images: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """What the decoder takes, at strides 2, 4, 8 and so on, and the encoder's feature maps.

        Images [B, inputs, H, W] of any size from two pixels a side; odd sides get one more pixel.
        """
        height, width = images.shape[-2:]
        if height % 2 or width % 2:
            images = F.pad(images, (0, width % 2, 0, height % 2), mode="replicate")
        maps = self.encoder(images)
        skips = [tap(features) for tap, features in zip(self.taps, maps, strict=True)]
        skips[0] = torch.cat([skips[0], self.stem(images)], dim=1)
        return skips, maps

    def decode(self, x: Tensor, skips: list[Tensor], finest: int = 0) -> Tensor:
        """Bring x up through levels of the decoder, coarse to fine, the last of them `finest`."""
        for level, skip in reversed(list(enumerate(skips, start=finest))):
            x = F.interpolate(x, skip.shape[-2:], mode="bilinear", align_corners=False)
            x = self.merge[level](torch.cat([skip, x], dim=1))
        return x

    def forward(self, images: Tensor) -> Tensor:
        """Images [B, inputs, H, W] to an output [B, outputs, H, W], unbounded."""
        skips, _ = self.encode(images)
        output = F.pixel_shuffle(self.head(self.decode(skips[-1], skips[:-1])), 2)
        return output[..., : images.shape[-2], : images.shape[-1]]


class RestoringUNet(UNet):
    """A U-Net that restores images, and says where there was something to restore.

    Skip connections bring a defect's own detail to the decoder, which then copies it. Here a veil
    is drawn over the skips of the two finest levels where the coarse ones doubt that the part is
    good: what should be there can only be made up from what is around. Nothing but the losses says
    where that is. What is said of each pixel is said with the unveiled detail in view.

    Args:
        encoder: as of `UNet`.
        width: likewise.
    """

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__(encoder, 3, 3, width)
        self.veil = nn.Conv2d(self.widths[VEILED], 1, 1)
        self.verdict = nn.Sequential(
            nn.Conv2d(width + self.skips[0] + 1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 4, 3, padding=1),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What the network makes of images [B, 3, H, W] in [0, 1].

        Returns:
            The images restored, [B, 3, H, W] in [0, 1]; logits of a defect, [B, 1, H, W]; and the
            feature maps of the encoder.
        """
        skips, maps = self.encode(images)
        x = self.decode(skips[-1], skips[VEILED:-1], finest=VEILED)
        doubt, veiled = self.veil(x), []
        for skip in skips[:VEILED]:
            there = F.interpolate(doubt, skip.shape[-2:], mode="bilinear", align_corners=False)
            veiled.append(skip * torch.sigmoid(-there))
        x = self.decode(x, veiled)
        doubt = F.interpolate(doubt, x.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.verdict(torch.cat([x, skips[0], doubt], dim=1))
        output = F.pixel_shuffle(torch.cat([self.head(x), logits], dim=1), 2)
        output = output[..., : images.shape[-2], : images.shape[-1]]
        return torch.sigmoid(output[:, :3]), output[:, 3:], maps


class UNetAutoencoder(TrainedDetector):
    """A U-Net that restores corrupted images, on a pretrained encoder that stays as it is.

    A network with skip connections that is trained on clean images alone learns to copy, defects
    included. Trained to restore what `corruption` did, it removes what does not belong, and a
    fourth output learns to say where that was. A few hundred steps do not teach a network with
    random weights what is good; on features of one that has seen the world they do.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        check_corruption(config, "unet")
        unet = config.unet
        check_size(config)
        if unet.encoder == "scratch":
            encoder: nn.Module = ScratchEncoder(3, unet.width)
        else:
            encoder = build_encoder(unet.encoder)
        self.network = RestoringUNet(encoder, unet.width)
        # Strides 8 and 16: finer maps see edges, coarser ones know what, but no longer where.
        self.remembered = slice(2, 4)
        # Not joined: a part that lies anywhere seldom shows the same of both.
        channels = encoder.channels[self.remembered]
        self.memories = nn.ModuleList(MemoryBank(c, w) for w in (False, True) for c in channels)
        self.reconstruction_loss = ReconstructionLoss(config.loss)
        self.scale = Normalisation(5, config.data)

    def load_pretrained(self) -> None:
        """See `Detector.load_pretrained`."""
        if isinstance(self.network.encoder, Backbone):
            self.network.encoder.load(self.config.backbone.weights)

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """Good images corrupted, as they should be restored, and where: bool [B, 1, H, W]."""
        clean = augment(images)
        corrupted, mask = corrupt(clean, self.config.corruption.kinds, self.valid_mask(images))
        return corrupted, clean, mask

    def loss(self, corrupted: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
        """Loss of the reconstruction, and focal loss of the verdict on each pixel."""
        restored, logits, _ = self.network(corrupted.contiguous(memory_format=torch.channels_last))
        weights = self.config.loss
        segmentation = focal_loss(logits, mask, balance=weights.balance)
        return self.reconstruction_loss(restored, clean, mask) + weights.focal * segmentation

    @torch.no_grad()
    def finish(self, folds: Folds) -> None:
        """Fill the memories with what the encoder sees in good images; see `TrainedDetector`."""
        for memory in self.memories:
            memory.clear()  # of a run that was finished before, and lengthened
        for number, fold in enumerate(folds):
            for batch in fold:
                layers = self.patches(self.network.encoder(batch))
                for memory, features in zip(self.memories, layers, strict=True):
                    memory.collect(features, CANDIDATES, number, self.valid_mask(batch))
        for memory in self.memories:
            # Whitened patches say as much with fewer entries.
            count = self.config.unet.memory // (3 if memory.whiten else 1)
            share = min(1.0, count / len(memory.bank))
            memory.thin_out(share, density=50, capacity=CANDIDATES, by_fold=False)

    def patches(self, maps: list[Tensor]) -> list[Tensor]:
        """Those of the encoder's feature maps that are remembered, [B, C, h, w] for each memory."""
        return 2 * [patch_features([layer]) for layer in maps[self.remembered]]

    def witnesses(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """What the witnesses say, at half the resolution, and the reconstruction.

        Grain and noise count for less there, and a look costs a quarter.

        Returns:
            [B, 5, ceil(H / 2), ceil(W / 2)]: difference of structure and of colour between image
            and reconstruction, logit of a defect, distance to the plain memories and to the
            whitened ones; and [B, 3, H, W].
        """
        restored, logits, maps = self.network(images)
        halves = [F.avg_pool2d(m, 2, ceil_mode=True) for m in (images, restored, logits)]
        seen, expected, logits = halves
        distances, _ = distances_to(self.memories, self.patches(maps), self.valid_mask(images))
        distances = distances.unflatten(1, (2, -1)).mean(dim=2)  # of all layers
        size = logits.shape[-2:]
        distances = F.interpolate(distances, size, mode="bilinear", align_corners=False)
        found = [ssim_map(seen, expected), colour_map(seen, expected), logits, distances]
        return smooth(torch.cat(found, dim=1), self.config.score.smooth * min(size)), restored

    @torch.no_grad()
    def leaving_out(self, folds: Folds) -> Iterator[int]:
        """Be in turn without what each fold brought to the memories and to the scale of the map.

        At last the scale is that of all folds; see `Detector.leaving_out`.
        """
        # A network restores what it was trained on a little better than other good parts.
        unseen = [getattr(fold, "held_out", fold) for fold in folds]
        yield from self.scale.leaving_out(
            unseen,
            lambda images: self.witnesses(images)[0],
            partial(leaving_out, self.memories, len(folds)),
        )

    def forward(self, images: Tensor) -> Prediction:
        """Score images by what the witnesses say together; see `Detector.forward`."""
        found, restored = self.witnesses(images)
        structure, colour, segmentation, plain, whitened = self.scale(found).split(1, dim=1)
        combined = ((structure + colour) / 2 + segmentation + plain + whitened) / 4
        size = images.shape[-2:]
        anomaly_map = F.interpolate(combined, size, mode="bilinear", align_corners=False)
        return Prediction(anomaly_map, image_score(anomaly_map, self.config.score.reduce), restored)
