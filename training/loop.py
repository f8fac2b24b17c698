"""Learning: a network by gradient steps, epoch by epoch, or a fitted detector in one pass."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.optim import Optimizer
from tqdm import tqdm

from data.good_images import DecodedImages, Fold, in_folds
from data.light import draw_light, relight
from data.tensors import to_batch
from models.detector import Detector, FittedDetector, TrainedDetector
from training import distributed
from training.run import Run, diverged
from utils.config import Config, TrainConfig
from utils.device import autocast
from utils.files import name_of_not_finite
from utils.interrupt import StopRequest

# Share of the epochs, the last ones, over which the learning rate falls to zero. The paper finds
# 20% enough for long trainings; ours are a few hundred steps. Until then the rate does not depend
# on the number of epochs, so that a run can be lengthened.
COOLDOWN = 0.3

# Of the mean loss of an epoch to that of the first step, above which a training has diverged.
MAX_LOSS_RATIO = 100

CPU_SIZE = 256 * 256  # pixels of an image up to which a CPU is fast enough

# Pixels that pass through the network at once on a CPU, where larger pieces gain no time: at
# 256x256 a step took as long an image for 1, 2 and 4. Batch normalisation needs some images, too.
CPU_PIXELS = 16 * 256 * 256

# The same on a GPU, which is idle in part with less: a whole batch of the defaults.
GPU_PIXELS = 24 * 512 * 512


def learning_rate(train: TrainConfig, epochs_done: float) -> float:
    """Return `train.lr`, and over the last `COOLDOWN` of the epochs a line from it to zero.

    Haegele et al., "Scaling laws and compute-optimal training beyond fixed durations", 2024.
    """
    left, cooldown = train.epochs - epochs_done, COOLDOWN * train.epochs
    return train.lr * min(1.0, left / cooldown)


def train_step(
    model: TrainedDetector, optimizer: Optimizer, batch: np.ndarray, device: torch.device, size: int
) -> float:
    """Take one optimiser step on uint8 images [B, H, W, C], in pieces of `size` images.

    Processes share the batch. Returns the loss summed over the images.
    """
    share = batch[distributed.rank() :: distributed.world_size()]
    loss_sum, sample, light = 0.0, (), model.config.data.light
    if len(share):
        images = to_batch(share, device)
        sample = model.prepare(relight(images, draw_light(len(share), light)) if light else images)
    for start in range(0, len(share), size):
        piece = [tensor[start : start + size] for tensor in sample]
        with autocast(device, model.config.train.precision):
            loss = model.loss(*piece)
        # A mean over the piece, weighted so that the gradients sum to that of the batch's mean.
        (loss * len(piece[0]) / len(batch)).backward()
        loss_sum += loss.item() * len(piece[0])
    distributed.sum_gradients(model)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    distributed.average_buffers(model)
    return distributed.total(loss_sum, device)


def train_one_epoch(
    run: Run, model: TrainedDetector, optimizer: Optimizer, images: DecodedImages, bar: StepBar
) -> bool:
    """Take the steps of an epoch that are left; returns False if the user stops it after one."""
    config, settings, progress = run.config, run.config.train, run.progress
    order = images.tile_indices(run.good.learned)
    order = order[epoch_order(config.seed, progress.epoch, len(order))]
    steps = math.ceil(len(order) / settings.batch)
    while progress.step < steps:
        at = progress.epoch, progress.step
        seed_step(config.seed, *at, distributed.rank())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, progress.epoch + progress.step / steps)
        chosen = order[progress.step * settings.batch :][: settings.batch]
        batch = random_crops(images.tiles[chosen], settings.crop, config.seed, *at)
        loss_sum = train_step(model, optimizer, batch, run.device, progress.micro_batch)
        progress.loss_sum += loss_sum
        progress.first_loss = progress.first_loss or loss_sum / len(chosen)
        if not math.isfinite(loss_sum):
            raise diverged(config, f"the loss is not finite in epoch {progress.epoch + 1}")
        progress.step += 1
        seen = min(progress.step * settings.batch, len(order))
        progress.seconds += bar.step(progress.epoch, progress.loss_sum / seen)
        if bar.stopped(run.device):
            return False
    return True


def train(run: Run, model: TrainedDetector, optimizer: Optimizer, images: DecodedImages) -> bool:
    """Train the epochs that are left, and save after each; returns False if the user stops it."""
    settings, on_cpu = run.config.train, run.device.type == "cpu"
    run.progress.micro_batch = run.progress.micro_batch or pick_micro_batch(run.config, run.device)
    run.begin(model, optimizer, f"{run.progress.micro_batch} images at once")
    count = len(images.tile_indices(run.good.learned))
    steps = math.ceil(count / settings.batch)
    done = run.progress.epoch * steps + run.progress.step
    model.train()
    slow = on_cpu and math.prod(run.config.data.size) > CPU_SIZE
    with StepBar(settings.epochs * steps, done, hint=slow) as bar:
        while run.progress.epoch < settings.epochs:
            if not train_one_epoch(run, model, optimizer, images, bar):
                run.save(model, optimizer)
                return False
            refuse_diverged(run, model, run.progress.loss_sum / count)
            bar.say(run.end_epoch(run.progress.loss_sum / count, optimizer))
            run.save(model, optimizer)
    return True


def refuse_diverged(run: Run, model: nn.Module, loss: float = 0.0) -> None:
    """Raise `UserError` if the mean loss of an epoch, or a value in the model, shows divergence.

    A finite loss proves little: batch normalisation hides the scale of the weights, and its running
    statistics enter no loss in training.
    """
    first = abs(run.progress.first_loss)
    if loss > MAX_LOSS_RATIO * max(1.0, first):  # a likelihood starts near zero, or below
        raise diverged(run.config, f"the loss rose from {first:.3g} to {loss:.3g}")
    if name := name_of_not_finite(model.state_dict()):
        raise diverged(run.config, f"values of {name} are not finite")


def fit(run: Run, model: FittedDetector, images: DecodedImages) -> bool:
    """Collect in one pass over the images, fold by fold; returns False if the user stops it.

    Nothing of a pass is saved: one that was stopped starts over.
    """
    run.begin(model, None, "one pass")
    folds = in_folds(images, run.good, run.config.train.batch, run.device)
    batches = ((fold.number, batch) for fold in folds for batch in fold)
    with StepBar(sum(map(len, folds))) as bar:
        for step, (number, batch) in enumerate(batches):
            seed_step(run.config.seed, 0, step)  # of the step alone: starting over, all is the same
            model.collect(batch, number)
            bar.step()
            if bar.stopped(run.device):
                return False
    return True


def finish(run: Run, model: Detector, folds: Sequence[Fold]) -> None:
    """Complete a detector that was trained, or has collected, by all good images."""
    seed_step(run.config.seed, run.progress.epoch or 1, 0)
    model.eval().finish(folds)
    refuse_diverged(run, model)


def pick_micro_batch(config: Config, device: torch.device) -> int:
    """Return the images, from 1 to `train.batch`, that pass through the network at once.

    "auto" follows from the size and the kind of device, not from the memory at hand: batch
    normalisation takes its statistics of the images that pass at once, so that another number
    learns something else.
    """
    train = config.train
    if train.micro_batch != "auto":
        return min(train.micro_batch, train.batch)
    pixels = CPU_PIXELS if device.type == "cpu" else GPU_PIXELS
    height, width = (train.crop, train.crop) if train.crop else config.data.size
    return max(1, min(pixels // (height * width), train.batch))


# All that is random in a step follows from the seed and the number of the step alone, so a resumed
# run needs no stored random state to go on exactly as the unbroken one.


def seed_step(seed: int, epoch: int, step: int, rank: int = 0) -> None:
    """Seed torch's generators for one step; epoch and step -1 are for the initial weights.

    Processes that train together differ in their rank, so that each draws corruption of its own.
    """
    entropy = [seed, epoch + 1, step + 1, rank]
    torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0]) >> 1)


def epoch_order(seed: int, epoch: int, count: int) -> np.ndarray:
    """Return the order in which an epoch takes `count` images: a permutation of 0 .. count - 1."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def random_crops(images: np.ndarray, side: int, seed: int, epoch: int, step: int) -> np.ndarray:
    """Return a random square of each image, uint8 [B, H, W, C], to learn from in a step.

    A convolutional network learns as much from it as from as many pixels elsewhere, and squares of
    several images teach it more than one image of the same cost. A side of 0, or of more than the
    images have, leaves them whole.

    Returns:
        uint8 [B, min(side, H), min(side, W), C].
    """
    height, width = images.shape[1:3]
    if not 0 < side < max(height, width):
        return images
    rows, columns = min(side, height), min(side, width)
    rng = np.random.default_rng([seed, epoch, step])
    tops = rng.integers(0, height - rows + 1, len(images))
    lefts = rng.integers(0, width - columns + 1, len(images))
    corners = zip(images, tops, lefts, strict=True)
    return np.stack([image[y : y + rows, x : x + columns] for image, y, x in corners])


