"""Dinomaly: a decoder reconstructs the tokens of a frozen vision transformer, of good parts alone.

Guo et al., "Dinomaly: The less is more philosophy in multi-class unsupervised anomaly detection",
CVPR 2025.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.tensors import near
from models.detector import Prediction, TrainedDetector
from models.feature_detector import FeatureDetector
from utils.config import Config
from utils.errors import UserError

# The transformer that `backbone.name: auto` means.
DEFAULT = "vit_small_patch14_dinov2"

# Transformer blocks of the decoder (the paper's).
BLOCKS = 8

# Share of the bottleneck's values dropped in training (the paper's).
DROPOUT = 0.2

# Share of the tokens, the worst reconstructed, that keep their whole gradient (the paper's).
HARD_SHARE = 0.1

# Factor of the gradient of all other tokens (the paper's).
EASY_GRADIENT = 0.1

# Channels of an attention head, as in all transformers of the DINO family.
HEAD_CHANNELS = 64


class Dinomaly(FeatureDetector, TrainedDetector):
    """Reconstructs the tokens of good parts through a bottleneck with dropout.

    The tapped layers are compared as the means of two groups, the early and the late ones (loose
    constraint). Linear attention spreads over the whole image and so cannot merely copy each token.

    It differs from the paper in that class and register tokens do not reach the decoder; that the
    bottleneck normalises its input, for from the small tokens of small transformers it would for
    long learn no more than a constant; that the share of hard tokens is the same from the first
    step on; and that plain Adam at `train.lr` replaces StableAdamW at 2e-3. The paper's figures are
    those of a DINOv2 ViT-B with registers (`vit_base_patch14_reg4_dinov2`), layers 2 to 9, at 392
    pixels.

    Raises:
        UserError: if the backbone is no vision transformer, or has fewer than two layers tapped.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config, DEFAULT)
        if not self.backbone.transformer:
            raise UserError(
                f"dinomaly reconstructs the tokens of a vision transformer, and "
                f"{self.backbone.name} is none; take --set backbone.name={DEFAULT}"
            )
        layers = len(self.backbone.layers)
        if layers < 2:
            raise UserError("dinomaly compares two groups of layers; name more in backbone.layers")
        self.early_share = (layers + 1) // 2 / layers  # of the layers that are in the early group
        channels = self.backbone.channels[0]
        self.bottleneck = Bottleneck(channels)
        self.decoder = nn.ModuleList(Block(channels) for _ in range(BLOCKS))
        for layer in [*self.bottleneck.modules(), *self.decoder.modules()]:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the valid mask of images, and the means of the two groups, [B, C, h, w] each."""
        return self.training_sample(images)

    def compute_features(self, images: Tensor) -> list[Tensor]:
        """Return the means [B, C, h, w] of the early and of the late layers."""
        return _two_groups(self.backbone(images))

    def reconstruct(self, early: Tensor, late: Tensor) -> list[Tensor]:
        """Return the means of the two groups as the decoder reconstructs them, [B, C, h, w]."""
        # The mean over all layers, from the means of the two groups.
        tokens = torch.lerp(late, early, self.early_share).flatten(2).transpose(1, 2)
        tokens, maps = self.bottleneck(tokens), []
        for block in self.decoder:
            tokens = block(tokens)
            maps.append(tokens.transpose(1, 2).unflatten(2, early.shape[-2:]))
        maps.reverse()  # the decoder undoes the encoder: its first block stands for the last layer
        return _two_groups(maps)

    def loss(self, valid: Tensor, early: Tensor, late: Tensor) -> Tensor:
        """Return the mean over the groups of 1 - cosine of all tokens of an image as one vector.

        Of the tokens at and near the valid mask.
        """
        groups, reconstructed = (early, late), self.reconstruct(early, late)
        with torch.autocast(early.device.type, enabled=False):
            losses, weight = [], near(valid, early.shape[-2:])
            for target, found in zip(groups, reconstructed, strict=True):
                found = mine_hard(target.float(), found.float())
                pair = ((maps * weight).flatten(1) for maps in (target.float(), found))
                losses.append(1 - F.cosine_similarity(*pair))
            return torch.stack(losses).mean()

    def forward(self, images: Tensor) -> Prediction:
        """Score images by 1 - cosine of tokens and reconstructed tokens; see `Detector.forward`."""
        groups = self.features(images)
        reconstructed = self.reconstruct(*groups)
        maps = _mean([cosine_distance(*pair) for pair in zip(groups, reconstructed, strict=True)])
        return self.predict(maps, images.shape[-2:])


class Bottleneck(nn.Sequential):
    """MLP on each of the tokens [B, N, C], with dropout as the noise (noisy bottleneck).

    Args:
        channels: C.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(
            nn.LayerNorm(channels),  # transformers differ in the scale of their tokens
            nn.Dropout(DROPOUT),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Dropout(DROPOUT),
            nn.Linear(4 * channels, channels),
            nn.Dropout(DROPOUT),
        )


class Block(nn.Module):
    """Transformer block on tokens [B, N, C] with linear attention.

    Args:
        channels: C, a multiple of `HEAD_CHANNELS`.
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
        """Return tokens [B, N, C] after attention and MLP, both with a residual connection."""
        heads = self.qkv(self.norm1(tokens)).unflatten(
            2, (3, -1, HEAD_CHANNELS)
        )  # [B, N, 3, heads, HEAD_CHANNELS]
        mixed = linear_attention(*heads.permute(2, 0, 3, 1, 4).unbind())
        tokens = tokens + self.project(mixed.transpose(1, 2).flatten(2))
        return tokens + self.mlp(self.norm2(tokens))


def linear_attention(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Apply attention with the kernel elu(q) + 1 in place of the softmax: three [..., N, D] to one.

    Its cost grows with N, not with its square: Katharopoulos et al., "Transformers are RNNs",
    ICML 2020.
    """
    queries, keys = F.elu(queries) + 1, F.elu(keys) + 1
    sums = keys.sum(dim=-2).unsqueeze(-1)  # [..., D, 1]
    return queries @ (keys.transpose(-2, -1) @ values) / (queries @ sums)


def cosine_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return 1 - cosine of the tokens of two maps [B, C, h, w]: [B, 1, h, w] in [0, 2]."""
    return 1 - F.cosine_similarity(a, b, dim=1).unsqueeze(1)


def mine_hard(target: Tensor, reconstructed: Tensor) -> Tensor:
    """Return the reconstructed maps, with the gradient of all but the worst tokens scaled down.

    Hard mining (the paper's): the worst `HARD_SHARE` of the batch's tokens keep their gradient.

    Args:
        target: [B, C, h, w].
        reconstructed: the same.
    """
    distance = cosine_distance(target, reconstructed.detach())
    worst = distance.flatten().topk(max(1, round(HARD_SHARE * distance.numel()))).values
    gradient = torch.where(distance < worst[-1], EASY_GRADIENT, 1.0)
    # The same values; d/dx of g x + (1 - g) stop(x) is g.
    return gradient * reconstructed + (1 - gradient) * reconstructed.detach()


def _two_groups(maps: list[Tensor]) -> list[Tensor]:
    half = (len(maps) + 1) // 2
    return [_mean(maps[:half]), _mean(maps[half:])]


def _mean(maps: list[Tensor]) -> Tensor:
    return torch.stack(maps).mean(dim=0)
