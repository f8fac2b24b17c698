"""What is said of an evaluation: printed, and in the files that it writes."""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan
from pathlib import Path
from statistics import fmean

from PIL import Image

from evaluation.measure import Row, scores_by_class
from evaluation.plots import histogram, roc
from inspection.inspector import Inspector
from inspection.panel import panel, stack
from inspection.threshold import Calibration
from utils.errors import UserError
from utils.files import printable

WORST = 4  # images in each picture of worst cases
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
"""What is averaged over categories: name -> (heading, format)."""
WRITTEN = "eval_files.txt"
"""Says which of these an evaluation wrote: what else lies in its folder is the user's."""


def summary(metrics: dict[str, float], synthetic: bool) -> str:
    """The metrics as text, the image AUROC first; those that are NaN are left out."""
    m, good, defective = metrics, metrics["good_images"], metrics["defective_images"]

    def line(name: str, value: float, form: str = ".4f", note: str = "") -> str | None:
        note = f"   ({note})" if note else ""
        return None if isnan(value) else f"{name:<18} {value:{form}}{note}"

    if good and defective:
        first = (
            f"{m['image_auroc']:.4f}   (95% interval {m['image_auroc_low']:.3f} to "
            f"{m['image_auroc_high']:.3f}; {good} good, {defective} defective images)"
        )
    else:
        first = f"undefined: no {'defective' if good else 'good'} images were tested"
    promised = f"promised {100 * m['false_alarms_promised']:.3g}%"
    alarms = f"{m['good_called_defective']} of {good} good parts; {promised}"
    found = f"{m['defects_found']} of {defective} defective parts"
    picked = f"threshold {m['oracle_threshold']:.4g} picked with the test labels"
    lines = [
        f"{'PSEUDO ' if synthetic else ''}IMAGE AUROC  {first}\n",
        f"at the threshold of {m['threshold']:.4g}:",
        line("false alarms", m["false_alarms"], ".1%", alarms),
        line("defects found", m["recall"], ".1%", found),
        line("F1", m["f1"], note=f"precision {m['precision']:.3f}"),
        "",
        line("image AP", m["image_ap"]),
        line("oracle F1-max", m["oracle_f1"], note=picked),
        line("pixel AUROC", m["pixel_auroc"]),
        line("pixel AP", m["pixel_ap"]),
        line("AUPRO at FPR 0.3", m["aupro_0.3"]),
        line("AUPRO at FPR 0.05", m["aupro_0.05"]),
    ]
    if m["pixel_error"] > 0:
        error = m["pixel_error"] + 5e-6  # rounded up
        lines.append(f"pixel metrics are counted in bins: off by at most {error:.5f}")
    lines += [f"speed              {m['ms_per_image']:.0f} ms an image, {m['batch']} at a time", ""]
    kinds = [name.removeprefix("auroc_") for name in m if name.startswith("auroc_")]
    lines += [line(f"AUROC of {kind:<16}", m[f"auroc_{kind}"]) for kind in kinds]
    return "\n".join(text for text in lines if text is not None).rstrip()


