"""One evaluation, from the images of a category to the files that are written of it."""

import sys
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from data.images import pixel_digest, read_ahead
from data.input_profile import InputCheck
from data.mvtec import Category, TestImage
from evaluation.measure import (
    collect_pixels,
    measure,
    part_rows,
    pseudo_readers,
    score_split,
    without_known,
)
from evaluation.metrics import BinnedPixelScores, PixelScores
from evaluation.report import (
    html_report,
    kinds_table,
    plots,
    stacked,
    summary,
    tables,
    worst_cases,
)
from inspection.inspector import Inspector
from utils.errors import UserError

# All that an evaluation writes.
FILES = {
    "metrics.json",
    "metrics.csv",
    "scores.csv",
    "histogram.png",
    "roc.png",
    "lowest_defective.png",
    "highest_good.png",
    "report.html",
}

# Lists the files, and the folders of categories with a slash, that an evaluation wrote into its
# folder: all else there is the user's.
WRITTEN = "eval_files.txt"


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

    if synthetic and file.suffix == ".onnx":
        raise UserError("--synthetic needs the checkpoint: an export cannot leave images out")
    if synthetic:
        tests, readers = pseudo_readers(inspector, category.folder.parent, category.name)
        # Drawn at the size of the originals, of which images in tiles have many pixels.
        pixels = BinnedPixelScores() if config.data.tile else PixelScores()
        measured_on = "defects drawn on good images"
    else:
        tests, excluded = without_known(category.test_images(), inspector.known_defects)
        readers = [(nullcontext(), read_ahead(tests, read))]
        pixels, notices = collect_pixels(tests)
        notices = excluded + notices
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
    if not synthetic:  # drawn on the good images, which are like themselves
        check = InputCheck(category.name, calibration.profile, len(calibration.scores))
        for row in rows:
            check.add(row.measures)
        check.end()
    parts = part_rows(rows, inspector.group, category.name)
    metrics = measure(parts, pixels, calibration, inspector.batch)
    title = f"{config.model} on {category.name}"
    print(f"{title}, {file}\n\n{summary(metrics, synthetic)}\n")

    curves = plots(parts, metrics, calibration)
    panels = worst_cases(parts, inspector, calibration)
    files = tables(rows, metrics, calibration) | curves | stacked(panels)
    if html:
        kinds = kinds_table(parts, metrics, calibration)
        lines = notices + problems
        about = f"{file}; {measured_on}"
        files["report.html"] = html_report(
            title, about, metrics, kinds, curves, panels, lines, config
        )
    replace_files(output, files)
    return metrics, problems


def refuse_foreign(folder: Path, names: Iterable[str] = FILES) -> None:
    """Raise `UserError` if a file of one of these names is there that no evaluation wrote."""
    for name in sorted(set(names) - _written(folder)):
        if (folder / name).exists():
            raise UserError(
                f"{folder / name} is none of eval.py, and nothing is overwritten; name another "
                "folder by --output"
            )


def record_folders(output: Path, names: Iterable[str]) -> None:
    """List folders of categories as written, before they are: an evaluation may be interrupted."""
    written = _written(output) | {f"{name}/" for name in names}
    (output / WRITTEN).write_text("\n".join(sorted(written)), encoding="utf-8")


def replace_files(folder: Path, files: Mapping[str, bytes], keep: Iterable[str] = ()) -> None:
    """Write an evaluation's files, in place of all that the last one in this folder wrote.

    Args:
        folder: where.
        files: contents by name.
        keep: names of the folders of categories that this evaluation has written already.

    Raises:
        UserError: as `refuse_foreign` does.
    """
    refuse_foreign(folder, files)
    kept = {f"{name}/" for name in keep}
    _remove(folder, _written(folder) - kept)
    (folder / WRITTEN).write_text("\n".join([*files, *sorted(kept)]), encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _written(folder: Path) -> set[str]:
    """Return what the last evaluation in a folder listed of files and of folders of categories."""
    try:
        lines = (folder / WRITTEN).read_text("utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return set()
    # A list that somebody else wrote must not reach outside of the folder.
    inside = {line for line in lines if line == f"{Path(line).name}/" and line not in ("/", "../")}
    return inside | FILES.intersection(lines)


def _remove(folder: Path, written: set[str]) -> None:
    """Remove files of an evaluation, and folders of categories unless a user's files are there."""
    for name in written:
        if name in FILES:
            (folder / name).unlink(missing_ok=True)
        elif (folder / name / WRITTEN).exists():
            _remove(folder / name, _written(folder / name))
            (folder / name / WRITTEN).unlink()
            if not any((folder / name).iterdir()):
                (folder / name).rmdir()
