"""U-Net autoencoder, the default: reconstruction, segmentation and a memory bank in one map.

Trained on good images with drawn defects, the network learns to reconstruct the clean image and to
segment the defect. Its frozen, pretrained encoder also fills a memory bank with features of good
parts. The anomaly map is the mean of three terms, each normalised on good images.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.good_images import Fold
from data.known_defects import KnownDefect
from models.anomaly_maps import colour_map, smooth, ssim_map
from models.backbones import Backbone, build_encoder
from models.detector import Prediction, TrainedDetector
from models.drawn_defects.augmentation import augment
from models.drawn_defects.corruption import corrupt
from models.drawn_defects.pasted import PastedDefects
from models.image_score import image_score
from models.losses import ReconstructionLoss, focal_loss
from models.memory_bank import MemoryBank, distances_to, locally_aware_patches, without
from models.normalisation import Normalisation, out_of_fold_maps
from models.unet_network import LEVELS, ScratchEncoder, UNet
from utils.config import Config
from utils.errors import UserError

# Patches from which each coreset is chosen: bounds the memory of `finish`.
CANDIDATES = 100_000

# Entries of a memory bank; with whitened features fewer find as much.
BANK_PATCHES, WHITENED_PATCHES = 10_000, 3_333

# Levels of the encoder in the memory bank, strides 8 and 16: finer maps show edges only, coarser
# ones what is there, but no longer where.
BANK_LEVELS = slice(2, 4)

# Finest levels of the decoder whose skip connections are gated.
GATED_LEVELS = 2

# Pixels around a defect's pixel within which the focal loss counts how much is defect; see
# `focal_loss`. Without it thin cracks are outvoted by large stains.
FOCAL_BALANCE = 8.0


def check_size(config: Config) -> None:
    """Raise `UserError` if images, or crops, are too small for the U-Net's levels."""
    # Two pixels a side at the coarsest level: batch normalisation needs more than one.
    smallest = 2 * 2**LEVELS
    for key, side in {"data.size": min(config.data.size), "train.crop": config.train.crop}.items():
        if 0 < side < smallest:
            raise UserError(
                f"{key} of {side} pixels is too small for the U-Net; raise it to {smallest} or more"
            )


