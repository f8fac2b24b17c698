"""Learn what good parts look like.

    python train.py                                  settings of config.yaml
    python train.py --category wood --epochs 10      flags override them
    python train.py --set unet.width=16              any setting by its name
    python train.py --resume                         go on with the newest run
    torchrun --nproc-per-node 2 train.py             several processes or GPUs

Learns from <data.root>/<data.category>/train/good alone and writes checkpoints/<run>/.
"""

import argparse
import json
import math
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from data.cache import decode_all
from data.crops import random_crops
from data.mvtec import Category, split_holdout
from data.on_demand import OnDemand
from data.tensors import to_batch
from models import Detector, build_model
from utils import distributed
from utils.batches import batches
from utils.calibration import Calibration, calibrate
from utils.checkpoint import (
    Checkpoint,
    Progress,
    load_checkpoint,
    save_checkpoint,
)
from utils.config import (
    Config,
    TrainConfig,
    add_setting_flags,
    load_config,
    overrides_from,
    resumed_config,
)
from utils.cross_fit import parts
from utils.device import autocast, pick_device, place
from utils.errors import UserError, run_script
from utils.files import write_whole
from utils.interrupt import StopRequest
from utils.memory import peak_mib
from utils.micro_batch import pick_inference_batch, pick_micro_batch
from utils.runs import find_run, new_run
from utils.seed import epoch_order, seed_step

RECIPE = "configs/cpu.yaml"
PATIENCE = 20  # minutes that a run may take without a hint at RECIPE
WARM_UP, TIMED = 2, 4  # steps that are left out, and that are timed, to foretell the rest


def parse_args() -> argparse.Namespace:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file over config.yaml")
    add_setting_flags(parser)
    parser.add_argument(
        "--resume",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="RUN",
        help="go on with a run folder, by default the newest; --epochs may change its length",
    )
    return parser.parse_args()


def start_or_resume(args: argparse.Namespace) -> tuple[Path, Checkpoint | None, Config]:
    """The run's folder, the checkpoint to resume (None for a new run) and the settings."""
    overrides = overrides_from(args)
    if args.resume is None:
        config = load_config(args.config, overrides)
        return Path(), None, config
    if args.config is not None:
        raise UserError("--config cannot go with --resume: the run keeps its own settings")
    named = None if args.resume == Path() else args.resume
    file = find_run(named, overrides.get("data.category"), overrides.get("model"))
    checkpoint = load_checkpoint(file)
    return file.parent, checkpoint, resumed_config(checkpoint.config, overrides)


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
    model: Detector,
    optimizer: torch.optim.Optimizer | None,
    batch: np.ndarray,
    device: torch.device,
    progress: Progress,
) -> float:
    """One optimiser step on uint8 images [B, H, W, 3]; returns the loss summed over the images.

    Each process takes its share of the batch, and each share passes in pieces of
    `progress.micro_batch` images, whose gradients add up to those of the whole batch.
    """
    share = batch[distributed.rank() :: distributed.world_size()]
    loss_sum = 0.0
    sample = model.prepare(to_batch(share, device)) if len(share) else ()
    # What is collected is compared at inference, which is in float32.
    precision = "float32" if optimizer is None else model.config.train.precision
    for start in range(0, len(share), progress.micro_batch):
        piece = [tensor[start : start + progress.micro_batch] for tensor in sample]
        with autocast(device, precision):
            loss = model.learn(*piece)
        if loss is not None:
            (loss * len(piece[0]) / len(batch)).backward()
            loss_sum += loss.item() * len(piece[0])
    if optimizer is not None:
        distributed.sum_gradients(model)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        distributed.average_buffers(model)
    return distributed.total(loss_sum, device)


def in_batches(
    images: np.ndarray | OnDemand, numbers: Iterable[int], size: int, device: torch.device
) -> Iterator[Tensor]:
    """Images of these numbers, `size` at a time: [size, 3, H, W] float in [0, 1] on the device."""
    for group in batches(numbers, size):
        pixels = images[np.array(group)]
        if len(pixels):  # files that cannot be read are left out
            yield to_batch(pixels, device)


