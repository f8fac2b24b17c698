"""The detector to take after a benchmark, by one rule, and the sentence that says so."""

from math import sqrt
from pathlib import Path
from shlex import quote
from statistics import fmean

from benchmarks.experiment import INTERVAL, Row

FIGURES = ["image_auroc", "false_alarms", "ms_per_image", "fit_seconds"]


def choose(rows: list[Row]) -> list[Row]:
    """Return the detectors that cannot be told from the best, the one to take first.

    The best has the highest image AUROC, over several categories by the mean. One ties with it if
    the AUROC of either lies in the other's 95% interval. Either is enough, for a perfect AUROC's
    interval is a point: any resample of its images is perfect, too. Ties are ordered by their time
    an image. A detector that lacks an image AUROC on one of the categories is left out.

    Args:
        rows: of the table; those of an earlier start count, too.

    Returns:
        Rows with the model, the means of `FIGURES` and the ends of the AUROC's interval.
    """
    categories = {row["category"] for row in rows}
    measured = [row for row in rows if row.get("image_auroc") is not None]
    found = []
    for model in dict.fromkeys(row["model"] for row in measured):
        mine = [row for row in measured if row["model"] == model]
        if len(mine) == len(categories):
            found.append({"model": model} | _means(mine))

    def holds(one: Row, other: Row) -> bool:
        low, high = (one[end] for end in INTERVAL)
        return low <= other["image_auroc"] <= high

    best = max(found, key=lambda one: one["image_auroc"], default=None)
    ties = [one for one in found if holds(one, best) or holds(best, one)]
    return sorted(ties, key=lambda one: one["ms_per_image"])


def _means(rows: list[Row]) -> Row:
    """Return the means of a detector's figures over categories, and the interval of the AUROC's."""
    means = {name: fmean(row[name] for row in rows) for name in FIGURES}
    for end, sign in zip(INTERVAL, (-1, 1), strict=True):
        # The categories' images are independent: for the distances d of n ends from their AUROC,
        # that of the mean's end is sqrt(sum d^2) / n. Means of one model for all have no interval.
        distances = [row.get(end, row["image_auroc"]) - row["image_auroc"] for row in rows]
        means[end] = means["image_auroc"] + sign * sqrt(sum(d * d for d in distances)) / len(rows)
    return means


def sentence(rows: list[Row], output: Path) -> str:
    """Return which detector to take, why, and the command to train it; "" for one detector alone.

    Args:
        rows: of the table.
        output: folder of the benchmark.
    """
    if len({row["model"] for row in rows}) < 2:
        return ""
    ties = choose(rows)
    if not ties:
        return "no detector is named: none has an image AUROC on every category"
    taken, *others = ties
    categories = list(dict.fromkeys(row["category"] for row in rows))
    mean = f"mean of {len(categories)} categories, " if len(categories) > 1 else ""
    kinds = {"drawn defects" if row.get("drawn_defects") else "test images" for row in rows}
    named = [
        f"{one['model']} {one['image_auroc']:.3f} at {one['ms_per_image']:.0f} ms" for one in others
    ]
    why = "no other that was measured reaches that"
    if named:
        why = f"the fastest of those that cannot be told from the best, with {', '.join(named)}"
    low, high = (taken[end] for end in INTERVAL)
    folders = [output / taken["model"] / category for category in categories]
    files = [quote(str(folder / "settings.yaml")) for folder in folders]
    return (
        f"take {taken['model']}: image AUROC {taken['image_auroc']:.3f} ({low:.3f} to {high:.3f}, "
        f"{mean}{' and '.join(sorted(kinds, reverse=True))}), {taken['false_alarms']:.1%} false "
        f"alarms, {taken['ms_per_image']:.0f} ms an image, fitted in {taken['fit_seconds']:.0f} s; "
        f"{why}; train it with: python train.py --config {'; likewise '.join(files)}"
    )
