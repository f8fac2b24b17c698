"""One evaluation, from the images of a category to the files that are written of it."""

import sys
from pathlib import Path
from typing import Any

import numpy as np

from data.images import pixel_digest, read_ahead
from data.mvtec import Category, TestImage
from evaluation.html_report import html_report
from evaluation.measure import collect_pixels, measure, score_split
from evaluation.metrics import BinnedPixelScores, PixelScores
from evaluation.report import (
    kinds_table,
    plots,
    replace_files,
    stacked,
    summary,
    tables,
    worst_cases,
)
from evaluation.synthetic_split import pseudo_readers
from inspection.inspector import Inspector
from utils.files import printable


def evaluate(
    inspector: Inspector, file: Path, category: Category, output: Path, synthetic: bool, html: bool
) -> tuple[dict[str, float], list[str]]:
    """Measure a detector on one category, print the metrics and write them to a folder.

    Args:
        inspector: the detector.
        file: that it is in.
        category: one that it knows.
        output: folder for the results.
        synthetic: measure with defects drawn on good images, in place of the test split.
        html: write report.html, too.

    Returns:
        The metrics by name, and a line for each image or mask that could not be used.
    """
    config, calibration = inspector.config, inspector.calibrations[category.name]
    notices: list[str] = []
    known, copies = set(calibration.digests), []

    def read(test: TestImage) -> tuple[np.ndarray, Any]:
        image, mask = test.read()
        if pixel_digest(image) in known:
            copies.append(test.path)
        return image, mask

    if synthetic:
        tests, readers = pseudo_readers(inspector, category.folder.parent, category.name)
        # Drawn at the size of the originals, of which images in tiles have many pixels.
        pixels = BinnedPixelScores() if config.data.tile else PixelScores()
        measured_on = "defects drawn on good images"
    else:
        tests = category.test_images()
        readers = [read_ahead(tests, read)]
        pixels, notices = collect_pixels(tests)
        measured_on = f"images of {category.folder / 'test'}"
    for notice in notices:
        print(notice, file=sys.stderr)
    rows, problems = score_split(inspector, readers, len(tests), pixels)
    if copies:
        notices.append(
            f"{len(copies)} of {len(tests)} test images are copies of images that the detector "
            f"has learned or was calibrated on, such as {min(copies)}: the metrics flatter it"
        )
        print(notices[-1], file=sys.stderr)
    metrics = measure(rows, pixels, calibration, inspector.batch)
    title = f"{config.model} on {category.name}"
    print(f"{title}, {file}\n\n{summary(metrics, synthetic)}\n")

    curves = plots(rows, metrics, calibration)
    panels = worst_cases(rows, inspector, calibration)
    files = tables(rows, metrics, calibration) | curves | stacked(panels)
    if html:
        kinds = kinds_table(rows, metrics, calibration)
        lines = notices + problems
        about = f"{file}; {measured_on}"
        page = html_report(title, about, metrics, kinds, curves, panels, lines, config)
        files["report.html"] = printable(page).encode()
    replace_files(output, files)
    return metrics, problems
