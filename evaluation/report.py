"""Report of an evaluation: text to print, and the contents of the files that are written.

Metrics are those of `evaluation.measure`, by name. Undefined ones are NaN; they are left out of the
text and the page, null in JSON and empty in CSV.
"""

import base64
import csv
import io
import json
import platform
import time
from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from statistics import fmean

import numpy as np
import yaml
from matplotlib.figure import Figure
from PIL import Image
from sklearn.metrics import roc_curve

from evaluation.measure import Row, scores_by_class
from inspection.inspector import Inspector
from inspection.panel import panel, stack
from inspection.threshold import Calibration
from utils.config import Config
from utils.files import CSV_ENCODING, printable

MAX_CASES = 4  # images in each picture of worst cases
GOOD, DEFECT = "#2a9d5c", "#d1495b"  # colours of the curves

# Metrics that are averaged over categories: name -> (heading, format).
MEANS = {
    "image_auroc": ("image AUROC", ".4f"),
    "image_ap": ("image AP", ".4f"),
    "pixel_auroc": ("pixel AUROC", ".4f"),
    "pixel_ap": ("pixel AP", ".4f"),
    "aupro_0.3": ("AUPRO 0.3", ".4f"),
    "false_alarms": ("false alarms", ".1%"),
    "recall": ("defects found", ".1%"),
    "f1": ("F1", ".4f"),
    "ms_per_image": ("ms an image", ".0f"),
    "peak_mib": ("peak MiB", ".0f"),
}


def unit_of(metrics: Mapping[str, float]) -> str:
    """Return what metrics were measured on: image, or part, by the highest score of its images."""
    return "part" if "good_parts" in metrics else "image"


def summary(metrics: dict[str, float], synthetic: bool) -> str:
    """Return the metrics of a category as text, the image AUROC first."""
    m, unit = metrics, unit_of(metrics)
    good, defective = m[f"good_{unit}s"], m[f"defective_{unit}s"]

    def line(name: str, value: float, form: str = ".4f", note: str = "") -> str | None:
        note = f"   ({note})" if note else ""
        return None if isnan(value) else f"{name:<18} {value:{form}}{note}"

    if good and defective:
        first = (
            f"{m['image_auroc']:.4f}   (95% interval {m['image_auroc_low']:.3f} to "
            f"{m['image_auroc_high']:.3f}; {good} good, {defective} defective {unit}s)"
        )
    else:
        first = f"undefined: no {'defective' if good else 'good'} {unit}s were tested"
    promised = f"promised {100 * m['false_alarms_promised']:.3g}%"
    alarms = f"{m['good_called_defective']} of {good} good parts; {promised}"
    found = f"{m['defects_found']} of {defective} defective parts"
    picked = f"threshold {m['oracle_threshold']:.4g} picked with the test labels"
    lines = [
        f"{'PSEUDO ' if synthetic else ''}{unit.upper()} AUROC  {first}\n",
        f"at the threshold of {m['threshold']:.4g}:",
        line("false alarms", m["false_alarms"], ".1%", alarms),
        line("defects found", m["recall"], ".1%", found),
        line("F1", m["f1"], note=f"precision {m['precision']:.3f}"),
        "",
        line(f"{unit} AP", m["image_ap"]),
        line("oracle F1-max", m["oracle_f1"], note=picked),
        line("pixel AUROC", m["pixel_auroc"]),
        line("pixel AP", m["pixel_ap"]),
        line("AUPRO at FPR 0.3", m["aupro_0.3"]),
        line("AUPRO at FPR 0.05", m["aupro_0.05"]),
    ]
    if m["pixel_error"] > 0:
        error = m["pixel_error"] + 5e-6  # five digits, rounded up: it is a bound
        lines.append(f"pixel metrics are computed in bins: off by at most {error:.5f}")
    lines += [f"speed              {m['ms_per_image']:.0f} ms an image, {m['batch']} at a time", ""]
    kinds = [name.removeprefix("auroc_") for name in m if name.startswith("auroc_")]
    lines += [line(f"AUROC of {kind:<16}", m[f"auroc_{kind}"]) for kind in kinds]
    return "\n".join(text for text in lines if text is not None).rstrip()


def kinds_table(
    rows: Sequence[Row], metrics: dict[str, float], calibration: Calibration
) -> list[dict]:
    """Return a row for each kind of defect and one for good parts, by heading."""
    table = []
    for kind in sorted({row.kind for row in rows}, key=lambda kind: (kind == "good", kind)):
        scores = [row.score for row in rows if row.kind == kind]
        value = metrics.get(f"auroc_{kind}", nan)
        table.append(
            {
                "kind": kind,
                f"{unit_of(metrics)}s": len(scores),
                "called defective": sum(map(calibration.is_defect, scores)),
                "AUROC": "" if isnan(value) else f"{value:.3f}",
                "lowest score": f"{min(scores):.4g}",
                "highest score": f"{max(scores):.4g}",
            }
        )
    return table


def tables(
    rows: Sequence[Row], metrics: dict[str, float], calibration: Calibration
) -> dict[str, bytes]:
    """Return metrics.json, metrics.csv and scores.csv, which has a line for each image."""
    scores = [
        [row.test.path, row.test.defect, row.score, calibration.verdict(row.score)] for row in rows
    ]
    return {
        "metrics.json": _json(metrics),
        "metrics.csv": _csv([metrics.keys(), metrics.values()]),
        "scores.csv": _csv([["path", "defect", "score", "verdict"], *scores]),
    }


def mean_metrics(by_category: Mapping[str, dict[str, float]]) -> dict[str, float]:
    """Return the means over categories; NaN where one of them has none."""
    return {name: fmean(one[name] for one in by_category.values()) for name in MEANS}


