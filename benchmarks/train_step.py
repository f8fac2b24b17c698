"""Time a training step against the usual loop, side by side.

    python -m benchmarks.train_step --data-root data/mvtec --category tile --size 512

The usual loop: float32, contiguous tensors, the whole batch at once, every image decoded and
resized from its file in every epoch. Ours: train.py's own `train_step` on cached pixels. Both take
the same network, loss, optimiser and images, and take turns, so that a noisy machine strikes both
alike.
"""

import argparse
import time
from statistics import median

import torch

from data.cache import decode_all
from data.images import read_image
from data.mvtec import Category
from models import build_model
from train import train_step
from utils.checkpoint import Progress
from utils.config import add_setting_flags, load_config, overrides_from
from utils.device import pick_device, place
from utils.micro_batch import pick_micro_batch
from utils.pixels import to_batch
from utils.resize import resize


def main() -> None:
    """Print seconds a step and the ratio."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_setting_flags(parser)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    config = load_config(overrides=overrides_from(args))
    device = pick_device(config.device)
    paths = Category(config.data.root, config.data.category).train_images()[: config.train.batch]
    images = decode_all(paths, config.data.size, config.data.cache_gib)

    torch.manual_seed(0)
    ours = place(build_model(config), device)
    usual = build_model(config).to(device)
    our_optimizer, usual_optimizer = ours.optimizer(), usual.optimizer()
    probe = to_batch(images[:1], device)
    micro_batch = pick_micro_batch(config.train.micro_batch, ours, probe, len(images))
    print(f"{len(images)} images of {config.data.size}, ours {micro_batch} at once, {device}")

    our_times, usual_times = [], []
    for repeat in range(args.repeats + 1):
        started = time.perf_counter()
        train_step(ours, our_optimizer, images, device, Progress(micro_batch=micro_batch))
        our_times.append(time.perf_counter() - started)

        started = time.perf_counter()
        decoded = [
            torch.from_numpy(resize(read_image(path), config.data.size)).permute(2, 0, 1)
            for path in paths
        ]
        batch = torch.stack(decoded).contiguous().to(device).float() / 255
        usual_optimizer.zero_grad()
        loss = usual.learn(*usual.prepare(batch))
        loss.backward()
        usual_optimizer.step()
        loss.item()  # waits for the device
        usual_times.append(time.perf_counter() - started)
        if repeat == 0:  # the first of each warms up
            our_times.clear()
            usual_times.clear()
    ratios = [usual / our for usual, our in zip(usual_times, our_times, strict=True)]
    print(f"usual loop {median(usual_times):.2f} s a step, ours {median(our_times):.2f} s a step")
    print(
        f"ours is {median(ratios):.2f} times as fast "
        f"(median of {len(ratios)} pairs, {min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
