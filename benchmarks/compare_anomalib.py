"""PatchCore, PaDiM and FastFlow side by side with anomalib's, on the same images.

    python -m venv /tmp/anomalib
    /tmp/anomalib/bin/pip install anomalib==2.7.0 -r requirements.txt
    python -m benchmarks.compare_anomalib --python /tmp/anomalib/bin/python \\
        --data-root data/mvtec --category tile --size 256

Time, memory and image AUROC. Both get the packaged EfficientNet-Lite0 with levels 2 and 3, for
FastFlow 1, too, the same decoded images and the papers' scores: for PatchCore the same share of
patches and 9 neighbours, for PaDiM 100 channels, for FastFlow the same steps of Adam. anomalib's
models are called directly, without its engine, which only adds to their time. Each fit is a process
of its own, with images in batches of 8; inference takes one image at a time. The peak memory
includes the decoded images, which are the same for both.
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

import numpy as np
import torch
from torch import Tensor, nn

from data.images import ImageError, read_ahead, read_image
from data.mvtec import Category
from data.resize import resize
from data.tensors import to_batch
from models.backbones import LITE, build_encoder
from utils.flags import script_parser
from utils.memory import peak_mib

BATCH = 8
MODELS = {"patchcore": [2, 3], "padim": [2, 3], "fastflow": [1, 2, 3]}
"""Detectors that both have, and the levels of the backbone whose features they compare."""

STAGES = [0, 1, 2, 4, 6]
"""The last of timm's stages at each level."""

CPU = torch.device("cpu")


class Blocks(nn.Module):
    """The same network as a plain chain of modules, which anomalib can take apart."""

    def __init__(self, last: int) -> None:
        super().__init__()
        encoder = build_encoder(LITE)
        encoder.load(None)
        self.stem = nn.Sequential(encoder.network.conv_stem, encoder.network.bn1)
        self.blocks = encoder.network.blocks[: STAGES[last] + 1]

    def maps(self, images: Tensor) -> list[Tensor]:
        """Return the features of each stage for images [B, 3, H, W] in [0, 1]."""
        x, maps = self.stem((images * 255 - 127) / 128), []
        for block in self.blocks:
            x = block(x)
            maps.append(x)
        return maps

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of the last stage."""
        return self.maps(images)[-1]


class Levels(Blocks):
    """The same with several levels, as timm gives them with `features_only`."""

    def __init__(self, layers: list[int]) -> None:
        super().__init__(layers[-1])
        self.layers = layers
        maps = self(torch.zeros(1, 3, 64, 64))
        channels, strides = [m.shape[1] for m in maps], [64 // m.shape[2] for m in maps]
        self.feature_info = Mock(channels=lambda: channels, reduction=lambda: strides)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return the features of each level."""
        maps = self.maps(images)
        return [maps[STAGES[layer]] for layer in self.layers]


class Contender(NamedTuple):
    """A model, what takes a batch [B, 3, H, W] in, what then fits it, and its name for scores."""

    model: nn.Module
    collect: Callable[[Tensor], object]
    finish: Callable[[], object]
    score: str


def by_steps(
    model: nn.Module, loss: Callable[[Tensor], Tensor], epochs: int, score: str
) -> Contender:
    """A model that learns in epochs of steps, by Adam as FastFlow's paper has it but for decay."""
    batches: list[Tensor] = []

    def learn() -> None:
        optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-3)
        with torch.enable_grad():
            for number in torch.cat([torch.randperm(len(batches)) for _ in range(epochs)]):
                loss(batches[number]).backward()
                optimizer.step()
                optimizer.zero_grad()

    return Contender(model.train(), batches.append, learn, score)


def anomalib(name: str, args: argparse.Namespace) -> Contender:
    """anomalib's model, fitted and asked as its own engine does it."""
    if name == "fastflow":
        return anomalib_fastflow(args)
    from anomalib.models.image.padim.torch_model import PadimModel
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    layers = [f"blocks.{STAGES[layer]}" for layer in MODELS[name]]
    backbone = Blocks(MODELS[name][-1])
    if name == "patchcore":
        model = PatchcoreModel(layers=layers, backbone=backbone, num_neighbors=9)
        finish = partial(model.subsample_embedding, args.coreset)
    else:
        model = PadimModel(layers=layers, backbone=backbone, n_features=100)
        finish = model.fit
    model.train().feature_extractor.eval()
    return Contender(model, model, finish, "pred_score")


