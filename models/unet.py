"""U-Net autoencoder: learns to restore corrupted good parts; what it changes is an anomaly."""

import math
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.corruption import KINDS, cell_sets
from models.base import Detector, Prediction
from models.views import corrupted_at_scales, maps_of_views, mean_over_scales, over_scales
from utils.anomaly_map import TERMS, image_score, term_maps, term_weights
from utils.config import Config, UNetConfig
from utils.errors import UserError
from utils.losses import ReconstructionLoss, focal_loss
from utils.standardise import Standardisation


@cache
def fixed_cell_sets(height: int, width: int, cell: int) -> Tensor:
    """`cell_sets` that are the same for every image."""
    return cell_sets(height, width, cell, torch.Generator().manual_seed(cell))


def check_depth(config: Config) -> None:
    """Raise `UserError` if images, or crops, are too small for `unet.depth` and `unet.scales`."""
    depth, scale = config.unet.depth, max(config.unet.scales)
    for key, side in {"data.size": min(config.data.size), "train.crop": config.train.crop}.items():
        if side and side // scale <= 2**depth:
            shrunk = f", shrunk by {scale} (unet.scales)," if scale > 1 else ""
            raise UserError(
                f"{key} of {side} pixels{shrunk} is too small to be halved {depth} times; raise it "
                f"to {(2**depth + 1) * scale} or more, or lower unet.depth"
            )


def check_corruption(config: Config, learner: str) -> None:
    """Raise `UserError` if no image is ever corrupted, which is what `learner` learns to tell."""
    if not any(getattr(config.corruption, kind) for kind in KINDS):
        raise UserError(
            f"{learner} learns to tell what was corrupted, but corruption is none; raise one of "
            f"{', '.join(f'corruption.{kind}' for kind in KINDS)} above 0"
        )


class ScaleNorm(nn.BatchNorm2d):
    """Batch normalisation with running statistics of each scale (AdaBN: Li et al., 2016).

    Each step of training normalises by images of one scale. Statistics of all of them together
    would fit none at inference, for what is shrunk differs in contrast and sharpness.

    Args:
        channels: C of the input.
        scales: the scales that the input may have.
    """

    def __init__(self, channels: int, scales: Sequence[int]) -> None:
        super().__init__(channels)
        self.scales = tuple(scales)
        self.running_mean = self.running_mean.repeat(len(scales), 1)
        self.running_var = self.running_var.repeat(len(scales), 1)
        self.register_load_state_dict_pre_hook(self._repeat_common_statistics)

    @staticmethod
    def _repeat_common_statistics(
        norm: "ScaleNorm", state: dict[str, Any], prefix: str, *_
    ) -> None:
        """Read a checkpoint from before format 3, which has one row for all scales."""
        for name in ("running_mean", "running_var"):
            if state[prefix + name].dim() == 1:
                state[prefix + name] = state[prefix + name].repeat(len(norm.scales), 1)

    def forward(self, x: Tensor, scale: int) -> Tensor:
        """Normalise [B, C, h, w], features of images that were shrunk by `scale`."""
        row = self.scales.index(scale)
        return F.batch_norm(
            x,
            self.running_mean[row],
            self.running_var[row],
            self.weight,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )


def normalisation(unet: UNetConfig, channels: int) -> nn.Module:
    """The normalisation layer that `unet.norm` names."""
    if unet.norm == "batch":
        return ScaleNorm(channels, unet.scales)
    if unet.norm == "group":
        return nn.GroupNorm(num_groups=math.gcd(8, channels), num_channels=channels)
    return nn.Identity()


class DoubleConv(nn.Sequential):
    """(3x3 convolution, normalisation, ReLU) twice; keeps height and width."""

    def __init__(self, inputs: int, outputs: int, unet: UNetConfig) -> None:
        layers: list[nn.Module] = []
        for channels in (inputs, outputs):
            # Reflecting at the border leaves no dark frame in the reconstruction, nor in the map.
            layers.append(
                nn.Conv2d(
                    channels,
                    outputs,
                    3,
                    padding=1,
                    padding_mode="reflect",
                    bias=unet.norm == "none",
                )
            )
            layers += [normalisation(unet, outputs), nn.ReLU(inplace=True)]
        super().__init__(*layers)

    def forward(self, x: Tensor, scale: int) -> Tensor:
        """Map [B, inputs, h, w] of images shrunk by `scale` to [B, outputs, h, w]."""
        for layer in self:
            x = layer(x, scale) if isinstance(layer, ScaleNorm) else layer(x)
        return x


