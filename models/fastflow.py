"""FastFlow: good features, made to look like noise; a part is strange where its noise is unlikely.

Yu et al., "FastFlow: unsupervised anomaly detection and localization via 2D normalizing flows",
arXiv 2111.07677, 2021.
"""

import math

import torch
from torch import Tensor, nn

from data.tensors import near
from models.backbones import LITE, concatenated
from models.detector import Folds, Prediction, TrainedDetector
from models.feature_detector import FeatureDetector
from utils.config import Config

CLAMP = 2.0
"""What a step scales by lies between exp(-CLAMP) and exp(CLAMP), so that no step can explode."""

OCTAVES = 3
"""Waves that tell where on the image a place lies: of one half, one and two periods a side."""


def places(height: int, width: int) -> Tensor:
    """Where each place lies: sine and cosine of all waves down and across, [1, C, h, w]."""
    down, across = torch.meshgrid(
        torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij"
    )
    angles = [math.pi * 2**octave * way for octave in range(OCTAVES) for way in (down, across)]
    return torch.stack([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)])[None]


class Coupling(nn.Module):
    """One step of a flow: half of the channels says how the other half is scaled and shifted.

    An affine coupling (RealNVP: Dinh et al., ICLR 2017) behind a shuffle of the channels that is
    drawn once. Whatever the subnet is, the step can be undone, and its determinant is known. The
    subnet knows where it looks, as that of CFLOW-AD (Gudovskiy et al., WACV 2022): what is common
    in one place of a part may be rare in another.

    Args:
        channels: of the features; two at least.
        kernel: side of the subnet's two convolutions, odd.
        ratio: channels between these, as a share of those that they see.
    """

    def __init__(self, channels: int, kernel: int, ratio: float) -> None:
        super().__init__()
        self.halves = [channels // 2, channels - channels // 2]
        hidden = max(1, round(ratio * self.halves[0]))
        last = nn.Conv2d(hidden, 2 * self.halves[1], kernel, padding=kernel // 2)
        nn.init.zeros_(last.weight)  # a flow starts as a mere shuffle
        nn.init.zeros_(last.bias)
        seen = self.halves[0] + 4 * OCTAVES
        first = nn.Conv2d(seen, hidden, kernel, padding=kernel // 2)
        self.subnet = nn.Sequential(first, nn.ReLU(), last)
        self.register_buffer("order", torch.randperm(channels))

    def scale_and_shift(self, kept: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Logarithm of the scale, within `CLAMP`, and shift of the half that changes."""
        said = self.subnet(torch.cat([kept, where.expand(kept.shape[0], -1, -1, -1)], dim=1))
        log_scale, shift = said.to(kept.dtype).chunk(2, dim=1)
        return CLAMP * torch.tanh(log_scale / CLAMP), shift

    def forward(self, x: Tensor, where: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, C, h, w] after the step, and what each place adds to its log-determinant.

        where: `places` of that height and width.
        """
        kept, changed = x[:, self.order].split(self.halves, dim=1)
        log_scale, shift = self.scale_and_shift(kept, where)
        changed = changed * log_scale.exp() + shift
        return torch.cat([kept, changed], dim=1), log_scale.sum(dim=1, keepdim=True)


class Flow(nn.Module):
    """Steps that turn the features of one layer into standard normal noise of the same shape.

    Args:
        channels: of the features.
        steps: number of couplings, 3x3 and 1x1 in turn: context, and what belongs together.
        ratio: as of `Coupling`.
    """

    def __init__(self, channels: int, steps: int, ratio: float) -> None:
        super().__init__()
        # Of features that never change: the mean of all steps tells more than the last ones.
        self.scale = nn.BatchNorm2d(channels, momentum=None, affine=False)
        kernels = [1 if step % 2 else 3 for step in range(steps)]
        self.steps = nn.ModuleList(Coupling(channels, kernel, ratio) for kernel in kernels)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Noise [B, C, h, w], and the log-determinant [B, 1, h, w] by the place it comes from."""
        x = self.scale(features)
        log_determinant, where = x.new_zeros(()), places(*x.shape[-2:]).to(x)
        for step in self.steps:
            x, added = step(x, where)
            log_determinant = log_determinant + added
        return x, log_determinant


class FastFlow(FeatureDetector, TrainedDetector):
    """A normalising flow a layer of a frozen backbone, trained by likelihood.

    A place is as strange as its noise is improbable: in the map, as in the paper, the determinant
    does not count. It learns the images by heart, and with it defects drawn onto unseen good parts
    are found less often. Where the paper takes the mean of the layers' probabilities, this is its
    logarithm, which ranks alike but does not run into a bound, beyond which no threshold could lie.
    Features are scaled by what they vary by over all good images instead of within one.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, default=LITE)
        steps, ratio = config.fastflow.steps, config.fastflow.ratio
        self.flows = nn.ModuleList(Flow(count, steps, ratio) for count in self.backbone.channels)

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """What counts of good images, and their features, [B, C, h, w] of each layer."""
        return self.sample(images)

    def finish(self, folds: Folds) -> None:
        """Let go of the features of what was learned from; see `TrainedDetector.finish`."""
        self.kept = None

    def loss(self, valid: Tensor, *features: Tensor) -> Tensor:
        """Negative log-likelihood of what the layers show, at and near what counts.

        In nats a channel, up to a constant.
        """
        total = features[0].new_zeros(())
        for flow, layer in zip(self.flows, features, strict=True):
            noise, log_determinant = flow(layer)
            unlikely = energy(noise) - log_determinant / noise.shape[1]
            weight = near(valid, layer.shape[-2:])
            total = total + (unlikely * weight).sum() / weight.sum().clamp_min(1)
        return total

    def forward(self, images: Tensor) -> Prediction:
        """Score images by how improbable the noise is; see `Detector.forward`."""
        pairs = zip(self.flows, self.maps(images), strict=True)
        found = [energy(flow(layer)[0]) for flow, layer in pairs]
        together = -torch.logsumexp(-concatenated(found), dim=1, keepdim=True)
        return self.predict(together, images.shape[-2:])


def energy(noise: Tensor) -> Tensor:
    """Half the mean square of noise [B, C, h, w] over its channels: [B, 1, h, w] >= 0."""
    return 0.5 * noise.square().mean(dim=1, keepdim=True)
