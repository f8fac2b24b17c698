"""Time a training step of the default U-Net beside one of a textbook U-Net.

    python -m benchmarks.train_step --data-root data/mvtec --category tile --batch 4

The textbook U-Net (Ronneberger et al., MICCAI 2015) starts from random weights, with 32 channels at
full size and four times half of it, and restores the same corrupted images by the same L1 + SSIM.
Both are stepped by train.py's own `train_step` on the same images, and take turns, so that a noisy
machine strikes both alike. What corrupting the batch takes is part of both, and printed apart.
"""

import time
from collections.abc import Callable
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.export_speed import spread
from data.cache import decode_all
from data.mvtec import Category
from data.tensors import to_batch
from models import build_model
from models.reconstruction.losses import ReconstructionLoss
from models.reconstruction.unet import DoubleConv, UNetAutoencoder
from runs.checkpoint import Progress
from runs.micro_batch import pick_micro_batch
from train import train_step
from utils.config import Config, load_config
from utils.device import pick_device, place
from utils.flags import add_setting_flags, overrides_from, script_parser

WIDTH, DEPTH = 32, 4


class TextbookUNet(nn.Module):
    """A U-Net of full-size convolutions that restores images; sides are multiples of 16."""

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
        self.loss = ReconstructionLoss(config.loss)
        self.prepare: Callable[[Tensor], tuple[Tensor, ...]]

    def learn(self, corrupted: Tensor, clean: Tensor, mask: Tensor) -> Tensor:
        """Loss of the reconstruction of images [B, 3, H, W]."""
        x, skips = corrupted.contiguous(memory_format=torch.channels_last), []
        for number, down in enumerate(self.down):
            x = down(F.max_pool2d(x, 2) if number else x)
            skips.append(x)
        x = skips.pop()
        for up, merge, skip in zip(
            reversed(self.up), reversed(self.merge), reversed(skips), strict=True
        ):
            x = merge(torch.cat([skip, up(x)], dim=1))
        return self.loss(torch.sigmoid(self.head(x)), clean, mask)


def main() -> None:
    """Print seconds an image and the ratio."""
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
    micro_batch = pick_micro_batch(config.train, config.data.size)
    print(f"{len(images)} images of {config.data.size}, {micro_batch} at once, {device}")

    def seconds(work: Callable[[], object]) -> float:
        """Seconds an image, until the device is done."""
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (time.perf_counter() - started) / len(images)

    optimizers = [torch.optim.Adam(m.parameters(), config.train.lr) for m in (ours, textbook)]
    times: list[tuple[float, float, float]] = []
    for _ in range(args.repeats + 1):
        steps = [
            seconds(
                lambda m=model, o=optimizer: train_step(
                    m, o, images, device, Progress(micro_batch=micro_batch)
                )
            )
            for model, optimizer in zip((ours, textbook), optimizers, strict=True)
        ]
        times.append((*steps, seconds(lambda: ours.prepare(to_batch(images, device)))))
    our, usual, prepare = (list(column) for column in zip(*times[1:], strict=True))  # 1 warms up
    print(f"corrupting the batch takes {1000 * median(prepare) * len(images):.0f} ms")
    print(
        f"a step takes {1000 * median(our):.0f} ms an image, "
        f"of the textbook U-Net {1000 * median(usual):.0f} ms"
    )
    ratios = [theirs / ours for ours, theirs in zip(our, usual, strict=True)]
    print(f"ours is {spread(ratios, 'times as fast', 2)}, {len(ratios)} pairs")


if __name__ == "__main__":
    main()
