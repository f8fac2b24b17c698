"""The results of a benchmark as CSV, as a table in Markdown and as a chart."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import fmean
from typing import BinaryIO

import numpy as np
from matplotlib.figure import Figure

from benchmarks.experiment import Row
from utils.files import CSV_ENCODING, replacing, write_whole

# Columns of the table: name in a row -> (heading, format).
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

INTERVAL = ["image_auroc_low", "image_auroc_high"]


def write_results(rows: list[Row], folder: Path) -> None:
    """Write results.csv, results.md and chart.png, each whole, of the rows there are so far."""
    text = io.StringIO()
    names = ["model", "category", "image_auroc", *INTERVAL, *list(COLUMNS)[1:], "error", "notice"]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(folder / "results.csv") as file:
        file.write(text.getvalue().encode(CSV_ENCODING))
    write_whole(folder / "results.md", table(rows) + "\n")
    with replacing(folder / "chart.png") as file:
        save_chart(rows, file)


def table(rows: list[Row]) -> str:
    """Return the rows in Markdown, and below those of each detector their mean."""
    lines: list[list[str]] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        lines += map(_entries, mine + [mean_row(mine)] * (len(mine) > 1))
    return markdown(["detector", "category", *(heading for heading, _ in COLUMNS.values())], lines)


def markdown(headings: list[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def mean_row(rows: list[Row]) -> Row:
    """Return the mean over the categories of one detector, as papers print it.

    Failed cells are left out, and its name says how many. A number that one of the others lacks is
    None.
    """
    done = [row for row in rows if row["error"] is None]
    label = "mean" if len(done) == len(rows) else f"mean of {len(done)} of {len(rows)}"
    row: Row = {"model": rows[0]["model"], "category": f"**{label}**", "error": None}
    for name in COLUMNS:
        values = [one.get(name) for one in done]
        row[name] = fmean(values) if values and None not in values else None
    return row


def _entries(row: Row) -> list[str]:
    """Return a row as text, an entry for each column."""
    if row["error"] is not None:
        numbers = ["failed: " + row["error"].replace("|", "\\|"), *[""] * (len(COLUMNS) - 1)]
    else:
        columns = ((row.get(name), form) for name, (_, form) in COLUMNS.items())
        numbers = ["" if value is None else format(value, form) for value, form in columns]
        low, high = map(row.get, INTERVAL)
        if low is not None:
            numbers[0] += f" ({low:.3f} to {high:.3f})"
    return [row["model"], row["category"], *numbers]


def save_chart(rows: list[Row], file: BinaryIO) -> None:
    """Write a PNG with bars of image AUROC for each category, a colour for each detector."""
    rows = [row for row in rows if row.get("image_auroc") is not None]
    models = list(dict.fromkeys(row["model"] for row in rows))
    categories = sorted({row["category"] for row in rows})
    width = 0.8 / max(1, len(models))  # of the distance between two categories; the rest is a gap
    figure = Figure(figsize=(3 + 0.4 * len(categories) * len(models), 4), layout="constrained")
    axes = figure.add_subplot()
    for number, model in enumerate(models):
        mine = [row for row in rows if row["model"] == model]
        first = (number - (len(models) - 1) / 2) * width
        positions = [categories.index(row["category"]) + first for row in mine]
        values = np.array([row["image_auroc"] for row in mine])
        # A mean over the categories of one model has no interval.
        ends = [[row.get(name, row["image_auroc"]) for row in mine] for name in INTERVAL]
        errors = np.maximum([values - ends[0], ends[1] - values], 0)
        axes.bar(positions, values, width, yerr=errors, label=model, ecolor="0.2", capsize=2)
    axes.axhline(0.5, color="0.5", linewidth=1, linestyle="--")  # chance
    axes.set(ylabel="image AUROC, 95% interval", ylim=(0, 1.02))
    axes.set_xticks(range(len(categories)), categories, rotation=30, ha="right")
    if models:
        figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(file, format="png")
