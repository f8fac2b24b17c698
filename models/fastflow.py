"""FastFlow: a normalising flow from features to noise; improbable noise is anomalous.

Yu et al., "FastFlow: unsupervised anomaly detection and localization via 2D normalizing flows",
arXiv 2111.07677, 2021.
"""

import math

import torch
from torch import Tensor, nn

from data.tensors import near
from models.backbones import LITE, concatenated
from models.detector import Prediction, TrainedDetector
from models.feature_detector import FeatureDetector
from utils.config import Config

# Couplings of the flow of each layer, as in the paper for convolutional backbones.
STEPS = 8

# A coupling scales by exp(-2) to exp(2), so that no step can explode.
MAX_LOG_SCALE = 2.0

# Frequencies of the positional encoding: one half, one and two periods a side.
OCTAVES = 3


def positional_encoding(height: int, width: int) -> Tensor:
    """Return sine and cosine of all frequencies down and across, [1, 4 * OCTAVES, h, w]."""
    down, across = torch.meshgrid(
        torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij"
    )
    angles = [math.pi * 2**octave * way for octave in range(OCTAVES) for way in (down, across)]
    return torch.stack([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)])[None]


class Coupling(nn.Module):
    """One step of a flow: half of the channels determine scale and shift of the other half.

    An affine coupling (RealNVP: Dinh et al., ICLR 2017) after a fixed random permutation of the
    channels: y = x * exp(s) + t. It can be inverted and its determinant is known, whatever the
    subnet is. The subnet also gets the position, as in CFLOW-AD (Gudovskiy et al., WACV 2022): what
    is common at one position of a part may be rare at another.

    Args:
        channels: of the features; two at least.
        kernel: side of the subnet's two convolutions, odd.
    """

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.halves = [channels // 2, channels - channels // 2]
        hidden = self.halves[0]
        last = nn.Conv2d(hidden, 2 * self.halves[1], kernel, padding=kernel // 2)
        nn.init.zeros_(last.weight)  # s = t = 0: the flow starts as a permutation
        nn.init.zeros_(last.bias)
        inputs = self.halves[0] + 4 * OCTAVES
        first = nn.Conv2d(inputs, hidden, kernel, padding=kernel // 2)
        self.subnet = nn.Sequential(first, nn.ReLU(), last)
        self.register_buffer("order", torch.randperm(channels))

    def forward(self, x: Tensor, position: Tensor) -> tuple[Tensor, Tensor]:
        """Transform features [B, C, h, w]; return also the log-determinant [B, 1, h, w].

        position: `positional_encoding` of that height and width.
        """
        kept, changed = x[:, self.order].split(self.halves, dim=1)
        inputs = torch.cat([kept, position.expand(kept.shape[0], -1, -1, -1)], dim=1)
        # float32, also under autocast: the flow multiplies rounding errors step by step.
        log_scale, shift = self.subnet(inputs).to(kept.dtype).chunk(2, dim=1)
        log_scale = MAX_LOG_SCALE * torch.tanh(log_scale / MAX_LOG_SCALE)  # soft clamping
        changed = changed * log_scale.exp() + shift
        return torch.cat([kept, changed], dim=1), log_scale.sum(dim=1, keepdim=True)


class Flow(nn.Module):
    """Flow from the features of one layer to standard normal noise of the same shape.

    Args:
        channels: of the features.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        # momentum None: the mean over all steps, since the features of frozen layers never change.
        self.scale = nn.BatchNorm2d(channels, momentum=None, affine=False)
        # 3x3 and 1x1 in turn, as in the paper.
        kernels = [1 if step % 2 else 3 for step in range(STEPS)]
        self.steps = nn.ModuleList(Coupling(channels, kernel) for kernel in kernels)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return the noise [B, C, h, w] and the log-determinant [B, 1, h, w] of each position."""
        x = self.scale(features)
        log_determinant, position = x.new_zeros(()), positional_encoding(*x.shape[-2:]).to(x)
        for step in self.steps:
            x, added = step(x, position)
            log_determinant = log_determinant + added
        return x, log_determinant


class FastFlow(FeatureDetector, TrainedDetector):
    """Normalising flows, one a layer of a frozen backbone, trained by maximum likelihood.

    The anomaly map leaves out the determinant, as in the paper: it adapts to the training images,
    and with it defects drawn on unseen good images are found less often. It differs from the paper
    in that the map is the logarithm of the mean probability of the layers, which ranks alike but is
    unbounded, so that a threshold can lie above all good images; and in that features are
    normalised over all good images instead of within each.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, default=LITE)
        self.flows = nn.ModuleList(map(Flow, self.backbone.channels))

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the valid mask of images and their features, [B, C, h, w] of each layer."""
        return self.training_sample(images)

    def loss(self, valid: Tensor, *features: Tensor) -> Tensor:
        """Return the negative log-likelihood in nats a channel, up to a constant.

        -log p(x) = |z|^2 / 2 - log |det dz/dx|, averaged over positions at and near the valid mask.
        """
        total = features[0].new_zeros(())
        for flow, layer in zip(self.flows, features, strict=True):
            noise, log_determinant = flow(layer)
            negative_log_likelihood = energy(noise) - log_determinant / noise.shape[1]
            weight = near(valid, layer.shape[-2:])
            total = total + (negative_log_likelihood * weight).sum() / weight.sum().clamp_min(1)
        return total

    def forward(self, images: Tensor) -> Prediction:
        """Score images by the energy of their noise; see `Detector.forward`."""
        pairs = zip(self.flows, self.features(images), strict=True)
        energies = [energy(flow(layer)[0]) for flow, layer in pairs]
        # -log of the sum over the layers of exp(-energy): improbable if it is so in all layers.
        maps = -torch.logsumexp(-concatenated(energies), dim=1, keepdim=True)
        return self.predict(maps, images.shape[-2:])


def energy(noise: Tensor) -> Tensor:
    """Return half the mean square of noise [B, C, h, w] over its channels: [B, 1, h, w] >= 0."""
    return 0.5 * noise.square().mean(dim=1, keepdim=True)
