"""Does the pseudo AUROC rank settings as the test split does?

    python -m benchmarks.pseudo_agreement --checkpoint checkpoints/<run of a unet>

Scores one U-Net in many ways: by each of its witnesses alone and by all as the detector joins them,
once they are on one scale, by the top 1% and by the highest pixel. Each way is measured on defects
synthesised on good images and on the test split; at the end stands the rank correlation (Spearman)
of the two rankings. A pass over the images serves all ways.
"""

import sys
from collections.abc import Iterator
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from tqdm import tqdm

from benchmarks.table import markdown
from data.images import ImageError, read_ahead
from data.mvtec import TestImage
from data.resize import fit
from data.tensors import to_batch
from evaluation.metrics import auroc
from evaluation.synthetic_split import pseudo_readers
from inspection.open_run import chosen_categories
from inspection.torch_inspector import TorchInspector
from models.anomaly_maps import image_score
from models.drawn_defects.synthetic import PseudoImage
from models.unet import UNetAutoencoder
from training.folders import find_run
from utils.errors import UserError, run_script
from utils.flags import add_setting_flags, script_parser

WITNESSES = ("structure", "colour", "verdict", "memory", "whitened memory")
"""Those of `UNetAutoencoder.witnesses`, in its order."""

WAYS = list(product([*WITNESSES, "all"], ["top1", "max"]))
"""Witness and `score.reduce` of every way to score."""


@torch.inference_mode()
def scores(
    detector: UNetAutoencoder,
    reader: Iterator[tuple[TestImage | PseudoImage, Any]],
    count: int,
    device: torch.device,
    what: str,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [N, ways] of those images that can be read, and whether they are defective [N]."""
    found, defective = [], []
    for test, read in tqdm(reader, what, count, unit="image", disable=None):
        if isinstance(read, ImageError):
            tqdm.write(f"left out: {read}", file=sys.stderr)
            continue
        image = fit(read[0], detector.config.data)
        maps = detector.scale(detector.witnesses(to_batch(image[None], device))[0])
        by_name = dict(zip(WITNESSES, maps.split(1, dim=1), strict=True))
        reconstruction, others = maps[:, :2].mean(1, keepdim=True), maps[:, 2:]
        by_name["all"] = torch.cat([reconstruction, others], dim=1).mean(1, keepdim=True)
        found.append([image_score(by_name[name], reduce).item() for name, reduce in WAYS])
        defective.append(test.is_defect)
    return np.array(found), np.array(defective)


def main() -> int:
    """Print the AUROC of each way, twice, and how well the rankings agree."""
    parser = script_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, metavar="RUN")
    add_setting_flags(parser, ["--category", "--data-root", "--device"])
    args = parser.parse_args()
    settings = vars(args)
    file = find_run(args.checkpoint, settings["data.category"], "unet")
    inspector = TorchInspector(file, settings["device"] or "auto")
    detector, config = inspector.detector, inspector.config
    if not isinstance(detector, UNetAutoencoder):
        raise UserError(f"{file} is a {config.model}; this looks at the witnesses of a unet")
    category, *_ = chosen_categories(args, inspector)
    part = inspector.category_of(category.folder)
    pseudo, readers = pseudo_readers(inspector, category.folder.parent, part)
    true = category.test_images()
    splits = {
        "pseudo": (chain.from_iterable(readers), len(pseudo)),
        "true": (read_ahead(true, TestImage.read), len(true)),
    }
    found = []
    for name, (reader, count) in splits.items():
        values, defective = scores(detector, reader, count, inspector.device, name)
        found.append([auroc(way[~defective], way[defective]) for way in values.T])
    ranked = sorted(zip(*found, WAYS, strict=True), key=lambda row: row[0], reverse=True)
    lines = [[*way, f"{pseudo:.3f}", f"{true:.3f}"] for pseudo, true, way in ranked]
    print(markdown(["witness", "reduce", "pseudo AUROC", "true AUROC"], lines))
    print(
        f"\nrank correlation {spearmanr(*found).statistic:.2f} over {len(WAYS)} ways; the one "
        f"chosen by the pseudo AUROC reaches {ranked[0][1]:.3f}, the best {max(found[1]):.3f}"
    )
    return 0


if __name__ == "__main__":
    run_script(main)