class UNet(nn.Module):
    """Encoder and decoder with skip connections (Ronneberger et al., MICCAI 2015).

    Fully convolutional. Inputs whose height or width is no multiple of 2**depth are padded by
    reflection, and the output is cropped back.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        unet: width of the first level (each level below has twice as many channels), depth (how
            often the resolution is halved) and normalisation.
    """

    def __init__(self, inputs: int, outputs: int, unet: UNetConfig) -> None:
        super().__init__()
        widths = [unet.width * 2**level for level in range(unet.depth + 1)]
        self.stem = DoubleConv(inputs, unet.width, unet)
        self.down = nn.ModuleList(
            DoubleConv(above, below, unet) for above, below in zip(widths, widths[1:], strict=False)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, above, 2, stride=2)
            for above, below in zip(widths, widths[1:], strict=False)
        )
        self.merge = nn.ModuleList(DoubleConv(2 * above, above, unet) for above in widths[:-1])
        self.head = nn.Conv2d(unet.width, outputs, 1)

    def forward(self, images: Tensor, scale: int) -> Tensor:
        """Map [B, inputs, H, W], shrunk by one of `unet.scales`, to [B, outputs, H, W], unbounded.

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
        x = self.stem(x, scale)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(F.max_pool2d(x, 2), scale)
        for up, merge, skip in zip(
            reversed(self.up), reversed(self.merge), reversed(skips), strict=True
        ):
            x = merge(torch.cat([skip, up(x)], dim=1), scale)
        return self.head(x)[..., :height, :width]


class RestoringUNet(nn.Module):
    """A U-Net that restores images [B, 3, H, W] in [0, 1], by the settings `unet`.

    It predicts the image itself or, with `unet.residual`, what to add to its input, from nothing at
    the start. The latter soon has a lower loss, for it need not learn to copy the grain of a
    texture; but it is apt to stay near copying, and then leaves defects as they are.

    With a gate it also says where a defect is, and leaves the image as it is elsewhere, as networks
    do that inpaint blindly (VCNet: Wang et al., ECCV 2020). Where the gate is shut no grain has to
    be copied; where it opens, nothing of a defect is left.
    """

    def __init__(self, unet: UNetConfig, gated: bool = False) -> None:
        super().__init__()
        self.network = UNet(3, 4 if gated else 3, unet)
        self.gated = gated
        self.residual = unet.residual
        if self.residual:
            nn.init.zeros_(self.network.head.weight)
            nn.init.zeros_(self.network.head.bias)

    def forward(self, images: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """Restored images [B, 3, H, W] in [0, 1] and the gate, logits [B, 1 or 0, H, W]."""
        predicted, gate = self.network(images, scale).split([3, int(self.gated)], dim=1)
        restored = (images + predicted).clamp(0, 1) if self.residual else torch.sigmoid(predicted)
        if self.gated:
            restored = images + torch.sigmoid(gate) * (restored - images)
        return restored, gate


class UNetAutoencoder(Detector):
    """A U-Net that restores corrupted images; what it changes in an image is an anomaly.

    A network with skip connections that is trained on clean images alone learns to copy, defects
    included. Trained to restore what `corruption` did, it removes what does not belong. With
    `unet.gate` it also learns to say where that is, as the second network of DRAEM does.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        check_depth(config)
        gated = config.unet.gate
        if gated:
            check_corruption(config, "unet.gate")
            if config.score.cells:
                raise UserError(
                    "score.cells hides from the network what unet.gate is to judge; leave out one"
                )
        self.restore = RestoringUNet(config.unet, gated)
        self.loss = ReconstructionLoss(config.loss)
        self.terms, self.weights = tuple(TERMS), term_weights(config.score)
        if gated:
            share = config.score.gate
            self.terms = (*TERMS, "gate")
            self.weights = [*((1 - share) * weight for weight in self.weights), share]
        self.scale = Standardisation(len(config.unet.scales) * len(self.terms), config.data.size)

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """Three tensors a scale; see `corrupted_at_scales`."""
        return corrupted_at_scales(images, self.config)

    def learn(self, *sample: Tensor) -> Tensor:
        """Loss between the restored and the clean images, the mean over the scales.

        With a gate also the focal loss of where it opens, as of DRAEM's segmentation.
        """
        return mean_over_scales(self._loss, self.config.unet.scales, sample)

    def _loss(self, scale: int, corrupted: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
        restored, gate = self.restore(corrupted, scale)
        loss = self.loss(restored, clean, mask)
        if self.restore.gated:
            weights = self.config.loss
            loss = loss + weights.focal * focal_loss(gate, mask, balance=weights.balance)
        return loss

    def restore_hidden(self, images: Tensor, scale: int, cell: int) -> Tensor:
        """Images [B, 3, H, W] in which every pixel was hidden from the network (RIAD's inference).

        The disjoint sets of cells are hidden in turn, in one batch, and only what was hidden is
        kept: [B, 3, H, W] in [0, 1].
        """
        hidden = fixed_cell_sets(*images.shape[-2:], cell).to(images.device)[:, None]
        passes, _ = self.restore((images * ~hidden).flatten(0, 1), scale)
        return (passes.view(len(hidden), *images.shape) * hidden).sum(dim=0)

    def term_maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Smoothed maps of all terms, for one scale after the other, and the reconstruction.

        [B, S * T, H, W] and [B, 3, H, W], which is that of the first scale.
        """
        return maps_of_views(images, self.config, self._term_maps_at)

    def _term_maps_at(self, images: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        sigma = self.config.score.smooth / scale
        if not self.config.score.cells:
            restored, gate = self.restore(images, scale)
            return term_maps(images, restored, sigma, gate), restored
        restorations = [
            self.restore_hidden(images, scale, cell) for cell in self.config.score.cells
        ]
        maps = torch.stack([term_maps(images, one, sigma) for one in restorations]).mean(dim=0)
        return maps, torch.stack(restorations).mean(dim=0)

    def combine(self, maps: Tensor, weights: list[float], by_position: bool) -> Tensor:
        """One map [B, 1, H, W] of those of `term_maps`, by weights for the T terms."""
        return over_scales(self.scale(maps, weights, by_position), self.config.score.scales)

    def standardise(self, images: Iterable[Tensor]) -> None:
        """Mean and spread of each term; see `Detector.standardise`."""
        self.scale.fit(self.term_maps(batch)[0] for batch in images)

    def forward(self, images: Tensor) -> Prediction:
        """Score images by what the network would change in them; see `Detector.forward`."""
        score = self.config.score
        maps, reconstruction = self.term_maps(images)
        anomaly_map = self.combine(maps, self.weights, score.standardise == "position")
        return Prediction(anomaly_map, image_score(anomaly_map, score.reduce), reconstruction)
