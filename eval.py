"""Measure a trained detector on the official test split.

    python eval.py                                    the newest run
    python eval.py --category wood                    the newest run of a category
    python eval.py --checkpoint checkpoints/<run>     a certain one
    python eval.py --synthetic                        without test images, to choose settings by
    python eval.py --html                             and a page to file or to send

Prints the metrics and writes them to outputs/<run>/eval/ with plots and the worst cases.
"""

import argparse
import csv
import json
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from data.images import ImageError, read_ahead
from data.mvtec import Category, TestImage, split_holdout
from data.pseudo_defects import PseudoImage, pseudo_split, read_cross_fitted
from inspection.html_report import html_report
from inspection.inspector import Inspector
from inspection.open_run import add_run_flags, open_run
from inspection.panel import panel, stack
from inspection.plots import save_histogram, save_roc
from models.anomaly_map import full_size
from utils.batches import add_batch_flag
from utils.calibration import Calibration
from utils.errors import run_script
from utils.memory import peak_mib
from utils.metrics import (
    PixelScores,
    auroc,
    average_precision,
    bootstrap_auroc,
    oracle_f1,
    precision_recall_f1,
)
from utils.runs import run_name

WORST = 4  # images in each picture of worst cases


def parse_args() -> argparse.Namespace:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_run_flags(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: outputs/<run>/eval")
    parser.add_argument(
        "--synthetic",
        action="store_true",
        help="measure with defects synthesised on the held-out good images, to choose settings "
        "by; the test split is not touched",
    )
    parser.add_argument(
        "--html", action="store_true", help="also write all of it as one page, report.html"
    )
    add_batch_flag(parser)
    return parser.parse_args()


@dataclass
class Row:
    """One test image and its score."""

    test: TestImage | PseudoImage
    score: float
    milliseconds: float


Reader = Iterable[tuple[TestImage | PseudoImage, Any]]


def with_masks(reader: Reader) -> Iterator[tuple[tuple[TestImage | PseudoImage, Any], Any]]:
    """Test images and their masks on the one side, images, or errors, on the other."""
    for test, found in reader:
        image, mask = (found, None) if isinstance(found, ImageError) else found
        yield (test, mask), image


def score_split(
    inspector: Inspector, readers: Iterable[Reader], count: int
) -> tuple[list[Row], PixelScores, list[str]]:
    """Inspect the `count` test images that are read; returns rows, pixels and what went wrong.

    No batch has images of two readers: between them the scale of the anomaly map may change.
    """
    rows, pixels, problems = [], PixelScores(), []
    inspections = chain.from_iterable(
        inspector.inspect_all(with_masks(reader)) for reader in readers
    )
    for (test, mask), inspection in tqdm(inspections, "scoring", count, unit="image", disable=None):
        if isinstance(inspection, ImageError):
            problems.append(f"left out: {inspection}")
            continue
        rows.append(Row(test, inspection.score, inspection.milliseconds))
        if isinstance(mask, ImageError):
            problems.append(f"left out of the pixel metrics: {mask}")
            continue
        pixels.add(full_size(inspection.anomaly_map, inspection.size), mask)
    return rows, pixels, problems


def measure(rows: list[Row], pixels: PixelScores, calibration: Calibration, batch: int) -> dict:
    """All metrics by name; those that the test split does not allow are NaN."""
    good = np.array([row.score for row in rows if not row.test.is_defect])
    defect = np.array([row.score for row in rows if row.test.is_defect])
    low, high = bootstrap_auroc(good, defect)
    f1, f1_threshold = oracle_f1(good, defect)
    precision, recall, calibrated_f1 = precision_recall_f1(good, defect, calibration.threshold)
    metrics = {
        "image_auroc": auroc(good, defect),
        "image_auroc_low": low,
        "image_auroc_high": high,
        "image_ap": average_precision(good, defect),
        "precision": precision,
        "recall": recall,
        "f1": calibrated_f1,
        "threshold": calibration.threshold,
        "oracle_f1": f1,
        "oracle_threshold": f1_threshold,
        **pixels.results(),
        "ms_per_image": float(np.median([row.milliseconds for row in rows])),
        "batch": batch,
        "peak_mib": peak_mib(),
        "good_images": len(good),
        "defective_images": len(defect),
    }
    for name in sorted({row.test.defect for row in rows if row.test.is_defect}):
        scores = np.array([row.score for row in rows if row.test.defect == name])
        metrics[f"auroc_{name}"] = auroc(good, scores)
    return metrics


def report(metrics: dict, synthetic: bool) -> str:
    """The metrics as text, the image AUROC first."""
    m = metrics
    lines = [
        f"{'PSEUDO ' if synthetic else ''}IMAGE AUROC  {m['image_auroc']:.4f}   "
        f"(95% interval {m['image_auroc_low']:.3f} to {m['image_auroc_high']:.3f}; "
        f"{m['good_images']} good, {m['defective_images']} defective images)",
        "",
        f"image AP           {m['image_ap']:.4f}",
        f"at threshold {m['threshold']:.4g}: precision {m['precision']:.3f}, "
        f"recall {m['recall']:.3f}, F1 {m['f1']:.3f}",
        f"oracle F1-max      {m['oracle_f1']:.4f}   (threshold {m['oracle_threshold']:.4g} "
        "picked with the test labels)",
        f"pixel AUROC        {m['pixel_auroc']:.4f}",
        f"pixel AP           {m['pixel_ap']:.4f}",
        f"AUPRO at FPR 0.3   {m['aupro_0.3']:.4f}",
        f"AUPRO at FPR 0.05  {m['aupro_0.05']:.4f}",
        f"speed              {m['ms_per_image']:.0f} ms an image, {m['batch']} at a time",
        "",
    ]
    for name, value in metrics.items():
        if name.startswith("auroc_"):
            lines.append(f"AUROC of {name.removeprefix('auroc_'):<16} {value:.4f}")
    return "\n".join(lines)


def by_defect(rows: list[Row], metrics: dict, calibration: Calibration) -> list[dict]:
    """For each kind of defect, and for good parts, how many there are and how many are right."""
    table = []
    for kind in sorted({row.test.defect for row in rows}, key=lambda kind: (kind == "good", kind)):
        of_kind = [row for row in rows if row.test.defect == kind]
        marked = sum(calibration.is_defect(row.score) for row in of_kind)
        table.append(
            {
                "kind": kind,
                "images": len(of_kind),
                "called defective": marked,
                "AUROC": f"{metrics[f'auroc_{kind}']:.3f}" if kind != "good" else "",
                "lowest score": f"{min(row.score for row in of_kind):.4g}",
                "highest score": f"{max(row.score for row in of_kind):.4g}",
            }
        )
    return table


def worst_cases(rows: list[Row], inspector: Inspector) -> list[Image.Image]:
    """Panels of the given rows."""
    panels = []
    for row in rows:
        inspection = inspector.inspect(row.test.read()[0])
        title = f"{row.test.defect}/{row.test.path.name}"
        panels.append(panel(inspection, inspector.calibration, title))
    return panels


def main() -> int:
    """Evaluate and write the results; returns the exit status."""
    args = parse_args()
    settings = vars(args)
    file, inspector = open_run(args)
    config, calibration = inspector.config, inspector.calibration
    category = Category.chosen(config.data, settings["data.root"], settings["data.category"])
    if args.synthetic:
        _, held_out = split_holdout(
            category.train_images(), config.calibration.holdout, config.seed
        )
        tests = pseudo_split(held_out, config.data.size)
        readers = read_cross_fitted(tests, inspector.standardise)
        measured_on = "defects synthesised on held-out good images"
    else:
        tests = category.test_images()
        readers = [read_ahead(tests, TestImage.read)]
        measured_on = f"images of {category.folder / 'test'}"
    folder = "synthetic" if args.synthetic else "eval"
    output = args.output or Path("outputs") / run_name(file) / folder
    output.mkdir(parents=True, exist_ok=True)

    rows, pixels, problems = score_split(inspector, readers, len(tests))
    metrics = measure(rows, pixels, calibration, inspector.batch)
    heading = f"{config.model} on {category.name}, {file}"
    print(f"{heading}\n\n{report(metrics, args.synthetic)}\n")

    with (output / "metrics.json").open("w") as stream:
        json.dump({key: none_if_nan(value) for key, value in metrics.items()}, stream, indent=2)
    with (output / "metrics.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([metrics.keys(), metrics.values()])
    with (output / "scores.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "defect", "score", "verdict"])
        for row in rows:
            verdict = calibration.verdict(row.score)
            writer.writerow([row.test.path, row.test.defect, row.score, verdict])

    good = sorted((row for row in rows if not row.test.is_defect), key=lambda row: -row.score)
    defective = sorted((row for row in rows if row.test.is_defect), key=lambda row: row.score)
    missed = worst_cases(defective[:WORST], inspector)
    alarming = worst_cases(good[:WORST], inspector)
    for name, pictures in {"lowest_defective": missed, "highest_good": alarming}.items():
        if pictures:
            stack(pictures).save(output / f"{name}.png")
    if good and defective:
        scores = [np.array([row.score for row in group]) for group in (good, defective)]
        save_roc(*scores, metrics["image_auroc"], output / "roc.png")
        save_histogram(*scores, calibration.threshold, output / "histogram.png")
    if args.html:
        page = html_report(
            f"{config.model} on {category.name}",
            f"{file}; {measured_on}",
            metrics,
            by_defect(rows, metrics, calibration),
            [output / "roc.png", output / "histogram.png"],
            {
                "Defective parts with the lowest scores": missed,
                "Good parts with the highest scores": alarming,
            },
            problems,
            config,
        )
        (output / "report.html").write_text(page, encoding="utf-8")
    print(f"metrics, plots and worst cases are in {output}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


def none_if_nan(value: float) -> float | None:
    """JSON knows no NaN."""
    return None if isinstance(value, float) and np.isnan(value) else value


if __name__ == "__main__":
    run_script(main)