@torch.inference_mode()
def calibrate_on(model: Detector, images: np.ndarray, device: torch.device) -> Calibration:
    """Scale of the map, threshold and display range from held-out good images, uint8 [N, H, W, 3].

    The threshold rests on scores by a scale that was set without the image in question.
    """
    model.eval()
    at_once = pick_inference_batch("auto", model, device)

    def predictions() -> Iterator[tuple[Tensor, Tensor]]:
        for others, own in parts(len(images)):
            model.standardise(in_batches(images, others, at_once, device))
            for batch in in_batches(images, own, at_once, device):
                prediction = model(batch)
                yield prediction.anomaly_map, prediction.score
                bar.update(len(batch))

    with tqdm(desc="calibrating", total=len(images), unit="image", disable=None) as bar:
        calibration = calibrate(predictions(), model.config.calibration.quantile)
    model.standardise(in_batches(images, range(len(images)), at_once, device))
    return calibration


def outlook(seconds: float, hint: bool) -> str:
    """How long a run goes on, in words; with a hint at `RECIPE` if that is long."""
    minutes = round(seconds / 60)
    text = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(1, minutes)} min"
    if hint and minutes > PATIENCE:
        text += f"; without a GPU, python train.py --config {RECIPE} takes a fraction of that"
    return f"to go: about {text}"


