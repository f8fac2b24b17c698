"""The detector to take after a benchmark, by one rule, and the sentence that says so."""

from math import sqrt
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

from benchmarks.experiment import INTERVAL, Row


class Choice(NamedTuple):
    """A detector with the means of its figures over the categories.

    Attributes:
        model: its name.
        auroc: image AUROC, with the ends `low` and `high` of its 95% interval.
        low: equal to `auroc` where a cell has no interval.
        high: likewise.
        false_alarms: share of good images called defective; None where there are none.
        milliseconds: of an image.
        fit_seconds: of a fit.
    """

    model: str
    auroc: float
    low: float
    high: float
    false_alarms: float | None
    milliseconds: float
    fit_seconds: float

    @classmethod
    def of(cls, model: str, rows: list[Row]) -> "Choice":
        """Return the means of finished cells of a detector.

        The categories' test images are independent of one another, so the distances d of the n
        intervals' ends from their AUROC add in squares: that of the mean is sqrt(sum d^2) / n.
        """
        auroc = fmean(row["image_auroc"] for row in rows)
        down, up = (
            # A cell of several categories in one model has a mean, without an interval.
            sqrt(sum((row.get(end, row["image_auroc"]) - row["image_auroc"]) ** 2 for row in rows))
            for end in INTERVAL
        )
        alarms = [row.get("false_alarms") for row in rows]
        return cls(
            model,
            auroc,
            auroc - down / len(rows),
            auroc + up / len(rows),
            None if None in alarms else fmean(alarms),
            fmean(row["ms_per_image"] for row in rows),
            fmean(row["fit_seconds"] for row in rows),
        )

    def ties_with(self, other: "Choice") -> bool:
        """Return whether either's AUROC lies in the other's interval.

        One of the two is enough: a perfect AUROC's interval is a point, for any resample of its
        images is perfect, too.
        """
        return self.low <= other.auroc <= self.high or other.low <= self.auroc <= other.high


def choose(rows: list[Row]) -> list[Choice]:
    """Return the detectors that cannot be told from the best, the one to take first.

    The best has the highest image AUROC, over several categories by the mean. The detectors that
    tie with it are ordered by their time an image. A detector that lacks an image AUROC on one of
    the categories is left out.

    Args:
        rows: of the table; those of an earlier start count, too.
    """
    categories = {row["category"] for row in rows}
    found = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        done = [row for row in mine if row.get("image_auroc") is not None]
        if {row["category"] for row in done} == categories:
            found.append(Choice.of(model, done))
    if not found:
        return []
    best = max(found, key=lambda one: one.auroc)
    ties = [one for one in found if one.ties_with(best)]
    return sorted(ties, key=lambda one: one.milliseconds)


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
    drawn = {row["category"] for row in rows if row.get("drawn_defects")}
    measured = {0: "on the test images", len(categories): "on drawn defects"}.get(
        len(drawn), f"on the test images, of {', '.join(sorted(drawn))} on drawn defects"
    )
    mean = f"mean of {len(categories)} categories, " if len(categories) > 1 else ""
    alarms = "" if taken.false_alarms is None else f"{taken.false_alarms:.1%} false alarms, "
    why = "no other that was measured reaches that"
    if others:
        named = ", ".join(
            f"{one.model} {one.auroc:.3f} at {one.milliseconds:.0f}" for one in others
        )
        why = f"the fastest of those that cannot be told apart: {named} ms"
    files = [output / taken.model / category / "settings.yaml" for category in categories]
    rest = f"; likewise {', '.join(map(str, files[1:]))}" if files[1:] else ""
    return (
        f"take {taken.model}: image AUROC {taken.auroc:.3f} ({taken.low:.3f} to {taken.high:.3f}, "
        f"{mean}{measured}), {alarms}{taken.milliseconds:.0f} ms an image, fitted in "
        f"{taken.fit_seconds:.0f} s; {why}; train it with: python train.py --config {files[0]}"
        f"{rest}"
    )