def kinds_table(
    rows: Sequence[Row], metrics: dict[str, float], calibration: Calibration
) -> list[dict]:
    """For each kind of defect, and for good parts, how many there are and how many are right."""
    table = []
    for kind in sorted({row.kind for row in rows}, key=lambda kind: (kind == "good", kind)):
        scores = [row.score for row in rows if row.kind == kind]
        value = metrics.get(f"auroc_{kind}", nan)
        table.append(
            {
                "kind": kind,
                "images": len(scores),
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
    """metrics.json, where NaN is null, metrics.csv, and scores.csv with a line an image."""
    scores = [
        [row.test.path, row.test.defect, row.score, calibration.verdict(row.score)] for row in rows
    ]
    return {
        "metrics.json": _json(metrics),
        "metrics.csv": _csv([metrics.keys(), metrics.values()]),
        "scores.csv": _csv([["path", "defect", "score", "verdict"], *scores]),
    }


def mean_metrics(found: Mapping[str, dict[str, float]]) -> dict[str, float]:
    """The mean over categories of their metrics; NaN where one of them has none."""
    return {name: fmean(metrics[name] for metrics in found.values()) for name in MEANS}


def overview(found: Mapping[str, dict[str, float]]) -> str:
    """A line of text for each category, and one for their mean; what is undefined is empty."""
    width = max(map(len, found))
    lines = ["  ".join([" " * width, *(heading for heading, _ in MEANS.values())])]
    for category, metrics in {**found, "MEAN": mean_metrics(found)}.items():
        values = (
            ("" if isnan(metrics[name]) else format(metrics[name], form)).rjust(len(heading))
            for name, (heading, form) in MEANS.items()
        )
        lines.append("  ".join([category.ljust(width), *values]))
    return "\n".join(lines)


def mean_tables(found: Mapping[str, dict[str, float]]) -> dict[str, bytes]:
    """metrics.json of the mean over categories, and metrics.csv with a line for each and for it."""
    mean = mean_metrics(found)
    lines = [["category", *MEANS]]
    lines += [[category, *(one[name] for name in MEANS)] for category, one in found.items()]
    return {
        "metrics.json": _json(mean),
        "metrics.csv": _csv([*lines, ["mean", *mean.values()]]),
    }


def plots(
    rows: Sequence[Row], metrics: dict[str, float], calibration: Calibration
) -> dict[str, bytes]:
    """histogram.png, and roc.png where there are both good and defective images."""
    good, defect = scores_by_class(rows)
    files = {"histogram.png": histogram(good, defect, calibration.threshold)}
    if len(good) and len(defect):
        files["roc.png"] = roc(good, defect, metrics["image_auroc"])
    return files


def worst_cases(
    rows: Sequence[Row], inspector: Inspector, calibration: Calibration
) -> dict[str, list[Image.Image]]:
    """Panels of the lowest defective images and the highest good ones, by name, where there are."""
    low = sorted((row for row in rows if row.test.is_defect), key=lambda row: row.score)
    high = sorted((row for row in rows if not row.test.is_defect), key=lambda row: -row.score)
    return {
        name: [
            panel(
                inspector.inspect(row.test.read()[0]),
                calibration,
                f"{row.test.defect}/{row.test.path.name}",
            )
            for row in chosen[:WORST]
        ]
        for name, chosen in {"lowest_defective": low, "highest_good": high}.items()
        if chosen
    }


def stacked(panels: Mapping[str, list[Image.Image]]) -> dict[str, bytes]:
    """The panels of each name as one picture, <name>.png."""
    files = {}
    for name, pictures in panels.items():
        buffer = io.BytesIO()
        stack(pictures).save(buffer, "PNG")
        files[f"{name}.png"] = buffer.getvalue()
    return files


def refuse_foreign(folder: Path, names: Iterable[str] = FILES) -> None:
    """Raise `UserError` if a file of one of these names is there that no evaluation wrote."""
    for name in sorted(set(names) - _written(folder)):
        if (folder / name).exists():
            raise UserError(
                f"{folder / name} is none of eval.py, and nothing is overwritten; name another "
                "folder by --output"
            )


def replace_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write an evaluation's files, in place of all that the last one in this folder wrote.

    Raises:
        UserError: as `refuse_foreign` does.
    """
    refuse_foreign(folder, files)
    for name in _written(folder):
        (folder / name).unlink(missing_ok=True)
    (folder / WRITTEN).write_text("\n".join(files), encoding="utf-8")
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _written(folder: Path) -> set[str]:
    """Names of the files that the last evaluation in this folder wrote."""
    written = folder / WRITTEN
    return FILES.intersection(written.read_text("utf-8").split()) if written.exists() else set()


def _json(metrics: dict[str, float]) -> bytes:
    defined = {name: None if isnan(value) else value for name, value in metrics.items()}
    return json.dumps(defined, indent=2).encode()


def _csv(lines: Iterable[Iterable]) -> bytes:
    """Lines of entries; NaN, which alone differs from itself, is left empty."""
    buffer = io.StringIO(newline="")
    csv.writer(buffer).writerows([x if x == x else None for x in line] for line in lines)
    return printable(buffer.getvalue()).encode()
