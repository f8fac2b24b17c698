"""Image AUROC of each term of the U-Net's anomaly map by itself, by kind of defect.

    python -m benchmarks.terms checkpoints/<run of a unet> checkpoints/<another one>

Two tables a run: on defects drawn on good images, each scored without its fold, and on the test
split. A term, normalised as in the anomaly map, is reduced to a score by `score.reduce`; the row
`all` is the score of the detector. A term that is best on no kind of defect of any run can go.
"""

import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from benchmarks.experiment import markdown
from data.images import ImageError, read_ahead
from data.mvtec import Category, TestImage
from data.tensors import to_batch
from data.tiles import resize_to_input
from evaluation.measure import Reader, Test, pseudo_readers
from evaluation.metrics import auroc
from inspection.torch_inspector import TorchInspector
from models.image_score import image_score
from models.unet import UNetAutoencoder
from training.folders import named_checkpoint
from utils.errors import UserError, run_script
from utils.flags import add_setting_flags, script_parser


@torch.inference_mode()
def scores(
    inspector: TorchInspector, readers: Iterable[Reader], count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores [N, terms + 1], the last one of the whole map, and kinds of defect [N]."""
    detector, data = inspector.detector, inspector.config.data
    found, kinds = [], []

    def images() -> Iterator[tuple[Test, Any]]:
        for context, tests in readers:
            with context:
                yield from tests

    for test, read in tqdm(images(), "scoring", count, unit="image", disable=None):
        if isinstance(read, ImageError):
            print(f"left out: {read}", file=sys.stderr)
            continue
        batch = to_batch(resize_to_input(read[0], data)[None], inspector.device)
        terms, _ = detector.terms(batch)
        by_term = image_score(terms.transpose(0, 1), detector.config.score.reduce)
        found.append([*by_term.tolist(), detector(batch).score.item()])
        kinds.append(test.defect)
    return np.array(found), np.array(kinds)


def table(terms: list[str], found: np.ndarray, kinds: np.ndarray) -> str:
    """Return a table in Markdown: a row for each term, a column for each kind of defect."""
    good, columns = found[kinds == "good"], sorted({*kinds} - {"good"})
    lines = []
    for place, term in enumerate(terms):
        by_kind = [auroc(good[:, place], found[kinds == kind, place]) for kind in columns]
        every = auroc(good[:, place], found[kinds != "good", place])
        lines.append([term, *(f"{value:.3f}" for value in (every, *by_kind))])
    return markdown(["term", "all defects", *columns], lines)


def main() -> int:
    """Print the tables of each run; return the exit status."""
    parser = script_parser(__doc__)
    parser.add_argument("runs", nargs="+", type=named_checkpoint, metavar="RUN")
    add_setting_flags(parser, ["--data-root", "--device"])
    args = parser.parse_args()
    for file in args.runs:
        measure(file, vars(args)["data.root"], args.device or "auto")
    return 0


def measure(file: Path, root: str | None, device: str) -> None:
    """Print both tables of a run, for each category that it knows."""
    inspector = TorchInspector(file, device)
    data = inspector.config.data
    if not isinstance(inspector.detector, UNetAutoencoder):
        raise UserError(f"{file} is a {inspector.config.model}; name the run of a unet")
    if data.tile:
        raise UserError(f"{file} inspects images in tiles; train one with data.tile=0")
    names = [*inspector.detector.TERMS, "all"]
    for category in Category.chosen(data, root, ",".join(inspector.calibrations)):
        drawn, folds = pseudo_readers(inspector, category.folder.parent, category.name)
        tests = category.test_images()
        for split, readers, count in (
            ("drawn defects", folds, len(drawn)),
            ("test split", [(nullcontext(), read_ahead(tests, TestImage.read))], len(tests)),
        ):
            print(f"\n{file.parent.name}, {category.name}, {split}:\n")
            print(table(names, *scores(inspector, readers, count)))


if __name__ == "__main__":
    run_script(main)
