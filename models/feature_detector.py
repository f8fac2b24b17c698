"""What the detectors that compare features of a frozen backbone have in common."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from models.anomaly_maps import image_score, smooth
from models.backbones import build_backbone
from models.detector import Detector, Prediction
from models.kept_features import KeptFeatures
from utils.config import Config


class FeatureDetector(Detector):
    """Base class of detectors that learn from a backbone's features.

    Args:
        config: all settings.
        default: the backbone that `backbone.name: auto` means.
    """

    def __init__(self, config: Config, default: str) -> None:
        super().__init__(config)
        self.backbone = build_backbone(config.backbone, default)
        self.kept: KeptFeatures | None = None

    def keep(self) -> None:
        """Keep what `look` sees in images from now on, until `kept` is None again."""
        self.kept = self.kept or KeptFeatures(self.look)

    def look(self, images: Tensor) -> Sequence[Tensor]:
        """Feature maps [B, C_i, h_i, w_i] of images [B, 3, H, W] that the detector goes by."""
        return self.backbone(images)

    def maps(self, images: Tensor) -> Sequence[Tensor]:
        """What `look` sees in images, made anew or kept."""
        return self.look(images) if self.kept is None else self.kept.of(images)

    def sample(self, images: Tensor) -> tuple[Tensor, ...]:
        """What counts of images to learn from, bool [B, 1, H, W], and `maps`, kept from now on."""
        if not self.config.train.crop:  # random crops, none of which comes twice
            self.keep()
        valid = self.valid_mask(images)
        if valid is None:
            valid = torch.ones_like(images[:, :1], dtype=torch.bool)
        return valid, *self.maps(images)

    def load_pretrained(self) -> None:
        """See `Detector.load_pretrained`."""
        self.backbone.load(self.config.backbone.weights)

    def predict(self, distances: Tensor, size: tuple[int, int]) -> Prediction:
        """The prediction from distances [B, 1, h, w] at the resolution of the features.

        Args:
            distances: from what is good.
            size: (height, width) of the images.
        """
        score = self.config.score
        anomaly_map = F.interpolate(distances, size, mode="bilinear", align_corners=False)
        anomaly_map = smooth(anomaly_map, score.smooth * min(size))
        return Prediction(anomaly_map, image_score(anomaly_map, score.reduce), None)
