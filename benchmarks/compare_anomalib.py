"""PatchCore, PaDiM and FastFlow side by side with anomalib's, on the same images.

    python -m venv /tmp/anomalib
    /tmp/anomalib/bin/pip install anomalib==2.7.0 -r requirements.txt
    python -m benchmarks.compare_anomalib --python /tmp/anomalib/bin/python \\
        --data-root data/mvtec --category tile --size 256

Prints time, memory and image AUROC. Both get the packaged EfficientNet-Lite0 at strides 8 and 16,
for FastFlow 4, too, the same decoded images and the scores of the papers: for PatchCore the same
share of patches and 9 neighbours, for PaDiM 100 channels, for FastFlow the same steps of Adam.
anomalib's models are called directly, without its engine, which only adds to their time. Each fit
is a process of its own, with images in batches of 8; inference takes one image at a time. The peak
memory includes the decoded images, which are the same for both.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple
from unittest.mock import Mock, patch

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from data.good_images import Fold, decode_all
from data.mvtec import Category
from data.tensors import to_batch
from models import build_model
from models.backbones import LITE, Backbone
from utils.config import load_config
from utils.device import peak_mib, place
from utils.errors import run_script
from utils.flags import add_setting_flags, overrides_from, script_parser

BATCH = 8
# Detectors that both have, and the levels of the backbone whose features they compare.
MODELS = {"patchcore": [2, 3], "padim": [2, 3], "fastflow": [1, 2, 3]}

CPU = torch.device("cpu")


class Contender(NamedTuple):
    """A model, the function that fits it to batches [B, 3, H, W], and its name for scores."""

    model: nn.Module
    fit: Callable[[Fold], object]
    score: str


def in_one_pass(
    collect: Callable[[Tensor], object], finish: Callable[[Fold], object]
) -> Callable[[Fold], None]:
    """Return a function that collects the features of all batches, then finishes."""

    def fit(good: Fold) -> None:
        with torch.no_grad():
            for images in good:
                collect(images)
            finish(good)

    return fit


def by_steps(
    model: nn.Module, loss: Callable[[Tensor], Tensor], epochs: int
) -> Callable[[Fold], None]:
    """Return a function that trains for epochs of steps, by Adam as in FastFlow's paper."""

    def fit(good: Fold) -> None:
        batches = list(good)
        # Without the paper's weight decay, which neither has by default.
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
        for number in torch.cat([torch.randperm(len(batches)) for _ in range(epochs)]):
            loss(batches[number]).backward()
            optimizer.step()
            optimizer.zero_grad()

    return fit


def timm_backbone(layers: list[int]) -> nn.Module:
    """Return our backbone with what anomalib reads of timm's `features_only` models."""
    backbone = Backbone(LITE, layers)
    backbone.load(None)
    strides = [int(stride) for stride in backbone.strides]
    backbone.feature_info = Mock(channels=lambda: backbone.channels, reduction=lambda: strides)
    return backbone


def anomalib(name: str, args: argparse.Namespace) -> Contender:
    """Return anomalib's model, fitted as its own engine does it."""
    from anomalib.models.image.fastflow.loss import FastflowLoss
    from anomalib.models.image.fastflow.torch_model import FastflowModel
    from anomalib.models.image.padim.torch_model import PadimModel
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    layers = MODELS[name]
    # All three build their backbone by timm, FastFlow only one of four names.
    with patch("timm.create_model", return_value=timm_backbone(layers)):
        if name == "fastflow":
            size = load_config(overrides=overrides_from(args)).data.size
            model, loss = FastflowModel(size, "resnet18"), FastflowLoss()
            fit = by_steps(model, lambda images: loss(*model(images)), args.epochs)
        elif name == "patchcore":
            model = PatchcoreModel(layers, "resnet18", num_neighbors=9)
            fit = in_one_pass(model, lambda _: model.subsample_embedding(args.coreset))
        else:
            model = PadimModel("resnet18", layers, n_features=100)
            fit = in_one_pass(model, lambda _: model.fit())
    return Contender(model.train(), fit, "pred_score")


def ours(name: str, args: argparse.Namespace) -> Contender:
    """Return our detector, with the score of the paper."""
    settings = {
        "model": name,
        "backbone.layers": MODELS[name],
        "patchcore.paper": True,
        "patchcore.coreset": args.coreset,
        "score.reduce": "max",
    }
    model = build_model(load_config(overrides=settings | overrides_from(args)))
    model.load_pretrained()
    place(model, CPU)
    if name == "fastflow":
        fit = by_steps(model, lambda images: model.loss(*model.prepare(images)), args.epochs)
        return Contender(model.train(), fit, "score")
    collect = partial(model.collect, fold=0)
    return Contender(model, in_one_pass(collect, lambda good: model.finish([good])), "score")


LIBRARIES = {"anomalib": anomalib, "ours": ours}


def measure(args: argparse.Namespace) -> None:
    """Fit one model and score with it in this process, and print what was measured as JSON."""
    data = load_config(overrides=overrides_from(args)).data
    category = Category(data.root, data.category)
    train = decode_all(category.train_images()[: args.limit], data)[0].tiles
    tests = category.test_images()
    test = decode_all([entry.path for entry in tests], data)[0].tiles
    labels = [entry.is_defect for entry in tests]
    torch.manual_seed(0)
    model, fit, score = LIBRARIES[args.worker](args.model, args)
    started = time.perf_counter()
    fit(Fold(0, train, range(len(train)), BATCH, CPU))
    fit_seconds = time.perf_counter() - started
    model.eval()
    with torch.inference_mode():
        model(to_batch(test[0][None], CPU))  # warms up
        started = time.perf_counter()
        scores = [getattr(model(to_batch(image[None], CPU)), score).item() for image in test]
        milliseconds = 1000 * (time.perf_counter() - started) / len(test)
    print(json.dumps([fit_seconds, milliseconds, peak_mib(), roc_auc_score(labels, scores)]))


def main() -> int:
    """Run both libraries on the detectors, in processes of their own, and print a table."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--python", default=sys.executable, help="interpreter that has anomalib")
    add_setting_flags(parser, ["--data-root", "--category", "--size"])
    add("--coreset", type=float, default=0.1)
    add("--epochs", type=int, default=20, help="of FastFlow")
    add("--models", nargs="+", choices=MODELS, default=list(MODELS))
    add("--limit", type=int, help="learn from the first images only")
    add("--worker", choices=LIBRARIES, help=argparse.SUPPRESS)
    add("--model", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        measure(args)
        return 0
    print(f"{'':22} {'fit s':>8} {'ms/image':>9} {'peak MiB':>9} {'AUROC':>7}")
    for model in args.models:
        for worker, python in (("anomalib", args.python), ("ours", sys.executable)):
            command = [python, "-m", "benchmarks.compare_anomalib", *sys.argv[1:]]
            command += ["--worker", worker, "--model", model]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            fit, milliseconds, peak, auroc = json.loads(output.splitlines()[-1])
            figures = f"{fit:8.1f} {milliseconds:9.1f} {peak:9.0f} {auroc:7.4f}"
            print(f"{model:10} {worker:11} {figures}", flush=True)
    return 0


if __name__ == "__main__":
    run_script(main)
