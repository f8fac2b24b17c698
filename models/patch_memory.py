"""Patch memory: the tokens of a vision transformer, compared with those of good parts.

After AnomalyDINO (Damm et al., WACV 2025), which needs few good images or even a single one.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from models.backbones import build_backbone, concatenated
from models.base import Detector, Prediction
from models.patchcore import rows
from utils.anomaly_map import image_score, smooth
from utils.config import Config
from utils.neighbours import nearest
from utils.reservoir import keep_random


class PatchMemory(Detector):
    """A bank of patch tokens of good parts, all of them or a random sample.

    It differs from the paper in that several middle layers are compared instead of the last one,
    that the background is not masked, and that rotated copies are turned by any angle.
    """

    sweeps = 1

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.backbone = build_backbone(config.backbone, default="vit_small_patch14_dinov2")
        self.register_buffer("bank", torch.zeros(0, sum(self.backbone.channels)))
        self.register_buffer("keys", torch.zeros(0))

    def load_pretrained(self) -> None:
        """See `Detector.load_pretrained`."""
        self.backbone.load(self.config.backbone.weights)

    def tokens(self, images: Tensor) -> Tensor:
        """Features [B, C, h, w] of images [B, 3, H, W]: of unit length in each layer.

        A squared distance is then the sum over the layers of 2 - 2 times the cosine similarity.
        """
        return concatenated([F.normalize(maps, dim=1) for maps in self.backbone(images)])

    @torch.no_grad()
    def learn(self, images: Tensor) -> None:
        """Let the tokens of the images, and of rotated copies, compete for a place in the bank."""
        settings = self.config.patch_memory
        for turn in range(settings.rotations):
            turned = rotated(images, 360 * turn / settings.rotations)
            tokens = rows(self.tokens(turned))
            self.bank, self.keys = keep_random(self.bank, self.keys, tokens, settings.patches)

    def forward(self, images: Tensor) -> Prediction:
        """Score images by the distance of their tokens to the bank; see `Detector.forward`."""
        tokens = self.tokens(images)
        distances, _ = nearest(rows(tokens), self.bank, self.config.search.memory_mib)
        maps = distances.view(len(images), 1, *tokens.shape[-2:])
        anomaly_map = F.interpolate(maps, images.shape[-2:], mode="bilinear", align_corners=False)
        anomaly_map = smooth(anomaly_map, self.config.score.smooth)
        return Prediction(anomaly_map, image_score(anomaly_map, self.config.score.reduce), None)


def rotated(images: Tensor, degrees: float) -> Tensor:
    """Images [B, 3, H, W] turned about their middle; what comes from outside is reflected."""
    if degrees == 0:
        return images
    height, width = images.shape[-2:]
    angle = torch.deg2rad(torch.tensor(degrees))
    cos, sin = float(angle.cos()), float(angle.sin())
    turn = images.new_tensor([[cos, sin * height / width, 0], [-sin * width / height, cos, 0]])
    grid = F.affine_grid(turn.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