LONG_MINUTES = 20  # a run that takes longer gets a hint at a shorter one

HINT = "without a GPU, python train.py --config configs/cpu.yaml takes a fraction of that"

WARM_UP, TIMED = 2, 4  # steps that are left out, and that are timed, to foretell the rest


class StepBar:
    """A bar that counts steps, and after the first ones prints how long the rest will take.

    Inside it (`with`), Ctrl-C lets the step under way finish.

    Args:
        total: steps of the whole run.
        done: steps of earlier starts.
        hint: whether to hint at a shorter run, if this one takes long.
    """

    def __init__(self, total: int, done: int = 0, hint: bool = False) -> None:
        self.total, self.done, self.hint, self.taken = total, done, hint, 0
        self.writes = distributed.is_writer()
        self.bar = tqdm(total=total, initial=done, unit="step", disable=not self.writes or None)
        self.stop = StopRequest("stopping after this step; Ctrl-C again to stop at once")
        self.now = self.warm = time.perf_counter()

    def __enter__(self) -> StepBar:
        self.stop.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.__exit__(*error)
        self.bar.close()

    def stopped(self, device: torch.device) -> bool:
        """Return whether the user has asked any of the processes to stop."""
        return bool(distributed.total(self.stop.requested, device))

    def step(self, epoch: int = 0, loss: float | None = None) -> float:
        """Count a step of an epoch, from 0, with the mean loss so far; returns its seconds."""
        before, self.now = self.now, time.perf_counter()
        self.done, self.taken = self.done + 1, self.taken + 1
        self.bar.update()
        self.bar.set_postfix(epoch=epoch + 1, **({} if loss is None else {"loss": loss}))
        if self.taken == WARM_UP:
            self.warm = self.now
        left = self.total - self.done
        if self.taken == WARM_UP + TIMED < left:
            minutes = round(left * (self.now - self.warm) / TIMED / 60)
            hours = f"{minutes // 60} h {minutes % 60} min"
            hint = f"; {HINT}" if self.hint and minutes > LONG_MINUTES else ""
            self.say(f"to go: about {hours if minutes >= 60 else f'{max(1, minutes)} min'}{hint}")
        return self.now - before

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.writes:
            self.bar.write(text)