class GatedUNet(UNet):
    """U-Net that reconstructs clean images and segments what it had to change.

    Skip connections carry a defect's own detail to the decoder, which then copies it. Here a gate,
    computed from the coarse levels, closes the skip connections of the two finest levels where the
    part seems defective: skip * sigmoid(-g). What belongs there has to be inferred from the
    surroundings. The losses alone train the gate. The segmentation gets the ungated detail.

    Args:
        encoder: as of `UNet`.
        width: likewise.
    """

    def __init__(self, encoder: nn.Module, width: int) -> None:
        super().__init__(encoder, 3, 3, width)
        self.gate = nn.Conv2d(self.widths[GATED_LEVELS], 1, 1)
        self.segmentation = nn.Sequential(
            nn.Conv2d(width + self.skips[0] + 1, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, 4, 3, padding=1),
        )

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Reconstruct and segment images [B, 3, H, W] in [0, 1].

        Returns:
            Reconstruction [B, 3, H, W] in [0, 1]; segmentation logits [B, 1, H, W], high where
            defective; and the feature maps of the encoder.
        """
        skips, maps = self.encode(images)
        x = self.decode(skips[-1], skips[GATED_LEVELS:-1], finest=GATED_LEVELS)
        gate, gated = self.gate(x), []
        for skip in skips[:GATED_LEVELS]:
            resized = F.interpolate(gate, skip.shape[-2:], mode="bilinear", align_corners=False)
            gated.append(skip * torch.sigmoid(-resized))
        x = self.decode(x, gated)
        gate = F.interpolate(gate, x.shape[-2:], mode="bilinear", align_corners=False)
        logits = self.segmentation(torch.cat([x, skips[0], gate], dim=1))
        output = F.pixel_shuffle(torch.cat([self.head(x), logits], dim=1), 2)
        output = output[..., : images.shape[-2], : images.shape[-1]]
        return torch.sigmoid(output[:, :3]), output[:, 3:], maps


class UNetAutoencoder(TrainedDetector):
    """Gated U-Net on a frozen, pretrained encoder, with memory banks of the encoder's features.

    Trained on clean images alone, a network with skip connections learns to copy, defects included;
    so it is trained to undo drawn defects. A few hundred steps do not teach random weights what is
    good; on pretrained features they do.
    """

    # Names of the terms of the anomaly map.
    TERMS = ("structure", "colour", "segmentation", "distance", "whitened distance")

    # Their weights: structure and colour are the two halves of the reconstruction's term.
    WEIGHTS = (1 / 8, 1 / 8, 1 / 4, 1 / 4, 1 / 4)

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        check_size(config)
        unet = config.unet
        if unet.encoder == "scratch":
            encoder: nn.Module = ScratchEncoder(3, unet.width)
        else:
            encoder = build_encoder(unet.encoder)
        self.network = GatedUNet(encoder, unet.width)
        # One bank a level: parts that lie anywhere seldom show the same pair of both.
        channels = encoder.channels[BANK_LEVELS]
        self.banks = nn.ModuleList(
            MemoryBank(c, whiten, CANDIDATES) for whiten in (False, True) for c in channels
        )
        self.reconstruction_loss = ReconstructionLoss(config.loss)
        self.normalisation = Normalisation(len(self.TERMS), config.data)
        self.pasted: PastedDefects | None = None

    def load_pretrained(self) -> None:
        """See `Detector.load_pretrained`."""
        if isinstance(self.network.encoder, Backbone):
            self.network.encoder.load(self.config.backbone.weights)

    def take_defects(self, defects: Sequence[KnownDefect]) -> None:
        """Have the known defects pasted onto good images; see `Detector.take_defects`."""
        self.pasted = PastedDefects(defects)

    def prepare(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return corrupted images, clean images and the mask of the defects, bool [B, 1, H, W]."""
        clean = augment(images)
        kinds, valid = self.config.corruption.kinds, self.valid_mask(images)
        corrupted, mask = corrupt(clean, kinds, valid, self.pasted)
        return corrupted, clean, mask

    def loss(self, corrupted: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of the reconstruction + the focal loss of the segmentation."""
        restored, logits, _ = self.network(corrupted.contiguous(memory_format=torch.channels_last))
        segmentation = focal_loss(logits, mask, balance=FOCAL_BALANCE)
        reconstruction = self.reconstruction_loss(restored, clean, mask)
        return reconstruction + self.config.loss.focal * segmentation

    @torch.no_grad()
    def finish(self, folds: Sequence[Fold]) -> None:
        """Fill the memory banks with the encoder's features, then normalise; see `Detector`."""
        for fold in folds:
            for batch in fold:
                patches = self.patches(self.network.encoder(batch))
                for bank, features in zip(self.banks, patches, strict=True):
                    bank.collect(features, fold.number, self.valid_mask(batch))
        for bank in self.banks:
            count = WHITENED_PATCHES if bank.whiten else BANK_PATCHES
            bank.fit(min(1.0, count / len(bank.sample.rows)), by_fold=False)
        # On held-out images, if there are enough: those that the network was trained on are
        # reconstructed a little better than other good parts.
        held_out = [fold.held_out for fold in folds]
        maps = out_of_fold_maps(
            held_out, lambda images: self.raw_terms(images)[0], lambda f: without(self.banks, f)
        )
        self.normalisation.fit(maps)

    def without(self, fold: Fold) -> AbstractContextManager[None]:
        """See `Detector.without`; the network itself stays as it is."""
        return without([*self.banks, self.normalisation], fold)

    def patches(self, maps: list[Tensor]) -> list[Tensor]:
        """Return the patch features [B, C, h, w] for each memory bank, of the encoder's maps."""
        return 2 * [locally_aware_patches([layer]) for layer in maps[BANK_LEVELS]]

    def raw_terms(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the terms of the anomaly map before normalisation, and the reconstruction.

        Returns:
            [B, T, ceil(H / 2), ceil(W / 2)], see `TERMS`, and [B, 3, H, W].
        """
        restored, logits, maps = self.network(images)
        # At half the resolution grain and noise weigh less, and the maps cost a quarter.
        image, expected, logits = (
            F.avg_pool2d(m, 2, ceil_mode=True) for m in (images, restored, logits)
        )
        distances, _ = distances_to(self.banks, self.patches(maps), self.valid_mask(images))
        distances = distances.unflatten(1, (2, -1)).mean(dim=2)  # over levels: plain, whitened
        size = logits.shape[-2:]
        distances = F.interpolate(distances, size, mode="bilinear", align_corners=False)
        terms = [ssim_map(image, expected), colour_map(image, expected), logits, distances]
        sigma = self.config.score.smooth * min(size)
        return smooth(torch.cat(terms, dim=1), sigma), restored

    def terms(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normalised terms [B, T, h, w] of the anomaly map, and the reconstruction."""
        raw, restored = self.raw_terms(images)
        return self.normalisation(raw), restored

    def forward(self, images: Tensor) -> Prediction:
        """Score images by the weighted mean of the terms; see `Detector.forward`."""
        terms, restored = self.terms(images)
        weights = terms.new_tensor(self.WEIGHTS)[:, None, None]
        combined = (terms * weights).sum(dim=1, keepdim=True)
        size = images.shape[-2:]
        anomaly_map = F.interpolate(combined, size, mode="bilinear", align_corners=False)
        return Prediction(anomaly_map, image_score(anomaly_map, self.config.score.reduce), restored)
