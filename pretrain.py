"""Adapt a backbone to unlabelled photographs of a plant (self-supervised: VICReg).

    python pretrain.py photos/ more/                            the packaged EfficientNet-Lite0
    python pretrain.py photos/ --encoder resnet18               a convolutional network of timm
    python pretrain.py photos/ --from-scratch --lr 1e-3         from random weights
    python pretrain.py photos/ --set backbone.weights=FILE      go on from an earlier file

Writes a file of weights, which detectors take in place of those of ImageNet:

    python train.py --model patchcore --set backbone.weights=FILE

By default 100 passes over the images at 256x256, in batches of 32 squares of 128 pixels, with a
learning rate of 1e-4. Ctrl-C finishes the step and keeps what was learned so far.

Every image in the folders, and below them, is learned from, good or not. To measure a detector
honestly afterwards, give train/good alone: test images must not be among them.
"""

import argparse
from pathlib import Path

from utils.config import differences, load_config
from utils.errors import UserError, run_script
from utils.flags import add_setting_flags, file_or_folder, overrides_from, script_parser

READ = (
    *("seed", "device", "unet.encoder", "backbone.weights"),
    *("data.size", "data.resize", "data.tile", "data.depth", "data.max_megapixels"),
    *("train.epochs", "train.batch", "train.crop", "train.lr", "train.precision"),
)
"""Settings that are used here."""

DEFAULTS = {"data.size": 256, "train.epochs": 100, "train.batch": 32, "train.lr": 1e-4}
"""Settings that have other defaults here than in config.yaml."""


def parse_args() -> argparse.Namespace:
    """Return flags and settings of the command line; raises `UserError` for wrong ones."""
    parser = script_parser(__doc__)
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help="of images, all of them used")
    parser.add_argument("--encoder", metavar="NAME", default="efficientnet_lite0")
    parser.add_argument("--from-scratch", action="store_true", help="start from random weights")
    output = "default: checkpoints/<encoder>.pt; numbered where that exists"
    parser.add_argument("--output", type=file_or_folder, metavar="FILE", help=output)
    side = "side of the squares to learn from, in pixels; 0: whole images (train.crop)"
    parser.add_argument("--crop", type=int, metavar="N", default=128, help=side)
    flags = ["--size", "--epochs", "--batch", "--lr", "--seed", "--device", "--set"]
    add_setting_flags(parser, flags)
    args = parser.parse_args()
    own = {"unet.encoder": args.encoder, "train.crop": args.crop}
    args.settings = load_config(overrides=DEFAULTS | own | overrides_from(args))
    for key in differences(load_config(), args.settings):
        if key not in READ:
            raise UserError(f"{key} is not used by pretrain.py; it uses {', '.join(READ)}")
    if args.settings.unet.encoder == "scratch":
        raise UserError("--encoder scratch is no network; name one, and add --from-scratch")
    if args.from_scratch and args.settings.backbone.weights:
        raise UserError("take one of --from-scratch and backbone.weights")
    if args.settings.train.batch == 1:
        raise UserError("--batch is 1, but images are compared within their batch; take 2 or more")
    for folder in args.folders:
        if not Path(folder).is_dir():
            raise UserError(f"there is no folder {folder}")
    return args


def main() -> int:
    """Learn from all images and write the weights; returns the exit status."""
    args = parse_args()
    # These take seconds to import; --help and wrong flags have been answered without them.
    from data.good_images import decode_all
    from data.images import with_depth
    from data.listing import expand
    from models.backbones import build_encoder
    from training.loop import seed_step
    from training.self_supervised import SelfSupervised, learn
    from utils.device import pick_device, place
    from utils.files import new_file

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
    print(f"{name}: {len(images)} images, {device} -> {file}")
    whole = learn(model, images, config, file)
    use = f"--set unet.encoder={name} --set backbone.weights={file}"
    print(f"{'done' if whole else 'stopped; kept so far'}\nnext: python train.py {use}")
    return 0 if whole else 130


if __name__ == "__main__":
    run_script(main)
