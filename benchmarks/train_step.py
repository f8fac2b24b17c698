"""Time a training step of the default U-Net beside one of a textbook U-Net.

    python -m benchmarks.train_step --data-root data/mvtec --category tile --batch 4

The textbook U-Net (Ronneberger et al., MICCAI 2015) starts from random weights, with 32 channels at
full size and four times half of it, and restores the same corrupted images by the same L1 + SSIM.
Both take the steps of train.py on the same images, in turns, so that other work slows
both alike. Prints also how long each part of the default's step takes.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from data.good_images import decode_all
from data.mvtec import Category
from data.tensors import to_batch
from models import build_model
from models.losses import ReconstructionLoss
from models.unet import UNetAutoencoder
from models.unet_network import DoubleConv
from training.loop import pick_micro_batch, train_step
from utils.config import Config, load_config
from utils.device import pick_device, place
from utils.errors import run_script
from utils.flags import add_setting_flags, overrides_from, script_parser

WIDTH, DEPTH = 32, 4


class TextbookUNet(nn.Module):
    """U-Net with convolutions at full resolution; sides of images are multiples of 16."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        widths = [WIDTH * 2**level for level in range(DEPTH + 1)]
        self.down = nn.ModuleList(map(DoubleConv, [3, *widths[:-1]], widths))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(below, above, 2, stride=2)
            for above, below in zip(widths, widths[1:], strict=False)
        )
        self.merge = nn.ModuleList(DoubleConv(2 * width, width) for width in widths[:-1])
        self.head = nn.Conv2d(WIDTH, 3, 1)
        self.difference = ReconstructionLoss(config.loss)
        self.prepare: Callable[[Tensor], tuple[Tensor, ...]]

    def loss(self, corrupted: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
        """Return the loss of the reconstruction of images [B, 3, H, W]."""
        x, skips = corrupted.contiguous(memory_format=torch.channels_last), []
        for number, down in enumerate(self.down):
            x = down(F.max_pool2d(x, 2) if number else x)
            skips.append(x)
        x = skips.pop()
        for up, merge, skip in zip(
            reversed(self.up), reversed(self.merge), reversed(skips), strict=True
        ):
            x = merge(torch.cat([skip, up(x)], dim=1))
        return self.difference(torch.sigmoid(self.head(x)), clean, mask)


def seconds(work: Callable[[], object]) -> float:
    """Return the wall time of some work."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # a GPU works on after the call returns
    return time.perf_counter() - started


def in_turns(works: Sequence[Callable[[], object]], repeats: int) -> list[list[float]]:
    """Return the seconds of each piece of work in each repeat."""
    # One more round, the first, warms up. Turns let a noisy machine slow all alike.
    rounds = [[seconds(work) for work in works] for _ in range(repeats + 1)]
    return [list(column) for column in zip(*rounds[1:], strict=True)]


def parts(
    model: UNetAutoencoder, optimizer: Adam, images: np.ndarray, device: torch.device
) -> dict[str, float]:
    """Return the seconds of each part of a step that passes all images at once."""
    start = to_batch(images, device)
    sample: list[Tensor] = []
    prepare = seconds(lambda: sample.extend(model.prepare(start)))
    corrupted = sample[0].contiguous(memory_format=torch.channels_last)
    encoder = seconds(lambda: model.network.encoder(corrupted))
    network = seconds(lambda: model.network(corrupted))
    losses: list[Tensor] = []
    forward = seconds(lambda: losses.append(model.loss(*sample)))
    backward = seconds(lambda: losses[0].backward())
    adam = seconds(lambda: (optimizer.step(), optimizer.zero_grad(set_to_none=True)))
    return {
        "corrupting": prepare,
        "encoder": encoder,
        "decoder": network - encoder,
        "losses": forward - network,
        "backward": backward,
        "Adam": adam,
    }


def main() -> int:
    """Print milliseconds an image and the ratio."""
    parser = script_parser(__doc__)
    add_setting_flags(parser)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    config = load_config(overrides=overrides_from(args) | {"model": "unet"})
    device = pick_device(config.device)
    paths = Category(config.data.root, config.data.category).train_images()[: config.train.batch]
    images = decode_all(paths, config.data)[0].tiles

    torch.manual_seed(0)
    ours: UNetAutoencoder = place(build_model(config), device).train()
    ours.load_pretrained()
    textbook = place(TextbookUNet(config), device).train()
    textbook.prepare = ours.prepare
    pieces = pick_micro_batch(config, device)
    print(f"{len(images)} images of {config.data.size}, {pieces} at once, {device}")

    optimizers = [
        Adam([p for p in model.parameters() if p.requires_grad], config.train.lr)
        for model in (ours, textbook)
    ]
    works = [
        partial(train_step, model, optimizer, images, device, pieces)
        for model, optimizer in zip((ours, textbook), optimizers, strict=True)
    ]
    rounds = [parts(ours, optimizers[0], images[:pieces], device) for _ in range(args.repeats + 1)]
    for name in rounds[0]:
        took = median(1000 * one[name] / len(images[:pieces]) for one in rounds[1:])
        print(f"{name:<12}{took:6.1f} ms an image")
    our, usual = in_turns(works, args.repeats)
    print(
        f"a step takes {1000 * median(our) / len(images):.0f} ms an image, "
        f"of the textbook U-Net {1000 * median(usual) / len(images):.0f} ms"
    )
    ratios = sorted(theirs / mine for theirs, mine in zip(usual, our, strict=True))
    print(
        f"ours is {median(ratios):.2f} times as fast ({ratios[0]:.2f} to {ratios[-1]:.2f}), "
        f"{len(ratios)} pairs"
    )
    return 0


if __name__ == "__main__":
    run_script(main)
