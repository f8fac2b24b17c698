"""Dinomaly: a decoder restores the tokens of a frozen vision transformer, but only those it knows.

Guo et al., "Dinomaly: The less is more philosophy in multi-class unsupervised anomaly detection",
CVPR 2025.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.tensors import near
from models.detector import Folds, Prediction, TrainedDetector
from models.feature_detector import FeatureDetector
from utils.config import Config
from utils.errors import UserError

DEFAULT = "vit_small_patch14_dinov2"
"""The transformer that `backbone.name: auto` means."""

EASY = 0.1
"""Share of its gradient that a well restored token keeps (the paper's)."""

HEAD = 64
"""Channels of an attention head, as in every transformer of the DINO family."""


class Dinomaly(FeatureDetector, TrainedDetector):
    """Restores the tokens of good parts through a bottleneck with dropout; what it cannot is odd.

    The tapped layers are compared as the means of two groups, the early and the late ones, so that
    the decoder is free in how it gets there. Its attention is linear, which spreads wide and so
    cannot merely pass each token on.

    It differs from the paper in that class and register tokens do not reach the decoder, that the
    bottleneck normalises its input (from small tokens, as those of small transformers, it would
    long learn no more than a constant), that the share of tokens that teach fully is the same from
    the first step on, and that plain Adam at `train.lr` stands for StableAdamW at 2e-3. The paper's
    figures are those of a DINOv2 ViT-B with registers (`vit_base_patch14_reg4_dinov2`), layers 2 to
    9, at 392 pixels.

    Raises:
        UserError: if the backbone is no vision transformer, or has fewer than two layers tapped.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, DEFAULT)
        if not self.backbone.transformer:
            raise UserError(
                f"dinomaly restores the tokens of a vision transformer, and {self.backbone.name} "
                f"is none; take --set backbone.name={DEFAULT}"
            )
        if len(self.backbone.layers) < 2:
            raise UserError("dinomaly compares two groups of layers; name more in backbone.layers")
        layers = len(self.backbone.layers)
        self.early = (layers + 1) // 2 / layers  # share of the layers that are of the early group
        channels, settings = self.backbone.channels[0], config.dinomaly
        self.bottleneck = Bottleneck(channels, settings.dropout)
        self.decoder = nn.ModuleList(Block(channels) for _ in range(settings.blocks))
        for layer in [*self.bottleneck.modules(), *self.decoder.modules()]:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """What counts of good images, and the maps of the two groups of layers, [B, C, h, w]."""
        return self.sample(images)

    def look(self, images: Tensor) -> list[Tensor]:
        """Means [B, C, h, w] of the early and of the late layers that are tapped."""
        return _two_groups(self.backbone(images))

    def restore(self, early: Tensor, late: Tensor) -> list[Tensor]:
        """What the decoder makes of the means of the two groups: the same two, restored."""
        tokens = torch.lerp(late, early, self.early).flatten(2).transpose(1, 2)
        tokens, restored = self.bottleneck(tokens), []
        for block in self.decoder:
            tokens = block(tokens)
            restored.append(tokens.transpose(1, 2).unflatten(2, early.shape[-2:]))
        restored.reverse()  # the decoder undoes the encoder: what comes late there comes first here
        return _two_groups(restored)

    def loss(self, valid: Tensor, early: Tensor, late: Tensor) -> Tensor:
        """Mean over the groups of 1 - the cosine of all tokens of an image, taken as one vector.

        Of those at and near what counts.
        """
        groups, restored = (early, late), self.restore(early, late)
        with torch.autocast(early.device.type, enabled=False):
            losses, weight = [], near(valid, early.shape[-2:])
            for wanted, found in zip(groups, restored, strict=True):
                found = mine_hard(wanted.float(), found.float(), self.config.dinomaly.hard)
                pair = ((maps * weight).flatten(1) for maps in (wanted.float(), found))
                losses.append(1 - F.cosine_similarity(*pair))
            return torch.stack(losses).mean()

    def finish(self, folds: Folds) -> None:
        """Let go of the features of what was learned from; see `TrainedDetector.finish`."""
        self.kept = None

    def forward(self, images: Tensor) -> Prediction:
        """Score images by 1 - the cosine of their tokens and what was restored of them.

        See `Detector.forward`.
        """
        groups = self.maps(images)
        restored = self.restore(*groups)
        maps = _mean([cosine_distance(*pair) for pair in zip(groups, restored, strict=True)])
        return self.predict(maps, images.shape[-2:])


class Bottleneck(nn.Sequential):
    """An MLP on each of the tokens [B, N, C]; its dropout is the noise that training needs.

    Args:
        channels: C.
        dropout: share of the values that are dropped before, within and after it.
    """

    def __init__(self, channels: int, dropout: float) -> None:
        super().__init__(
            nn.LayerNorm(channels),  # of one scale, whatever that of the transformer's tokens
            nn.Dropout(dropout),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(4 * channels, channels),
            nn.Dropout(dropout),
        )


class Block(nn.Module):
    """A transformer block on tokens [B, N, C] with linear attention.

    Args:
        channels: C, a multiple of `HEAD`.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.project = nn.Linear(channels, channels)
        self.mlp = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.GELU(), nn.Linear(4 * channels, channels)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        """Tokens [B, N, C] after attention to one another and an MLP, both added to them."""
        heads = self.qkv(self.norm1(tokens)).unflatten(2, (3, -1, HEAD))  # [B, N, 3, heads, HEAD]
        mixed = linear_attention(*heads.permute(2, 0, 3, 1, 4).unbind())
        tokens = tokens + self.project(mixed.transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.norm2(tokens))


def linear_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention with the kernel elu(q) + 1 in place of the softmax, three [..., N, D] -> the same.

    Its cost grows with N, not with its square: Katharopoulos et al., "Transformers are RNNs",
    ICML 2020.
    """
    queries, keys = F.elu(queries) + 1, F.elu(keys) + 1
    sums = keys.sum(dim=-2).unsqueeze(-1)  # [..., D, 1]
    return queries @ (keys.transpose(-2, -1) @ values) / (queries @ sums)


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """1 - the cosine of the tokens of two maps: twice [B, C, h, w] -> [B, 1, h, w] in [0, 2]."""
    return 1 - F.cosine_similarity(a, b, dim=1).unsqueeze(1)


def mine_hard(wanted: Tensor, restored: Tensor, share: float) -> Tensor:
    """The same restored maps [B, C, h, w], but all except the worst tokens pass little gradient.

    Args:
        wanted: the maps that should have been restored, [B, C, h, w].
        restored: what was.
        share: share of the tokens, the worst of the whole batch, that pass all of their gradient;
            the others pass `EASY` of it.
    """
    distance = cosine_distance(wanted, restored.detach())
    worst = distance.flatten().topk(max(1, round(share * distance.numel()))).values
    gradient = torch.where(distance < worst[-1], EASY, 1.0)
    return gradient * restored + (1 - gradient) * restored.detach()


def _two_groups(maps: list[Tensor]) -> list[Tensor]:
    half = (len(maps) + 1) // 2
    return [_mean(maps[:half]), _mean(maps[half:])]


def _mean(maps: list[Tensor]) -> Tensor:
    return torch.stack(maps).mean(dim=0)
