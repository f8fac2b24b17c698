"""Base class of the detectors that compare features of a frozen backbone."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import functional as F

from models.anomaly_maps import smooth
from models.backbones import build_backbone
from models.detector import Detector, Prediction, TrainedDetector
from models.image_score import image_score
from utils.config import Config

# Features that are cached at most; those of further images are computed in every pass.
CACHE_BYTES = 2 * 2**30


class FeatureCache:
    """Computes features of each image once.

    Args:
        compute: images [B, 3, H, W] to features, each [B, ...]; always the same for an image.
    """

    def __init__(self, compute: Callable[[Tensor], Sequence[Tensor]]) -> None:
        self.compute = compute
        self.cached: dict[int, Sequence[Tensor]] = {}

    def features(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features of images [B, 3, H, W], each [B, ...]."""
        keys = [hash(image.tobytes()) for image in images.cpu().numpy()]  # copied once a batch
        missing = [number for number, key in enumerate(keys) if key not in self.cached]
        # On a CPU one by one, since other images in the batch change the last bits: a resumed run,
        # which starts with an empty cache, has to go on with the same features. A GPU would idle.
        at_once = 1 if images.device.type == "cpu" else len(images)
        found: dict[int, tuple[Tensor, ...]] = {}
        for start in range(0, len(missing), at_once):
            own = missing[start : start + at_once]
            layers = [layer.split(1) for layer in self.compute(images[own])]
            found |= zip((keys[number] for number in own), zip(*layers, strict=True), strict=True)
        layers = zip(*(self.cached.get(key) or found[key] for key in keys), strict=True)
        for key, computed in found.items():
            if (len(self.cached) + 1) * sum(layer.nbytes for layer in computed) <= CACHE_BYTES:
                self.cached[key] = computed
        return tuple(torch.cat(layer) for layer in layers)


class FeatureDetector(Detector):
    """Base class of the detectors that learn from features of a backbone.

    Args:
        config: all settings.
        default: the backbone that `backbone.name: auto` means.
    """

    def __init__(self, config: Config, default: str) -> None:
        super().__init__(config)
        self.backbone = build_backbone(config.backbone, default)
        self._cache: FeatureCache | None = None

    @contextmanager
    def caching(self) -> Iterator[None]:
        """See `Detector.caching`. What is drawn for each step is not cached: it is seen once."""
        drawn = isinstance(self, TrainedDetector) and self.config.data.light
        if not (self.config.train.crop or drawn):
            self._cache = FeatureCache(self.compute_features)
        try:
            yield
        finally:
            self._cache = None

    def compute_features(self, images: Tensor) -> Sequence[Tensor]:
        """Return the feature maps [B, C_i, h_i, w_i] that the detector compares."""
        return self.backbone(images)

    def features(self, images: Tensor) -> Sequence[Tensor]:
        """Return `compute_features` of images, from the cache if there is one."""
        return (
            self.compute_features(images) if self._cache is None else self._cache.features(images)
        )

    def training_sample(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the valid mask of images, bool [B, 1, H, W], and their `features`."""
        valid = self.valid_mask(images)
        if valid is None:
            valid = torch.ones_like(images[:, :1], dtype=torch.bool)
        return valid, *self.features(images)

    def load_pretrained(self) -> None:
        """See `Detector.load_pretrained`."""
        self.backbone.load(self.config.backbone.weights)

    def predict(self, distances: Tensor, size: tuple[int, int]) -> Prediction:
        """Return the prediction for an anomaly map at the resolution of the features.

        Args:
            distances: [B, 1, h, w], higher is more anomalous.
            size: (height, width) of the images.
        """
        score = self.config.score
        anomaly_map = F.interpolate(distances, size, mode="bilinear", align_corners=False)
        anomaly_map = smooth(anomaly_map, score.smooth * min(size))
        return Prediction(anomaly_map, image_score(anomaly_map, score.reduce), None)
