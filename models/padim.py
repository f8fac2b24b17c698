"""PaDiM: a Gaussian of features at every position, and the Mahalanobis distance to it.

Defard et al., "PaDiM: a patch distribution modeling framework for anomaly detection and
localization", ICPR 2020 workshops.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from data.good_images import Fold
from models.backbones import LITE, concatenated
from models.detector import FittedDetector, Prediction
from models.feature_detector import FeatureDetector
from utils.config import Config
from utils.device import free_memory
from utils.errors import UserError

# Images whose features are added to the statistics at a time: a matrix product in place of a pass
# over all covariances for every image.
BATCH = 16

# Weight of the overall variances in each covariance.
SHRINKAGE = 0.01

# Positions whose covariances are factorised at a time, in float64.
POSITIONS = 256


class Padim(FeatureDetector, FittedDetector):
    """Means and covariances of d channels at P = h * w positions, from one pass over the images.

    No image is kept: the statistics are Welford's, for batches (Chan, Golub and LeVeque, 1979). It
    differs from the paper in that covariances are shrunk towards the overall variances of the
    channels, not by 0.01 times the identity, whose weight depends on the scale of the features.
    """

    def __init__(self, config: Config) -> None:
        if config.data.tile:
            raise UserError(
                "padim has a Gaussian for every position of a part, and a tile may lie anywhere on "
                "it; take another --model, or data.tile=0"
            )
        if config.data.limit == 1:  # one image has no variance
            raise UserError("padim needs two good images at least, but data.limit is 1; raise it")
        super().__init__(config, default=LITE)
        channels = min(config.padim.channels, sum(self.backbone.channels))
        self.register_buffer("chosen", torch.zeros(0, dtype=torch.long))  # channels that are kept
        self.register_buffer("count", torch.zeros((), dtype=torch.long))  # images
        self.register_buffer("mean", torch.zeros(0, channels))
        # |whitening[p] @ (x - mean[p])| is the Mahalanobis distance of x at position p.
        self.register_buffer("whitening", torch.zeros(0, channels, channels))
        # Until `finish`: sums of outer products of the deviations, and features not yet in them.
        self._scatter = self._pending = torch.zeros(0)
        self._downdate: Downdate | None = None  # set by `without`

    def joined_features(self, images: Tensor) -> Tensor:
        """Return the features of all layers of images [B, 3, H, W]: [B, C, h, w]."""
        return concatenated(list(self.features(images)))

    def by_position(self, features: Tensor) -> Tensor:
        """Return the chosen channels of features [B, C, h, w] by position: [B, P, d]."""
        return features[:, self.chosen].flatten(2).transpose(1, 2)

    def _allocate(self, features: Tensor) -> None:
        """Choose the channels and allocate the statistics; raise `UserError` without memory."""
        height, width = features.shape[-2:]
        positions, channels = height * width, self.mean.shape[1]
        gib = 4 * positions * channels * (channels + BATCH + 1) / 2**30
        free = free_memory(features.device) / 2**30
        needs = f"padim needs {gib:.2f} GiB for {height}x{width} covariances of {channels} channels"
        if gib > free:
            raise UserError(
                f"{needs}, but {free:.2f} GiB are free; lower --size, or padim.channels with "
                f"--set padim.channels={max(1, int(channels * (free / gib) ** 0.5))}"
            )
        print(needs)
        # A random subset of the channels, as in the paper (section 3.3).
        self.chosen = torch.randperm(features.shape[1])[:channels].sort().values.to(features.device)
        self.mean = features.new_zeros(positions, channels)
        self._scatter = features.new_zeros(positions, channels, channels)
        self._pending = features.new_zeros(0, positions, channels)

    @torch.no_grad()
    def collect(self, images: Tensor, fold: int) -> None:
        """Add the features of the images to the statistics, `BATCH` images at a time."""
        features = self.joined_features(images)
        if not len(self.chosen):
            self._allocate(features)
        self._pending = torch.cat([self._pending, self.by_position(features)])
        if len(self._pending) >= BATCH:
            self._add_pending()

    def _add_pending(self) -> None:
        """Merge the pending features into mean and scatter."""
        new = len(self._pending)
        if not new:
            return
        total = int(self.count) + new
        mean = self._pending.mean(dim=0)
        step = mean - self.mean
        # S += sum (x - mean_new)(x - mean_new)' + n m / (n + m) step step': the second term is
        # one more row of deviations.
        between = step * (int(self.count) * new / total) ** 0.5
        deviations = torch.cat([self._pending - mean, between[None]]).transpose(0, 1)
        self._scatter.baddbmm_(deviations.transpose(1, 2), deviations)
        self.mean += step * (new / total)
        self.count.fill_(total)
        self._pending = self._pending[:0]

    @torch.no_grad()
    def finish(self, folds: Sequence[Fold]) -> None:
        """Factorise each covariance, in place; see `Detector.finish`."""
        self._add_pending()
        freedom = max(1, int(self.count) - 1)
        within = self._scatter.diagonal(dim1=1, dim2=2).mean(dim=0) / freedom
        # On the CPU, since MPS has no float64.
        overall = (within + self.mean.var(dim=0, correction=0)).double().cpu()
        # Channels that are zero everywhere, as behind a ReLU, have no variance to divide by.
        overall = torch.diag(overall.clamp_min(1e-6 * overall.max()).clamp_min(1e-12))
        identity = torch.eye(len(overall), dtype=torch.float64)
        for part in self._scatter.split(POSITIONS):
            covariance = (1 - SHRINKAGE) * part.double().cpu() / freedom + SHRINKAGE * overall
            # C = L L', so |L^-1 (x - mean)| is the Mahalanobis distance.
            factor = torch.linalg.cholesky(covariance)
            part.copy_(torch.linalg.solve_triangular(factor, identity, upper=False))
        self.whitening, self._scatter = self._scatter, torch.zeros(0)

    def whitened(self, features: Tensor) -> Tensor:
        """Return the whitened deviations of features [B, C, h, w] from the means: [P, d, B]."""
        deviations = (self.by_position(features) - self.mean).permute(1, 2, 0)
        return torch.bmm(self.whitening, deviations)

    def forward(self, images: Tensor) -> Prediction:
        """Score images by the Mahalanobis distance at every position; see `Detector.forward`."""
        features = self.joined_features(images)
        whitened = self.whitened(features)
        if self._downdate is None:
            distances = whitened.square().sum(dim=1).sqrt()
        else:
            distances = self._downdate.distances(whitened)
        maps = distances.T.reshape(images.shape[0], 1, *features.shape[-2:])
        return self.predict(maps, images.shape[-2:])

    @contextmanager
    def without(self, fold: Fold) -> Iterator[None]:
        """See `Detector.without`; a closed form, nothing is fitted."""
        own = [self.whitened(self.joined_features(batch)) for batch in fold]
        self._downdate = Downdate(torch.cat(own, dim=2), int(self.count))
        try:
            yield
        finally:
            self._downdate = None


class Downdate:
    """Mahalanobis distances without g of the n images, from the covariance of all.

    Without them the covariance loses a matrix of rank g, so its inverse follows by Woodbury's
    identity. Left out is that the other images then weigh n / (n - g) times as much: distances come
    out too large by half of that at most.

    Args:
        own: whitened deviations [P, d, g] of the images to leave out.
        count: n.
    """

    def __init__(self, own: Tensor, count: int) -> None:
        images = own.shape[2]
        others = max(2, count - images)
        self.own = own
        self.shift = own.sum(dim=2, keepdim=True) / others  # of the mean, towards those left out
        weight = (1 - SHRINKAGE) / (count - 1)
        # On the CPU, since MPS has no float64.
        products = torch.bmm(own.transpose(1, 2), own).cpu().double()
        ones = torch.ones(images, images).to(products)
        identity = torch.eye(images).to(products)
        # The inverse of I + 11' / m is I - 11' / (m + g), for m other images.
        inner = (identity - ones / (others + images)) / weight - products
        self.inverse = torch.linalg.inv(inner).to(own)

    def distances(self, whitened: Tensor) -> Tensor:
        """Return distances [P, B] of images from their whitened deviations [P, d, B]."""
        deviations = whitened + self.shift
        along = torch.bmm(self.own.transpose(1, 2), deviations)
        gained = (along * torch.bmm(self.inverse, along)).sum(dim=1)
        return (deviations.square().sum(dim=1) + gained).clamp_min(0).sqrt()
