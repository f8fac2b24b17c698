"""The results of a benchmark as CSV, as a table in Markdown and as a chart."""

import csv
import io
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.experiment import Row
from evaluation.plots import save_auroc_bars
from utils.files import replacing, write_whole

COLUMNS = {
    "image_auroc": ("image AUROC (95% interval)", ".3f"),
    "pixel_auroc": ("pixel AUROC", ".3f"),
    "pixel_ap": ("pixel AP", ".3f"),
    "aupro_0.3": ("AUPRO 0.3", ".3f"),
    "f1": ("F1 at threshold", ".3f"),
    "fit_seconds": ("fit s", ".1f"),
    "ms_per_image": ("ms an image", ".1f"),
    "fit_peak_mib": ("peak MiB, fit", ".0f"),
    "eval_peak_mib": ("peak MiB, eval", ".0f"),
    "checkpoint_mib": ("checkpoint MiB", ".1f"),
}
"""Columns of the table: name in a row -> (heading, format)."""

AUROC = ["image_auroc", "image_auroc_low", "image_auroc_high"]


def write_results(rows: list[Row], folder: Path) -> None:
    """Write results.csv, results.md and chart.png, each whole, of the rows there are so far."""
    folder.mkdir(parents=True, exist_ok=True)
    text = io.StringIO()
    names = ["model", "category", *AUROC, *list(COLUMNS)[1:], "error", "notice"]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(folder / "results.csv", text.getvalue())
    write_whole(folder / "results.md", table(rows) + "\n")
    bars: dict[str, dict[str, list[float]]] = defaultdict(dict)
    for row in rows:
        values = [row.get(name) for name in AUROC]
        if None not in values:
            bars[row["model"]][row["category"]] = values
    with replacing(folder / "chart.png") as file:
        save_auroc_bars(bars, file)


def table(rows: list[Row]) -> str:
    """The rows in Markdown, and below those of each detector their mean."""
    lines: list[list[str]] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        lines += map(_entries, mine + [mean_row(mine)] * (len(mine) > 1))
    return markdown(["detector", "category", *(heading for heading, _ in COLUMNS.values())], lines)


def markdown(headings: list[str], lines: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def mean_row(rows: list[Row]) -> Row:
    """The mean over the categories of one detector, as papers print it.

    Cells that failed are left out, and its name tells how many. The mean of a number that is
    undefined in one of the others is undefined.
    """
    done = [row for row in rows if row["error"] is None]
    label = "mean" if len(done) == len(rows) else f"mean of {len(done)} of {len(rows)}"
    row: Row = {"model": rows[0]["model"], "category": f"**{label}**", "error": None}
    for name in COLUMNS:
        values = [row[name] for row in done]
        row[name] = math.fsum(values) / len(values) if values and None not in values else None
    return row


def _entries(row: Row) -> list[str]:
    """A row as text, an entry for each column."""
    if row["error"] is not None:
        numbers = ["failed: " + row["error"].replace("|", "\\|"), *[""] * (len(COLUMNS) - 1)]
    else:
        columns = ((row[name], form) for name, (_, form) in COLUMNS.items())
        numbers = ["" if value is None else format(value, form) for value, form in columns]
        if row.get("image_auroc_low") is not None:
            numbers[0] += f" ({row['image_auroc_low']:.3f} to {row['image_auroc_high']:.3f})"
    return [row["model"], row["category"], *numbers]
