"""DRAEM: a network restores the image, another one says where that made a difference that counts.

Zavrtanik, Kristan and Skocaj, "DRAEM - A discriminatively trained reconstruction embedding for
surface anomaly detection", ICCV 2021.
"""

import torch
from pytorch_msssim import ssim
from torch import Tensor

from models.anomaly_maps import image_score, smooth
from models.detector import Prediction, TrainedDetector
from models.drawn_defects.corruption import corrupt
from models.losses import focal_loss
from models.unet import ScratchEncoder, UNet, check_corruption, check_size
from utils.config import Config


class Draem(TrainedDetector):
    """A reconstructive and a discriminative U-Net, trained together on corrupted good images.

    It differs from the paper in that both networks are the U-Net of this project, with the width
    of `unet`, and that the corruption is that of `corruption`: no textures from elsewhere
    are needed. `draem.focal` and `draem.balance` above their defaults make the first network show
    the second one where a defect is, and thin and small defects count as much as large ones; its
    reconstruction is then no picture of a good part any more.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        check_corruption(config, "draem")
        width = config.unet.width
        check_size(config)
        self.reconstructive, self.discriminative = (
            UNet(ScratchEncoder(inputs, width), inputs, outputs, width)
            for inputs, outputs in ((3, 3), (6, 1))
        )

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """Good images [B, 3, H, W] corrupted, as they were, and where: bool [B, 1, H, W]."""
        images = images.contiguous()
        corrupted, mask = corrupt(images, self.config.corruption.kinds, self.valid_mask(images))
        return corrupted, images, mask

    def loss(self, corrupted: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
        """L2 + SSIM of the reconstruction and focal loss of the segmentation."""
        restored, logits = self.restore_and_segment(corrupted)
        weights = self.config.draem
        with torch.autocast(clean.device.type, enabled=False):
            restored, clean = restored.float(), clean.float()
            similarity = ssim(restored, clean, data_range=1.0)
            error = (restored - clean).square().mean()
            segmentation = focal_loss(logits, mask, balance=weights.balance)
            return error + (1 - similarity) + weights.focal * segmentation

    def restore_and_segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction [B, 3, H, W] in [0, 1] and logits of a defect [B, 1, H, W]."""
        restored = torch.sigmoid(self.reconstructive(images))
        return restored, self.discriminative(torch.cat([images, restored], dim=1))

    def forward(self, images: Tensor) -> Prediction:
        """Score images by the logits of the segmentation; see `Detector.forward`.

        Logits rank pixels as probabilities do, but do not run into 1 where both are sure.
        """
        restored, logits = self.restore_and_segment(images)
        anomaly_map = smooth(logits, self.config.score.smooth * min(images.shape[-2:]))
        score = image_score(anomaly_map, self.config.score.reduce)
        return Prediction(anomaly_map, score, restored)
