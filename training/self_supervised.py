"""Self-supervised learning on unlabelled photographs: VICReg.

Bardes, Ponce and LeCun, "VICReg: Variance-invariance-covariance regularization for self-supervised
learning", ICLR 2022, https://arxiv.org/abs/2105.04906. Of the methods without negative examples,
and hence without large batches, it is the one whose loss rises when the embeddings of all images
become equal, so that a collapse shows.
"""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import update_bn
from torchvision.transforms import v2

from data.tensors import to_batch
from models.backbones import Backbone
from training.loop import StepBar, epoch_order, random_crops, seed_step
from training.run import diverged
from utils.config import Config
from utils.device import autocast
from utils.errors import UserError
from utils.files import name_of_not_finite, replacing

# Dimensions of an embedding.
EMBEDDING = 512

# Weights of the terms, the paper's.
INVARIANCE, VARIANCE, COVARIANCE = 25.0, 25.0, 1.0

# Batches that batch normalisation takes its final statistics of: means and variances of that many
# images hardly change with more.
MAX_STATISTICS_BATCHES = 32

# Of the mean loss of an epoch to that of the first step, above which a training has diverged.
MAX_LOSS_RATIO = 10.0


def vicreg_loss(first: Tensor, second: Tensor) -> Tensor:
    """Return the loss, 0-dim, of embeddings [B, D] of two views of the same B images, B from 2."""
    # Invariance: the views of an image should have the same embedding.
    loss = INVARIANCE * F.mse_loss(first, second)
    for embedded in (first, second):
        # Variance: each dimension should have a standard deviation of at least 1 in the batch.
        std = (embedded.var(dim=0) + 1e-4).sqrt()  # the root of zero has no gradient
        loss = loss + VARIANCE / 2 * F.relu(1 - std).mean()
        # Covariance: the dimensions should be uncorrelated.
        covariance = embedded.T.cov()
        off_diagonal = covariance.square().sum() - covariance.diagonal().square().sum()
        loss = loss + COVARIANCE * off_diagonal / embedded.shape[1]
    return loss


def view(images: Tensor) -> Tensor:
    """Return a random view of each of the images [B, 3, H, W] in [0, 1], at the same size."""
    # Milder than the paper, which also removes colour and most of an image: films of oil differ
    # from the part by their colour, and positions on a part should stay distinct.
    augment = v2.Compose(
        [
            v2.RandomResizedCrop(images.shape[-2:], scale=(0.5, 1.0), ratio=(0.8, 1.25)),
            v2.RandomHorizontalFlip(),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.1, hue=0.02),
            v2.RandomApply([v2.GaussianBlur(5, (0.1, 1.5))], p=0.3),
        ]
    )
    return torch.stack([augment(image) for image in images])  # one draw would serve the whole batch


class SelfSupervised(nn.Module):
    """A backbone that learns, with the head that embeds the mean features of its last layer.

    Args:
        encoder: the backbone; no longer frozen from here on.
    """

    def __init__(self, encoder: Backbone) -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(True)
        # The head is not kept: what the loss makes invariant is lost in it more than before it.
        widths, layers = (encoder.channels[-1], EMBEDDING, EMBEDDING), []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs, bias=False), nn.BatchNorm1d(outputs), nn.ReLU()]
        self.head = nn.Sequential(*layers, nn.Linear(EMBEDDING, EMBEDDING))

    def train(self, mode: bool = True) -> "SelfSupervised":
        """Set the mode as of any module."""
        super().train(mode)
        self.encoder.network.train(mode)  # which stays in evaluation mode anywhere else
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Return embeddings [B, EMBEDDING] of images [B, 3, H, W] in [0, 1]."""
        return self.head(self.encoder.features(images)[-1].mean(dim=(2, 3)))


def learn(model: SelfSupervised, images: np.ndarray, config: Config, file: Path) -> bool:
    """Train on uint8 images [N, H, W, 3] and write the weights after each epoch.

    Returns:
        False if the user stopped it; the weights are then those of the last step.

    Raises:
        UserError: if the training diverged; the file is then removed.
    """
    try:
        whole = _epochs(model, images, config, file)
        # The running statistics lag behind the weights, and are of views: detectors see none.
        batches = full_batches(config, config.train.epochs, len(images))[:MAX_STATISTICS_BATCHES]
        device = next(model.parameters()).device
        update_bn((to_batch(images[batch], device) for batch in batches), model)
        write_weights(model.encoder, config, file)
    except UserError:
        # The weights of earlier epochs were on the way there.
        file.unlink(missing_ok=True)
        raise
    return whole


def _epochs(model: SelfSupervised, images: np.ndarray, config: Config, file: Path) -> bool:
    train, device = config.train, next(model.parameters()).device
    steps = train.epochs * len(full_batches(config, 0, len(images)))
    optimizer = torch.optim.Adam(model.parameters(), train.lr)
    schedule = OneCycleLR(optimizer, train.lr, total_steps=steps)
    model.train()
    start = 0.0  # loss of the first step
    with StepBar(steps) as bar:
        for epoch in range(train.epochs):
            losses = []
            for step, batch in enumerate(full_batches(config, epoch, len(images))):
                seed_step(config.seed, epoch, step)
                crops = random_crops(images[batch], train.crop, config.seed, epoch, step)
                pixels = to_batch(crops, device)
                with autocast(device, train.precision):
                    first, second = (model(view(pixels)) for _ in range(2))
                # In float32: the variance of embeddings in half precision is too coarse.
                loss = vicreg_loss(first.float(), second.float())
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise diverged(config, f"the loss is not finite in epoch {epoch + 1}")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.step(epoch, np.mean(losses))
                if bar.stopped(device):
                    return False
            bar.say(f"epoch {epoch + 1}/{train.epochs}  loss {np.mean(losses):.3f}")
            start = start or losses[0]
            if np.mean(losses) > MAX_LOSS_RATIO * start:
                raise diverged(config, f"the loss rose from {start:.3g} to {np.mean(losses):.3g}")
            write_weights(model.encoder, config, file)
    return True


def full_batches(config: Config, epoch: int, count: int) -> np.ndarray:
    """Return indices of `count` images in random order, [steps, batch], the rest left out.

    Fewer images than a batch are repeated.
    """
    size = config.train.batch
    return np.resize(epoch_order(config.seed, epoch, count), (max(1, count // size), size))


def write_weights(encoder: Backbone, config: Config, file: Path) -> None:
    """Write what `backbone.weights` reads; a kill on the way leaves the file as it was.

    Raises:
        UserError: if a value is not finite, as those of batch normalisation may be though the loss,
            which does not depend on the running statistics, is.
    """
    state = encoder.network.state_dict()
    if name := name_of_not_finite(state):
        raise diverged(config, f"values of {name} are not finite")
    with replacing(file) as stream:
        torch.save(state, stream)
