"""Learn what good parts look like.

    python train.py                                  by config.yaml
    python train.py --category tile,wood --set unet.width=16     flags override it
    python train.py --resume                         go on with the newest run
    python train.py --add good/ --resume RUN         more good images for a finished run
    torchrun --nproc-per-node 2 train.py             several processes or GPUs

Learns from train/good of each category alone, and writes checkpoints/<run>/.
"""

if __name__ == "__main__":  # before what takes long to import: Ctrl-C is quiet from here on
    from utils.interrupt import quiet_start

    quiet_start()

import argparse

from models import build_model, refuse_unread
from training.folders import add_run_flags
from utils.config import TrainConfig, differences, load_config
from utils.errors import UserError, answer_early, run_script
from utils.flags import add_setting_flags, overrides_from, script_parser


def parse_args() -> argparse.Namespace:
    """Flags of the command line, and settings; raises `UserError` for those that are not right."""
    parser = script_parser(__doc__)
    add_setting_flags(parser)
    add_run_flags(parser)
    args = parser.parse_args()
    is_new = args.resume is None and not args.add
    if args.config is not None and not is_new:
        raise UserError("--config cannot go with --resume: the run keeps its own settings")
    args.settings = load_config(args.config, overrides_from(args))
    if is_new:
        refuse_unread(args.settings.model, differences(load_config(), args.settings))
    return args


if __name__ == "__main__":
    answer_early(parse_args)  # --help and wrong flags, before the slow imports

import math
from itertools import islice

import numpy as np
import torch
from torch.optim import Optimizer

from data.cache import DecodedImages
from data.tensors import to_batch
from data.training_set import in_folds, load_images
from inspection.calibration import calibrate_detector
from inspection.log_panels import log_panels
from inspection.threshold import promises
from models.detector import Detector, FittedDetector, TrainedDetector
from training import distributed
from training.batch_size import pick_micro_batch
from training.progress_bar import StepBar
from training.run import Run
from training.seed import epoch_order, random_crops, seed_step
from utils.device import autocast, place


def learning_rate(train: TrainConfig, epochs_done: float) -> float:
    """Constant at `train.lr`, then straight to zero over the last `train.cooldown` of the epochs.

    Haegele et al., "Scaling laws and compute-optimal training beyond fixed durations", 2024.
    """
    left, span = train.epochs - epochs_done, train.cooldown * train.epochs
    return train.lr * min(1.0, left / span) if span else train.lr


def train_step(
    model: TrainedDetector, optimizer: Optimizer, batch: np.ndarray, device: torch.device, size: int
) -> float:
    """One optimiser step on uint8 images [B, H, W, 3]; returns the loss summed over the images.

    Processes share the batch, and a share passes in pieces of `size`; the gradients add up.
    """
    share = batch[distributed.rank() :: distributed.world_size()]
    loss_sum, sample = 0.0, model.prepare(to_batch(share, device)) if len(share) else ()
    for start in range(0, len(share), size):
        piece = [tensor[start : start + size] for tensor in sample]
        with autocast(device, model.config.train.precision):
            loss = model.loss(*piece)
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
    """The steps of an epoch that are left; False if the user stops it, after the step under way."""
    config, settings, progress = run.config, run.config.train, run.progress
    order = images.places(run.good.learned)
    order = order[epoch_order(config.seed, progress.epoch, len(order))]
    steps = math.ceil(len(order) / settings.batch)
    while progress.step < steps:
        seed_step(config.seed, *progress.at, distributed.rank())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, progress.epoch + progress.step / steps)
        chosen = order[progress.step * settings.batch :][: settings.batch]
        batch = random_crops(images.tiles[chosen], settings.crop, config.seed, *progress.at)
        progress.loss_sum += train_step(model, optimizer, batch, run.device, progress.micro_batch)
        if not math.isfinite(progress.loss_sum):
            raise UserError(
                f"the loss is no longer a number in epoch {progress.epoch + 1}: training diverged; "
                f"lower train.lr, which is {settings.lr:g}"
            )
        progress.step += 1
        seen = min(progress.step * settings.batch, len(order))
        progress.seconds += bar.step(progress.epoch, progress.loss_sum / seen)
        if bar.stopped(run.device):
            return False
    return True


def train(run: Run, model: TrainedDetector, optimizer: Optimizer, images: DecodedImages) -> bool:
    """Epochs of gradient steps, each saved; False if the user stops them."""
    settings = run.config.train
    run.progress.micro_batch = run.progress.micro_batch or pick_micro_batch(run.config, run.device)
    run.begin(model, optimizer, f"{run.progress.micro_batch} images at once")
    count = len(images.places(run.good.learned))
    steps = math.ceil(count / settings.batch)
    done = run.progress.epoch * steps + run.progress.step
    model.train()
    with StepBar(settings.epochs * steps, done, run.may_be_slow) as bar:
        while run.progress.epoch < settings.epochs:
            if not train_one_epoch(run, model, optimizer, images, bar):
                run.save(model, optimizer)
                return False
            bar.say(run.end_epoch(run.progress.loss_sum / count, optimizer))
            run.save(model, optimizer)
    seed_step(run.config.seed, settings.epochs, 0)
    model.eval().finish(in_folds(images, run.good, run.progress.micro_batch, run.device))
    return True


def fit(run: Run, model: FittedDetector, images: DecodedImages) -> bool:
    """One pass over the images, fold by fold; False if the user stops it."""
    progress = run.progress
    run.begin(model, None, "one pass")
    if run.known == len(run.good.names):  # stopped when all was collected
        return True
    folds = in_folds(images, run.good, run.config.train.batch, run.device, run.known)
    batches = ((number, batch) for number, fold in enumerate(folds) for batch in fold)
    with StepBar(sum(map(len, folds)), progress.step) as bar:
        for number, batch in islice(batches, progress.step, None):
            seed_step(run.config.seed, 2 * progress.epoch, progress.step)
            model.collect(batch, number)
            progress.step += 1
            progress.seconds += bar.step(progress.epoch)
            if bar.stopped(run.device):
                run.save(model, None)
                return False
    seed_step(run.config.seed, 2 * progress.epoch + 1, 0)
    model.finish()
    run.end_epoch()
    run.save(model, None)
    return True


def main() -> int:
    """Train or fit, set the verdict and save; returns the exit status."""
    args = parse_args()
    run = Run.named(args)
    if run.complete:
        print(f"{run.folder} is finished; --epochs lengthens a training")
        return 0
    distributed.start(run.device)
    seed_step(run.config.seed, epoch=-1, step=-1)
    model: Detector = place(build_model(run.config), run.device)
    learns = isinstance(model, TrainedDetector)
    if not run.resumed:
        model.load_pretrained()
    images = load_images(run, hold_out=learns)
    optimizer = model.optimizer() if learns else None
    run.restore(model, optimizer)
    whole = train(run, model, optimizer, images) if learns else fit(run, model, images)
    if not whole:
        run.say(f"stopped; {run.way_on}")
    elif distributed.is_writer():
        calibrations = calibrate_detector(model, images, run.good, run.device, run.calibrations)
        run.save(model, optimizer, calibrations)
        log_panels(run)
        print(f"{promises(calibrations)}\nnext: python eval.py --checkpoint {run.folder}")
    distributed.stop()
    return 0 if whole else 130


if __name__ == "__main__":
    run_script(main)
