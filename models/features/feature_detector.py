"""What the detectors that compare features of a frozen backbone have in common."""

from torch import Tensor
from torch.nn import functional as F

from models.anomaly_map import image_score, smooth
from models.detector import Detector, Prediction
from models.features.backbones import build_backbone
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
