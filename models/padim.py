"""PaDiM: a Gaussian of features for every position; a part is strange where it lies far out.

Defard et al., "PaDiM: a patch distribution modeling framework for anomaly detection and
localization", ICPR 2020 workshops.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from models.backbones import LITE, concatenated
from models.detector import FittedDetector, Folds, Prediction
from models.feature_detector import FeatureDetector
from utils.config import Config
from utils.device import free_memory
from utils.errors import UserError

PENDING = 16
"""Images whose features are added to the statistics at a time: a product of matrices instead of
a pass over all covariances for every image."""

SHRINKAGE = 0.01
"""Share of the overall variance that is mixed into each covariance."""

POSITIONS = 256
"""Positions whose covariances are factorised at a time, in float64."""


class Padim(FeatureDetector, FittedDetector):
    """Means and covariances of P = h * w positions, d channels each, from one pass over the images.

    The statistics are Welford's, for batches (Chan, Golub and LeVeque, 1979): a running mean, and
    the sum of outer products of what deviates from it. No image is kept. It differs from the paper
    in that covariances are shrunk towards the variances that the channels have over all images and
    positions, instead of 0.01 times the identity, whose meaning hangs on the scale of the features.
    """

    def __init__(self, config: Config) -> None:
        if config.data.tile:
            raise UserError(
                "padim knows every place of a part by itself, and a tile may lie anywhere on it; "
                "take another --model, or data.tile=0"
            )
        super().__init__(config, default=LITE)
        channels = min(config.padim.channels, sum(self.backbone.channels))
        self.register_buffer("chosen", torch.zeros(0, dtype=torch.long))
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.register_buffer("mean", torch.zeros(0, channels))
        self.register_buffer("scatter", torch.zeros(0, channels, channels))
        self.register_buffer("pending", torch.zeros(0, 0, channels))
        # What `finish` makes of it: whitening[p] @ (x - mean[p]) has the Mahalanobis length of x.
        self.register_buffer("whitening", torch.zeros(0, channels, channels))
        self.register_buffer("overall", torch.zeros(channels))  # variances that are mixed in
        self.left_out: LeftOut | None = None

    def features(self, images: Tensor) -> Tensor:
        """All features of images [B, 3, H, W]: [B, C, h, w]."""
        return concatenated(self.maps(images))

    def allocate(self, image: Tensor) -> None:
        """Make room for the statistics; raises `UserError` where there is none."""
        height, width = self.features(image).shape[-2:]
        positions, channels = height * width, self.mean.shape[1]
        gib = 4 * positions * channels * (channels + PENDING + 1) / 2**30
        free = free_memory(image.device) / 2**30
        needs = f"padim needs {gib:.2f} GiB for {height}x{width} covariances of {channels} channels"
        if gib > free:
            raise UserError(
                f"{needs}, but {free:.2f} GiB are free; lower --size, or padim.channels with "
                f"--set padim.channels={max(1, int(channels * (free / gib) ** 0.5))}"
            )
        print(needs)
        self.mean = image.new_zeros(positions, channels)
        self.scatter = image.new_zeros(positions, channels, channels)
        self.pending = image.new_zeros(0, positions, channels)

    @torch.no_grad()
    def collect(self, images: Tensor, fold: int) -> None:
        """Add the features of the images to the statistics, some images at a time.

        The very first ones also decide which channels are kept.
        """
        self.keep()
        if not len(self.chosen):
            self.allocate(images[:1])
            order = torch.randperm(sum(self.backbone.channels))
            self.chosen = order[: self.mean.shape[1]].sort().values.to(images.device)
        if len(self.whitening):
            self.reopen()
        self.pending = torch.cat([self.pending, self.rows(self.features(images))])
        if len(self.pending) >= PENDING:
            self.add_pending()

    def rows(self, features: Tensor) -> Tensor:
        """The chosen channels of features [B, C, h, w] by position: [B, P, d]."""
        return features[:, self.chosen].flatten(2).transpose(1, 2)

    def add_pending(self) -> None:
        """Merge the features that are pending into mean and scatter."""
        new = len(self.pending)
        if not new:
            return
        total = int(self.count) + new
        mean = self.pending.mean(dim=0)
        step = mean - self.mean
        # The outer product of the step between the means is one more row of the deviations.
        between = step * (int(self.count) * new / total) ** 0.5
        deviations = torch.cat([self.pending - mean, between[None]]).transpose(0, 1)
        self.scatter.baddbmm_(deviations.transpose(1, 2), deviations)
        self.mean += step * (new / total)
        self.count.fill_(total)
        self.pending = self.pending[:0].clone()  # a checkpoint holds whole storages

    @torch.no_grad()
    def finish(self) -> None:
        """Turn each covariance into its whitening matrix, in float64 on the CPU, in place."""
        self.add_pending()
        freedom = max(1, int(self.count) - 1)
        within = self.scatter.diagonal(dim1=1, dim2=2).mean(dim=0) / freedom
        # Channels that are zero everywhere, as those behind a ReLU can be, say nothing.
        overall = (within + self.mean.var(dim=0, correction=0)).double().cpu()
        self.overall.copy_(overall.clamp_min(1e-6 * overall.max()).clamp_min(1e-12))
        overall = torch.diag(self.overall.cpu().double())
        identity = torch.eye(len(overall), dtype=torch.float64)
        for start in range(0, len(self.scatter), POSITIONS):
            part = self.scatter[start : start + POSITIONS]
            covariance = (1 - SHRINKAGE) * part.double().cpu() / freedom + SHRINKAGE * overall
            factor = torch.linalg.cholesky(covariance)
            part.copy_(torch.linalg.solve_triangular(factor, identity, upper=False))
        self.whitening, self.scatter = self.scatter, self.scatter[:0]

    def reopen(self) -> None:
        """Turn the whitening matrices back into what `finish` made them of, in place.

        So that no more is stored than what inference needs, for further images to be added.
        """
        freedom = max(1, int(self.count) - 1)
        overall = torch.diag(self.overall.cpu().double())
        identity = torch.eye(len(overall), dtype=torch.float64)
        for part in self.whitening.split(POSITIONS):
            factor = torch.linalg.solve_triangular(part.cpu().double(), identity, upper=False)
            covariance = factor @ factor.mT
            part.copy_((covariance - SHRINKAGE * overall) * freedom / (1 - SHRINKAGE))
        self.scatter, self.whitening = self.whitening, self.whitening[:0]

    def forward(self, images: Tensor) -> Prediction:
        """Score images by the Mahalanobis distance at every position; see `Detector.forward`."""
        features = self.features(images)
        whitened = self.whitened(features)
        if self.left_out is None:
            distances = whitened.square().sum(dim=1).sqrt()
        else:
            distances = self.left_out.distances(whitened)
        maps = distances.T.reshape(images.shape[0], 1, *features.shape[-2:])
        return self.predict(maps, images.shape[-2:])

    def whitened(self, features: Tensor) -> Tensor:
        """What features [B, C, h, w] deviate from the means, whitened: [P, d, B]."""
        deviations = (self.rows(features) - self.mean).permute(1, 2, 0)
        return torch.bmm(self.whitening, deviations)

    def leaving_out(self, folds: Folds) -> Iterator[int]:
        """Be in turn what it would be without each fold; see `Detector.leaving_out`."""
        self.keep()  # each fold is gone through twice
        try:
            for number, fold in enumerate(folds):
                if not len(fold):  # its images are gone
                    continue
                own = torch.cat([self.whitened(self.features(batch)) for batch in fold], dim=2)
                self.left_out = LeftOut(own, int(self.count))
                yield number
        finally:
            self.left_out, self.kept = None, None


class LeftOut:
    """Mahalanobis distances as they would be without some of the images, from those with them.

    Taking g of n images out of a covariance subtracts a matrix of rank g, so its inverse follows
    from the one that is there (Woodbury's identity), without fitting anew. That the others then
    weigh n / (n - g) times as much is left out: distances come out too large by half of that at
    most.

    Args:
        own: whitened deviations [P, d, g] of the images to leave out.
        count: n, of all images.
    """

    def __init__(self, own: Tensor, count: int) -> None:
        images = own.shape[2]
        others = max(2, count - images)
        self.own = own
        self.shift = own.sum(dim=2, keepdim=True) / others  # of the mean, towards those left out
        share = (1 - SHRINKAGE) / (count - 1)
        # In float64, which MPS has not.
        products = torch.bmm(own.transpose(1, 2), own).cpu().double()
        ones = torch.ones(images, images).to(products)
        identity = torch.eye(images).to(products)
        # The inverse of I + 11' / m is I - 11' / (m + g).
        inner = (identity - ones / (others + images)) / share - products
        self.inverse = torch.linalg.inv(inner).to(own)

    def distances(self, whitened: Tensor) -> Tensor:
        """Distances [P, B] of images from their whitened deviations [P, d, B]."""
        deviations = whitened + self.shift
        along = torch.bmm(self.own.transpose(1, 2), deviations)
        gained = (along * torch.bmm(self.inverse, along)).sum(dim=1)
        return (deviations.square().sum(dim=1) + gained).clamp_min(0).sqrt()