def main() -> int:
    """Train, calibrate and save; returns the exit status."""
    args = parse_args()
    run, checkpoint, config = start_or_resume(args)
    device = pick_device(config.device)
    distributed.start(device)
    writer = distributed.is_writer()

    # 1. Detector, with random weights but for those that it builds upon.
    seed_step(config.seed, epoch=-1, step=-1)
    model = place(build_model(config), device)
    if checkpoint is None:
        model.load_pretrained()
    if model.sweeps is not None and distributed.world_size() > 1:
        raise UserError(f"{config.model} is fitted in one process; start it without torchrun")

    # 2. Data: a share of it held out for calibration. Decoded once, if there are many epochs.
    paths = Category(config.data.root, config.data.category).train_images()
    train_paths, held_out_paths = split_holdout(
        paths, config.calibration.holdout, config.seed, config.data.limit
    )
    cache_gib = config.data.cache_gib
    if model.sweeps is None:
        images = decode_all(train_paths, config.data.size, cache_gib, quiet=not writer)
    else:
        images = OnDemand(train_paths, config.data.size)
    held_out = decode_all(held_out_paths, config.data.size, cache_gib, quiet=not writer)

    # 3. The run: new, or as the checkpoint left it.
    optimizer = model.optimizer()
    crop = config.train.crop if model.sweeps is None else 0  # features want whole images
    progress, history, finished = Progress(), [], False
    if checkpoint is not None:
        model.load_state_dict(checkpoint.model)
        if optimizer is not None:
            optimizer.load_state_dict(checkpoint.optimizer)
        progress, history = checkpoint.progress, checkpoint.history
        finished = checkpoint.calibration is not None
        if progress.images != len(images):
            raise UserError(
                f"this run learns from {progress.images} images, but {paths[0].parent} now gives "
                f"{len(images)}; restore them, or leave out --resume to start a new run"
            )
    else:
        progress.images = len(images)
        probe = to_batch(random_crops(images[:1], crop, config.seed, 0, 0), device)
        fitting = pick_micro_batch(config.train.micro_batch, model, probe, config.train.batch)
        progress.micro_batch = distributed.smallest(fitting, device)
        run = new_run(config) if writer else run

    def save(calibration: Calibration | None = None) -> None:
        if writer:
            state = None if optimizer is None else optimizer.state_dict()
            save_checkpoint(
                run, Checkpoint(config, model.state_dict(), state, progress, history, calibration)
            )

    epochs = model.epochs
    steps = -(-len(images) // config.train.batch)
    if writer:
        print(
            f"{config.model} on {config.data.category}: {len(images)} good images, "
            f"{len(held_out)} more to calibrate, {config.data.size[0]}x{config.data.size[1]}, "
            f"{device}, {progress.micro_batch} of {config.train.batch} at once -> {run}"
        )
    if checkpoint is None:
        save()

    # 4. Epochs.
    bar = tqdm(
        total=epochs * steps,
        initial=progress.epoch * steps + progress.step,
        unit="step",
        disable=not writer or None,
    )
    model.train()
    taken: list[float] = []  # seconds of each step
    with StopRequest("stopping after this step; Ctrl-C again to stop at once") as stop:
        while progress.epoch < epochs:
            order = epoch_order(config.seed, progress.epoch, len(images))
            while progress.step < steps:
                started = time.perf_counter()
                seed_step(config.seed, progress.epoch, progress.step, distributed.rank())
                finished = False
                first = progress.step * config.train.batch
                chosen = order[first : first + config.train.batch]
                batch = random_crops(
                    images[chosen], crop, config.seed, progress.epoch, progress.step
                )
                if optimizer is not None:
                    for group in optimizer.param_groups:
                        group["lr"] = learning_rate(
                            config.train, progress.epoch + progress.step / steps
                        )
                progress.loss_sum += train_step(model, optimizer, batch, device, progress)
                if not math.isfinite(progress.loss_sum):
                    raise UserError(
                        f"the loss is no longer a number in epoch {progress.epoch + 1}: training "
                        f"diverged; lower train.lr, which is {config.train.lr:g}"
                    )
                progress.step += 1
                progress.seconds += time.perf_counter() - started
                bar.update()
                taken.append(time.perf_counter() - started)
                left = (epochs - progress.epoch) * steps - progress.step
                if writer and len(taken) == WARM_UP + TIMED < left:
                    hint = device.type == "cpu" and args.config is None
                    print(outlook(left * sum(taken[WARM_UP:]) / TIMED, hint))
                bar.set_postfix(
                    epoch=progress.epoch + 1, loss=progress.loss_sum / (first + len(chosen))
                )
                if distributed.total(stop.requested, device):
                    save()
                    bar.close()
                    if writer:
                        print(
                            f"stopped in epoch {progress.epoch + 1} of {epochs}; go on with: "
                            f"python train.py --resume {run}"
                        )
                    distributed.stop()
                    return 130
            loss = progress.loss_sum / len(images)
            seconds = progress.seconds
            history.append({"epoch": progress.epoch + 1, "loss": loss, "seconds": seconds})
            progress = replace(
                progress, epoch=progress.epoch + 1, step=0, loss_sum=0.0, seconds=0.0
            )
            save()
            if writer:
                bar.write(f"epoch {progress.epoch}/{epochs}  loss {loss:.5f}  {seconds:.1f} s")
    bar.close()

    # 5. Finish: fit what was collected, set the threshold.
    started = time.perf_counter()
    seed_step(config.seed, epochs, step=0)
    if not finished:  # a finished run that is only scored anew has nothing more to fit
        model.eval()
        numbers = tqdm(range(len(images)), "finishing", unit="image", disable=not writer or None)
        model.finish(in_batches(images, numbers, progress.micro_batch, device))
    if writer:
        calibration = calibrate_on(model, held_out, device)
        save(calibration)
        seconds = sum(row["seconds"] for row in history) + time.perf_counter() - started
        write_whole(run / "fit.json", json.dumps({"seconds": seconds, "peak_mib": peak_mib()}))
        print(f"threshold {calibration.threshold:.5g} from {len(held_out)} held-out good images")
        print(f"done: {run}\nnext: python eval.py --checkpoint {run}")
    distributed.stop()
    return 0


if __name__ == "__main__":
    run_script(main)