def overview(by_category: Mapping[str, dict[str, float]]) -> str:
    """Return a line of text for each category, and one for their mean."""
    width = max(map(len, by_category))
    lines = ["  ".join([" " * width, *(heading for heading, _ in MEANS.values())])]
    for category, metrics in {**by_category, "MEAN": mean_metrics(by_category)}.items():
        values = (
            ("" if isnan(metrics[name]) else format(metrics[name], form)).rjust(len(heading))
            for name, (heading, form) in MEANS.items()
        )
        lines.append("  ".join([category.ljust(width), *values]))
    return "\n".join(lines)


def mean_tables(by_category: Mapping[str, dict[str, float]]) -> dict[str, bytes]:
    """Return metrics.json of the means, and metrics.csv with a line for each category too."""
    mean = mean_metrics(by_category)
    lines = [[name, *(one[key] for key in MEANS)] for name, one in by_category.items()]
    table = [["category", *MEANS], *lines, ["mean", *mean.values()]]
    return {"metrics.json": _json(mean), "metrics.csv": _csv(table)}


def plots(
    rows: Sequence[Row], metrics: dict[str, float], calibration: Calibration
) -> dict[str, bytes]:
    """Return histogram.png of the scores, and roc.png if there are good and defective images."""
    good, defect = scores_by_class(rows)
    threshold = calibration.threshold
    edges = np.histogram_bin_edges(np.concatenate([good, defect, [threshold]]), 40)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    if len(good):
        axes.hist(good, edges, color=GOOD, alpha=0.7, label=f"good ({len(good)})")
    if len(defect):
        axes.hist(defect, edges, color=DEFECT, alpha=0.6, label=f"defective ({len(defect)})")
    axes.axvline(threshold, color="0.2", linestyle="--", label=f"threshold {threshold:.4g}")
    axes.set(xlabel="score", ylabel=f"{unit_of(metrics)}s")
    axes.legend()
    files = {"histogram.png": _png(figure)}
    if len(good) and len(defect):
        labels = np.repeat([0, 1], [len(good), len(defect)])
        false_rate, true_rate, _ = roc_curve(labels, np.concatenate([good, defect]))
        figure = Figure(figsize=(5, 5), layout="constrained")
        axes = figure.add_subplot()
        axes.plot([0, 1], [0, 1], color="0.8", linewidth=1)  # chance
        axes.plot(false_rate, true_rate, color=DEFECT)
        axes.set(
            xlabel="share of good parts called defective",
            ylabel="share of defective parts found",
            title=f"{unit_of(metrics)} AUROC {metrics['image_auroc']:.3f}",
            aspect="equal",
        )
        files["roc.png"] = _png(figure)
    return files


def worst_cases(
    rows: Sequence[Row], inspector: Inspector, calibration: Calibration
) -> dict[str, list[Image.Image]]:
    """Return panels of the defective images with the lowest scores and good ones with the highest.

    They are by name, lowest_defective and highest_good; a class without images has none.
    """
    ordered = sorted(rows, key=lambda row: row.score)
    chosen = {
        "lowest_defective": [row for row in ordered if row.test.is_defect][:MAX_CASES],
        "highest_good": [row for row in ordered[::-1] if not row.test.is_defect][:MAX_CASES],
    }
    panels = {}
    for name, cases in chosen.items():
        for row in cases:
            # Inspected once more: maps of all test images would not fit in memory.
            inspection = inspector.inspect(row.test.read()[0])
            title = f"{row.test.defect}/{row.test.path.name}"
            panels.setdefault(name, []).append(panel(inspection, calibration, title))
    return panels


def stacked(panels: Mapping[str, list[Image.Image]]) -> dict[str, bytes]:
    """Return the panels of each name as one picture, <name>.png."""
    return {f"{name}.png": _encoded(stack(several), "PNG") for name, several in panels.items()}


def html_report(
    title: str,
    about: str,
    metrics: Mapping[str, float],
    kinds: Sequence[Mapping[str, object]],
    plots: Mapping[str, bytes],
    panels: Mapping[str, Sequence[Image.Image]],
    problems: Sequence[str],
    config: Config,
) -> bytes:
    """Return an evaluation as one page that needs no other file, made by report.html.j2.

    Args:
        title: its heading.
        about: a line below it: what was measured.
        metrics: by name.
        kinds: rows of `kinds_table`, at least one.
        plots: PNG pictures of curves, by name.
        panels: of `worst_cases`.
        problems: lines on images that were left out, and the like.
        config: settings of the run.
    """
    from jinja2 import Environment, FileSystemLoader  # late: nothing else needs it

    # Names of files and folders cannot break the page: autoescape.
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True
    )
    pages.filters["base64"] = lambda content: base64.b64encode(content).decode()
    pages.filters["jpeg"] = lambda picture: _encoded(picture, "JPEG", quality=85)
    page = pages.get_template("report.html.j2").render(
        title=title,
        about=about,
        m=metrics,
        unit=unit_of(metrics),
        kinds=kinds,
        plots=plots,
        panels=panels,
        problems=problems,
        settings=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
        made=f"{time.strftime('%Y-%m-%d %H:%M')}, Python {platform.python_version()}",
    )
    return printable(page).encode()


def _json(metrics: dict[str, float]) -> bytes:
    defined = {name: None if isnan(value) else value for name, value in metrics.items()}
    return json.dumps(defined, indent=2).encode()


def _csv(lines: Iterable[Iterable]) -> bytes:
    buffer = io.StringIO(newline="")
    # NaN alone differs from itself.
    csv.writer(buffer).writerows([x if x == x else None for x in line] for line in lines)
    return printable(buffer.getvalue()).encode(CSV_ENCODING)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _encoded(picture: Image.Image, form: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return buffer.getvalue()
