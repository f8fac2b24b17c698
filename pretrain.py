"""Adapt a backbone to unlabelled photographs of a plant (self-supervised: VICReg).

    python pretrain.py photos/ more/                            the packaged EfficientNet-Lite0
    python pretrain.py photos/ --encoder resnet18               a network of torchvision
    python pretrain.py photos/ --from-scratch --lr 1e-3         from random weights
    python pretrain.py photos/ --set backbone.weights=FILE      go on from an earlier file

Writes a file of weights, which detectors take in place of those of ImageNet:

    python train.py --model patchcore --set backbone.weights=FILE

By default 100 passes over the images at 256x256, in batches of 32 squares of 128 pixels, with a
learning rate of 1e-4. Ctrl-C finishes the step and keeps what was learned so far.

Every image in the folders, and below them, is learned from, good or not. To measure a detector
honestly afterwards, give train/good alone: test images must not be among them.
"""

if __name__ == "__main__":  # before what takes long to import: Ctrl-C is quiet from here on
    from utils.interrupt import quiet_start

    quiet_start()

import argparse
from pathlib import Path

from utils.config import differences, load_config
from utils.errors import UserError, answer_early, run_script
from utils.flags import add_setting_flags, overrides_from, script_parser

READ = (
    *("seed", "device", "unet.encoder", "backbone.weights"),
    *("data.size", "data.resize", "data.tile", "data.depth", "data.max_megapixels"),
    *("train.epochs", "train.batch", "train.crop", "train.lr", "train.precision"),
)
"""Settings that are heeded here."""

DEFAULTS = {"data.size": 256, "train.epochs": 100, "train.batch": 32, "train.lr": 1e-4}
"""Settings that are others here than in config.yaml."""


def parse_args() -> argparse.Namespace:
    """Flags of the command line; raises `UserError` for those that are not right."""
    parser = script_parser(__doc__)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="of images, used whole")
    parser.add_argument("--encoder", metavar="NAME", default="efficientnet_lite0")
    parser.add_argument("--from-scratch", action="store_true", help="start from random weights")
    output = "default: checkpoints/<encoder>.pt; numbered where that is taken"
    parser.add_argument("--output", type=Path, metavar="FILE", help=output)
    side = "side of the squares to learn from, in pixels; 0: whole images (train.crop)"
    parser.add_argument("--crop", type=int, metavar="N", default=128, help=side)
    flags = ["--size", "--epochs", "--batch", "--lr", "--seed", "--device", "--set"]
    add_setting_flags(parser, flags)
    args = parser.parse_args()
    own = {"unet.encoder": args.encoder, "train.crop": args.crop}
    args.settings = load_config(overrides=DEFAULTS | own | overrides_from(args))
    for key in differences(load_config(), args.settings):
        if key not in READ:
            raise UserError(f"{key} says nothing to pretrain.py; it reads {', '.join(READ)}")
    if args.settings.unet.encoder == "scratch":
        raise UserError("--encoder scratch names no network; name one, and add --from-scratch")
    if args.from_scratch and args.settings.backbone.weights:
        raise UserError("take one of --from-scratch and backbone.weights")
    if args.settings.train.batch == 1:
        raise UserError("--batch is 1, but images are compared within their batch; take 2 or more")
    for folder in args.folders:
        if not Path(folder).is_dir():
            raise UserError(f"there is no folder {folder}")
    return args


if __name__ == "__main__":
    answer_early(parse_args)  # --help and wrong flags, before the slow imports

import math

import numpy as np
import torch
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import update_bn

from data.cache import decode_all
from data.depth import with_depth
from data.listing import expand
from data.tensors import to_batch
from models.backbones import Backbone, build_encoder
from models.self_supervised import SelfSupervised, vicreg_loss, view
from training.progress_bar import StepBar
from training.seed import epoch_order, random_crops, seed_step
from utils.config import Config
from utils.device import autocast, pick_device, place
from utils.files import new_file, replacing


def write_weights(encoder: Backbone, file: Path) -> None:
    """Write what `backbone.weights` reads; a kill on the way leaves the file as it was."""
    with replacing(file) as stream:
        torch.save(encoder.network.state_dict(), stream)


def full_batches(config: Config, epoch: int, count: int) -> np.ndarray:
    """Places of `count` images, [steps, batch]; what is too little for a batch is repeated."""
    size = config.train.batch
    return np.resize(epoch_order(config.seed, epoch, count), (max(1, count // size), size))


def learn(model: SelfSupervised, images: np.ndarray, config: Config, file: Path) -> bool:
    """Epochs of steps on uint8 images [N, H, W, 3], each written; False if the user stops them."""
    train, device = config.train, next(model.parameters()).device
    steps = train.epochs * len(full_batches(config, 0, len(images)))
    optimizer = torch.optim.Adam(model.parameters(), train.lr)
    schedule = OneCycleLR(optimizer, train.lr, total_steps=steps)
    model.train()
    with StepBar(steps, 0) as bar:
        for epoch in range(train.epochs):
            losses = []
            for step, places in enumerate(full_batches(config, epoch, len(images))):
                seed_step(config.seed, epoch, step)
                squares = random_crops(images[places], train.crop, config.seed, epoch, step)
                batch = to_batch(squares, device)
                with autocast(device, train.precision):
                    first, second = (model(view(batch)) for _ in range(2))
                loss = vicreg_loss(first.float(), second.float())
                losses.append(loss.item())
                if not math.isfinite(losses[-1]):
                    raise UserError(f"training diverged; lower --lr, which is {train.lr:g}")
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.step(epoch, np.mean(losses))
                if bar.stopped(device):
                    return False
            bar.say(f"epoch {epoch + 1}/{train.epochs}  loss {np.mean(losses):.3f}")
            write_weights(model.encoder, file)
    return True


def main() -> int:
    """Learn from all images and write the weights; returns the exit status."""
    args = parse_args()
    config, name = args.settings, args.settings.unet.encoder
    device = pick_device(config.device)
    seed_step(config.seed, epoch=-1, step=-1)
    encoder = build_encoder(name)
    if not args.from_scratch:
        encoder.load(config.backbone.weights)
    model = place(SelfSupervised(encoder), device)
    paths = expand(args.folders)
    config = with_depth(config, paths)
    images = decode_all(paths, config.data)[0].tiles
    file = new_file(args.output or Path("checkpoints", f"{name}.pt"))
    write_weights(encoder, file)
    print(f"{name}: {len(images)} images, {device} -> {file}")
    whole = learn(model, images, config, file)
    # The statistics of batch normalisation lag behind, and are of views: detectors see none.
    seen = full_batches(config, config.train.epochs, len(images))[:32]
    update_bn((to_batch(images[places], device) for places in seen), model)
    write_weights(encoder, file)
    use = f"--set unet.encoder={name} --set backbone.weights={file}"
    print(f"{'done' if whole else 'stopped; kept so far'}\nnext: python train.py {use}")
    return 0 if whole else 130


if __name__ == "__main__":
    run_script(main)
