"""What a verdict of the U-Net costs in plain passes of its network, side by side.

    python -m benchmarks.inference_cost --size 256 --set unet.width=16
    python -m benchmarks.inference_cost --size 256 --set unet.width=16 --set unet.gate=true

A plain pass is one pass of the U-Net with three outputs over the image at full size. A verdict has
one for each of `unet.scales`, more with `score.flips` and `score.cells`, and the anomaly map. The
two take turns on a random image, so that a noisy machine strikes both alike; weights are untrained.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from benchmarks.export_speed import spread
from models import build_model
from models.unet import UNet
from utils.config import add_setting_flags, load_config, overrides_from
from utils.device import pick_device, place
from utils.errors import UserError, run_script
from utils.pixels import to_batch


def seconds(work: Callable[[], torch.Tensor]) -> float:
    """Time of a call, until its result is there."""
    started = time.perf_counter()
    work().sum().item()  # waits for the device
    return time.perf_counter() - started


@torch.inference_mode()
def main() -> int:
    """Print milliseconds and the ratio; returns the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_setting_flags(parser)
    parser.add_argument("--repeats", type=int, default=20, metavar="N", help="pairs to measure")
    args = parser.parse_args()
    config = load_config(overrides=overrides_from(args))
    if config.model != "unet":
        raise UserError(f"{config.model} is no U-Net with one network; take --model unet")
    device = pick_device(config.device)
    detector = place(build_model(config), device).eval()
    network = place(UNet(3, 3, config.unet), device).eval()
    pixels = np.random.default_rng(0).integers(0, 256, (1, *config.data.size, 3), np.uint8)
    image, full = to_batch(pixels, device), config.unet.scales[0]

    verdicts, passes = [], []
    for repeat in range(args.repeats + 1):
        verdict = seconds(lambda: detector(image).score)
        one_pass = seconds(lambda: network(image, full))
        if repeat > 0:  # the first of each warms up
            verdicts.append(verdict)
            passes.append(one_pass)
    ratios = [ours / plain for ours, plain in zip(verdicts, passes, strict=True)]
    print(
        f"verdict {1000 * median(verdicts):.0f} ms, plain pass {1000 * median(passes):.0f} ms: "
        f"{spread(ratios, 'times', 2)}, {len(ratios)} pairs"
    )
    return 0


if __name__ == "__main__":
    run_script(main)
