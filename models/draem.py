"""DRAEM: a network restores the image, another one says where that made a difference that counts.

Zavrtanik, Kristan and Skocaj, "DRAEM - A discriminatively trained reconstruction embedding for
surface anomaly detection", ICCV 2021.
"""

from collections.abc import Iterable

import torch
from pytorch_msssim import ssim
from torch import Tensor

from models.base import Detector, Prediction
from models.unet import RestoringUNet, UNet, check_corruption, check_depth
from models.views import corrupted_at_scales, maps_of_views, mean_over_scales, over_scales
from utils.anomaly_map import image_score, smooth
from utils.config import Config
from utils.losses import focal_loss
from utils.standardise import Standardisation


class Draem(Detector):
    """A reconstructive and a discriminative U-Net, trained together on corrupted good images.

    It differs from the paper in that both networks are the U-Net of this project with the width of
    `unet`, that the corruption is that of `corruption`: no textures from elsewhere are needed, that
    the focal loss weighs much more, so that the first network, too, learns to show the second one
    where a defect is (`loss.focal`), and that pixels of thin and small defects weigh more in it
    (`loss.balance`).
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        check_depth(config)
        check_corruption(config, "draem")
        unet = config.unet
        self.reconstructive = RestoringUNet(unet)
        self.discriminative = UNet(6, 1, unet)
        self.scale = Standardisation(len(unet.scales), config.data.size)

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """Three tensors a scale; see `corrupted_at_scales`."""
        return corrupted_at_scales(images, self.config)

    def learn(self, *sample: Tensor) -> Tensor:
        """L2 + SSIM of the reconstruction and focal loss of the segmentation, mean over the scales.

        As in the paper with `loss.focal=1 loss.balance=0`.
        """
        return mean_over_scales(self._loss, self.config.unet.scales, sample)

    def _loss(self, scale: int, corrupted: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
        restored, logits = self.restore_and_segment(corrupted, scale)
        weights = self.config.loss
        with torch.autocast(clean.device.type, enabled=False):
            restored, clean = restored.float(), clean.float()
            similarity = ssim(restored, clean, data_range=1.0)
            error = (restored - clean).square().mean()
            segmentation = focal_loss(logits, mask, balance=weights.balance)
            return error + (1 - similarity) + weights.focal * segmentation

    def restore_and_segment(self, images: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """Reconstruction [B, 3, H, W] in [0, 1] and logits of a defect [B, 1, H, W]."""
        restored, _ = self.reconstructive(images, scale)
        return restored, self.discriminative(torch.cat([images, restored], dim=1), scale)

    def segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Smoothed logits of each scale [B, S, H, W] and the first one's reconstruction."""
        return maps_of_views(images, self.config, self._smooth_logits)

    def _smooth_logits(self, images: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        restored, logits = self.restore_and_segment(images, scale)
        return smooth(logits, self.config.score.smooth / scale), restored

    def standardise(self, images: Iterable[Tensor]) -> None:
        """Mean and spread of the smoothed logits; see `Detector.standardise`."""
        self.scale.fit(self.segment(batch)[0] for batch in images)

    def forward(self, images: Tensor) -> Prediction:
        """Score images by the logits of the segmentation; see `Detector.forward`.

        Logits rank pixels as probabilities do, but do not run into 1 where both are sure.
        """
        score = self.config.score
        logits, restored = self.segment(images)
        maps = self.scale(logits, [1.0], score.standardise == "position")
        anomaly_map = over_scales(maps, score.scales)
        return Prediction(anomaly_map, image_score(anomaly_map, score.reduce), restored)
