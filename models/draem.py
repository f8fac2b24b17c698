"""DRAEM: one network reconstructs the image, another segments the difference.

Zavrtanik, Kristan and Skocaj, "DRAEM - A discriminatively trained reconstruction embedding for
surface anomaly detection", ICCV 2021.
"""

from collections.abc import Sequence

import torch
from pytorch_msssim import ssim
from torch import Tensor

from data.known_defects import KnownDefect
from models.anomaly_maps import smooth
from models.detector import Prediction, TrainedDetector
from models.drawn_defects.corruption import corrupt
from models.drawn_defects.pasted import PastedDefects
from models.image_score import image_score
from models.losses import focal_loss
from models.unet import check_size
from models.unet_network import ScratchEncoder, UNet
from utils.config import Config

# Weight of the focal loss and its balance (see `focal_loss`) with `draem.sharper`: thin and small
# defects weigh as much as large ones.
SHARPER_FOCAL, SHARPER_BALANCE = 100.0, 8.0


class Draem(TrainedDetector):
    """Reconstructive and discriminative U-Net, trained together on good images with drawn defects.

    It differs from the paper in that both networks are the U-Net of this project, and that the
    defects are those of `corruption.kinds`, which need no textures of another data set. With
    `draem.sharper` the first network marks the defect for the second one, so that its
    reconstruction is no picture of a good part any more.
    """

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        check_size(config)
        width = config.unet.width
        self.reconstructive, self.discriminative = (
            UNet(ScratchEncoder(inputs, width), inputs, outputs, width)
            for inputs, outputs in ((3, 3), (6, 1))
        )
        sharper = config.draem.sharper
        self.pasted: PastedDefects | None = None
        self.focal, self.balance = (SHARPER_FOCAL, SHARPER_BALANCE) if sharper else (1.0, 0.0)

    def take_defects(self, defects: Sequence[KnownDefect]) -> None:
        """Have the known defects pasted onto good images; see `Detector.take_defects`."""
        self.pasted = PastedDefects(defects)

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return corrupted images, clean images and the mask of the defects, bool [B, 1, H, W]."""
        images = images.contiguous()
        kinds, valid = self.config.corruption.kinds, self.valid_mask(images)
        corrupted, mask = corrupt(images, kinds, valid, self.pasted)
        return corrupted, images, mask

    def loss(self, corrupted: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
        """Return L2 + SSIM of the reconstruction + focal loss of the segmentation (equation 3)."""
        restored, logits = self.restore_and_segment(corrupted)
        with torch.autocast(clean.device.type, enabled=False):
            restored, clean = restored.float(), clean.float()
            similarity = ssim(restored, clean, data_range=1.0)
            error = (restored - clean).square().mean()
            segmentation = focal_loss(logits, mask, balance=self.balance)
            return error + (1 - similarity) + self.focal * segmentation

    def restore_and_segment(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the reconstruction [B, 3, H, W] in [0, 1] and segmentation logits [B, 1, H, W]."""
        restored = torch.sigmoid(self.reconstructive(images))
        return restored, self.discriminative(torch.cat([images, restored], dim=1))

    def forward(self, images: Tensor) -> Prediction:
        """Score images by the segmentation logits; see `Detector.forward`."""
        # Logits rank pixels as probabilities do, but do not saturate at 1.
        restored, logits = self.restore_and_segment(images)
        anomaly_map = smooth(logits, self.config.score.smooth * min(images.shape[-2:]))
        score = image_score(anomaly_map, self.config.score.reduce)
        return Prediction(anomaly_map, score, restored)