def anomalib_fastflow(args: argparse.Namespace) -> Contender:
    """anomalib's FastFlow, which knows four backbones by name, on ours."""
    from anomalib.models.image.fastflow.loss import FastflowLoss
    from anomalib.models.image.fastflow.torch_model import FastflowModel

    with patch("timm.create_model", return_value=Levels(MODELS["fastflow"])):
        model = FastflowModel((args.size, args.size), "resnet18")
    loss = FastflowLoss()
    return by_steps(model, lambda images: loss(*model(images)), args.epochs, "pred_score")


def ours(name: str, args: argparse.Namespace) -> Contender:
    """Our detector, with the papers' score."""
    from models import build_model
    from utils.config import load_config
    from utils.device import place

    settings = {
        "model": name,
        "backbone.layers": MODELS[name],
        "patchcore.joined": True,
        "patchcore.candidates": 10**9,
        "patchcore.coreset": args.coreset,
        "patchcore.density": 0,
        "patchcore.reweight": 9,
        "score.reduce": "max",
    }
    model = build_model(load_config(overrides=settings))
    model.load_pretrained()
    place(model, CPU)
    if name == "fastflow":
        return by_steps(
            model, lambda images: model.loss(*model.prepare(images)), args.epochs, "score"
        )
    return Contender(model, partial(model.collect, fold=0), model.finish, "score")


LIBRARIES = {"anomalib": anomalib, "ours": ours}


def read(paths: list, size: int) -> list[np.ndarray]:
    """Images resized to a square, uint8 [size, size, 3]; unreadable ones are left out."""
    reader = read_ahead(paths, lambda path: resize(read_image(path), (size, size)))
    images = (image for _, image in reader)
    return [image for image in images if not isinstance(image, ImageError)]


def measure(args: argparse.Namespace) -> None:
    """Fit and ask one model in this process, and print what was measured as JSON."""
    from sklearn.metrics import roc_auc_score

    category = Category(args.data_root, args.category)
    train = read(category.train_images()[: args.limit], args.size)
    tests = category.test_images()
    test = read([entry.path for entry in tests], args.size)
    labels = [entry.is_defect for entry in tests]
    torch.manual_seed(0)
    model, collect, finish, score = LIBRARIES[args.worker](args.model, args)
    batches = [np.stack(train[start : start + BATCH]) for start in range(0, len(train), BATCH)]
    started = time.perf_counter()
    with torch.no_grad():
        for batch in batches:
            collect(to_batch(batch, CPU))
        finish()
    fitting = time.perf_counter() - started
    model.eval().kept = None  # of features that were kept for the fit
    with torch.inference_mode():
        model(to_batch(test[0][None], CPU))
        started = time.perf_counter()
        scores = [getattr(model(to_batch(image[None], CPU)), score).item() for image in test]
        asking = time.perf_counter() - started
    auroc = roc_auc_score(labels, scores)
    print(json.dumps([fitting, 1000 * asking / len(test), peak_mib(), auroc]))


def main() -> None:
    """Run both libraries on the detectors, in processes of their own, and print a table."""
    parser = script_parser(__doc__)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has anomalib")
    parser.add_argument("--data-root", default="data/mvtec")
    parser.add_argument("--category", default="tile")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--coreset", type=float, default=0.1)
    parser.add_argument("--epochs", type=int, default=20, help="of FastFlow")
    models = {"nargs": "+", "choices": MODELS, "default": list(MODELS)}
    parser.add_argument("--models", **models)
    parser.add_argument("--limit", type=int, help="learn from the first so many images only")
    parser.add_argument("--worker", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return measure(args)
    print(f"{'':22} {'fit s':>8} {'ms/image':>9} {'peak MiB':>9} {'AUROC':>7}")
    for model in args.models:
        for worker, python in (("anomalib", args.python), ("ours", sys.executable)):
            command = [python, "-m", "benchmarks.compare_anomalib", *sys.argv[1:]]
            command += ["--worker", worker, "--model", model]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            fit, milliseconds, peak, auroc = json.loads(output.splitlines()[-1])
            figures = f"{fit:8.1f} {milliseconds:9.1f} {peak:9.0f} {auroc:7.4f}"
            print(f"{model:10} {worker:11} {figures}", flush=True)


if __name__ == "__main__":
    main()
