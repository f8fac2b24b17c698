"""Learn what good parts look like.

    python train.py                                  settings of config.yaml
    python train.py --category wood --epochs 10      flags override them
    python train.py --set unet.width=16              any setting by its name
    python train.py --resume                         go on with the newest run
    torchrun --nproc-per-node 2 train.py             several processes or GPUs

Learns from <data.root>/<data.category>/train/good alone and writes checkpoints/<run>/.
"""

if __name__ == "__main__":  # before what takes long to import: Ctrl-C is quiet from here on
    from utils.interrupt import quiet_start

    quiet_start()

import argparse
from pathlib import Path

from models import build_model, refuse_unread
from utils.config import Config, TrainConfig, differences, load_config
from utils.errors import UserError, answer_early, run_script
from utils.flags import add_setting_flags, overrides_from
from utils.runs import named_checkpoint


def parse_args() -> argparse.Namespace:
    """Flags of the command line; raises `UserError` for settings that are not right."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file over config.yaml")
    add_setting_flags(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        type=named_checkpoint,
        const=Path(),
        metavar="RUN",
        help="go on with a run folder, by default the newest; --epochs may change its length",
    )
    args = parser.parse_args()
    args.settings = settings_of(args)
    return args


def settings_of(args: argparse.Namespace) -> Config:
    """The settings of a new run; of one that is resumed, the flags are checked alone.

    Raises:
        UserError: for a setting that is not right, or that the detector does not read.
    """
    if args.resume is None:
        config = load_config(args.config, overrides_from(args))
        refuse_unread(config.model, differences(load_config(), config))
        return config
    if args.config is not None:
        raise UserError("--config cannot go with --resume: the run keeps its own settings")
    return load_config(overrides=overrides_from(args))


if __name__ == "__main__":
    answer_early(parse_args)  # --help and wrong flags, before the slow imports

import math
import time
from itertools import islice

import numpy as np
import torch

from data.crops import random_crops
from data.tensors import to_batch
from data.training_set import in_folds, load_images
from inspection.calibrating import calibrate_detector
from models.detector import Detector, FittedDetector, TrainedDetector
from utils import distributed
from utils.device import autocast, pick_device, place
from utils.interrupt import StopRequest
from utils.micro_batch import pick_micro_batch
from utils.run import Run
from utils.seed import epoch_order, seed_step
from utils.step_bar import StepBar

HINT = "without a GPU, python train.py --config configs/cpu.yaml takes a fraction of that"
NOTICE = "stopping after this step; Ctrl-C again to stop at once"


def learning_rate(train: TrainConfig, epochs_done: float) -> float:
    """The learning rate once `epochs_done` epochs, a fraction counts too, are behind.

    It stays at `train.lr` and falls in a straight line to zero over the last `train.cooldown` of
    the epochs. That takes out the noise of the last steps, which a network that restores images
    would show in its heatmaps; unlike a cosine, it lets a run be lengthened until it sets in
    (Haegele et al., "Scaling laws and compute-optimal training beyond fixed training durations",
    NeurIPS 2024).
    """
    left = train.epochs - epochs_done
    span = train.cooldown * train.epochs
    return train.lr * min(1.0, left / span) if span else train.lr


def train_step(
    model: TrainedDetector,
    optimizer: torch.optim.Optimizer,
    batch: np.ndarray,
    device: torch.device,
    micro_batch: int,
) -> float:
    """One optimiser step on uint8 images [B, H, W, 3]; returns the loss summed over the images.

    Each process takes its share of the batch, and each share passes in pieces of `micro_batch`
    images, whose gradients add up to those of the whole batch.
    """
    share = batch[distributed.rank() :: distributed.world_size()]
    loss_sum = 0.0
    sample = model.prepare(to_batch(share, device)) if len(share) else ()
    for start in range(0, len(share), micro_batch):
        piece = [tensor[start : start + micro_batch] for tensor in sample]
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
    run: Run,
    model: TrainedDetector,
    optimizer: torch.optim.Optimizer,
    images: np.ndarray,
    device: torch.device,
    bar: StepBar,
    stop: StopRequest,
) -> bool:
    """The steps of an epoch that are left; False if the user stops it, after the step under way."""
    config, settings, progress = run.config, run.config.train, run.progress
    order = run.good.learned[epoch_order(config.seed, progress.epoch, len(run.good.learned))]
    steps = math.ceil(len(order) / settings.batch)
    while progress.step < steps:
        started = time.perf_counter()
        # All that is random follows from the seed and the number of the step.
        seed_step(config.seed, progress.epoch, progress.step, distributed.rank())
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(settings, progress.epoch + progress.step / steps)
        chosen = order[progress.step * settings.batch :][: settings.batch]
        moment = (config.seed, progress.epoch, progress.step)
        batch = random_crops(images[chosen], settings.crop, *moment)
        progress.loss_sum += train_step(model, optimizer, batch, device, progress.micro_batch)
        if not math.isfinite(progress.loss_sum):
            raise UserError(
                f"the loss is no longer a number in epoch {progress.epoch + 1}: training diverged; "
                f"lower train.lr, which is {settings.lr:g}"
            )
        progress.step += 1
        progress.seconds += time.perf_counter() - started
        seen = min(progress.step * settings.batch, len(order))
        bar.step(progress.epoch, progress.loss_sum / seen)
        if distributed.total(stop.requested, device):
            return False
    return True


def train(
    run: Run,
    model: TrainedDetector,
    optimizer: torch.optim.Optimizer,
    images: np.ndarray,
    device: torch.device,
) -> bool:
    """Epochs of gradient steps, each saved; False if the user stops them."""
    settings = run.config.train
    if not run.resumed:
        run.progress.micro_batch = pick_micro_batch(run.config, device)
    run.begin(model, optimizer, f"{device}, {run.progress.micro_batch} images at once")
    steps = math.ceil(len(run.good.learned) / settings.batch)
    done = run.progress.epoch * steps + run.progress.step
    hint = HINT if device.type == "cpu" and run.recipe is None else ""
    model.train()
    bar = StepBar(settings.epochs * steps, done, distributed.is_writer(), hint)
    with StopRequest(NOTICE) as stop, bar:
        while run.progress.epoch < settings.epochs:
            if not train_one_epoch(run, model, optimizer, images, device, bar, stop):
                run.save(model, optimizer)
                return False
            loss = run.progress.loss_sum / len(run.good.learned)
            run.end_epoch(loss)
            run.save(model, optimizer)
            entry = run.history[-1]
            bar.say(
                f"epoch {entry['epoch']}/{settings.epochs}  loss {loss:.5f}  "
                f"{entry['seconds']:.1f} s"
            )
    seed_step(run.config.seed, settings.epochs, 0)
    model.eval().finish(in_folds(images, run.good, run.progress.micro_batch, device))
    return True


def fit(run: Run, model: FittedDetector, images: np.ndarray, device: torch.device) -> bool:
    """One pass over the images, fold by fold; False if the user stops it."""
    progress = run.progress
    run.begin(model, None, str(device))
    if progress.epoch:  # stopped when all was collected
        return True
    folds = in_folds(images, run.good, run.config.train.batch, device)
    batches = ((number, batch) for number, fold in enumerate(folds) for batch in fold)
    bar = StepBar(sum(map(len, folds)), progress.step, distributed.is_writer())
    with StopRequest(NOTICE) as stop, bar:
        for number, batch in islice(batches, progress.step, None):
            started = time.perf_counter()
            seed_step(run.config.seed, 0, progress.step)
            model.collect(batch, number)
            progress.step += 1
            progress.seconds += time.perf_counter() - started
            bar.step(epoch=0)
            if stop.requested:
                run.save(model, None)
                return False
    seed_step(run.config.seed, 1, 0)
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
    config, device = run.config, pick_device(run.config.device)
    distributed.start(device)
    seed_step(config.seed, epoch=-1, step=-1)
    model: Detector = place(build_model(config), device)
    learns = isinstance(model, TrainedDetector)
    if not learns and distributed.world_size() > 1:
        raise UserError(f"{config.model} is fitted in one process; start it without torchrun")
    if not run.resumed:
        model.load_pretrained()
    images = load_images(run, hold_out=learns)
    optimizer = model.optimizer() if learns else None
    run.restore(model, optimizer)
    if learns:
        whole = train(run, model, optimizer, images, device)
    else:
        whole = fit(run, model, images, device)
    if not whole:
        run.say(f"stopped; go on with: python train.py --resume {run.folder}")
    elif distributed.is_writer():
        calibration = calibrate_detector(model, images, run.good, device)
        run.save(model, optimizer, calibration)
        print(calibration.promise())
        print(f"done: {run.folder}\nnext: python eval.py --checkpoint {run.folder}")
    distributed.stop()
    return 0 if whole else 130


if __name__ == "__main__":
    run_script(main)
