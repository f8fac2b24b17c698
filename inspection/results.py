"""What is said of an inspected image: printed, and as an entry of the results."""

import csv
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from inspection.inspector import Inspection
from inspection.pictures import FILES
from inspection.regions import regions
from inspection.threshold import Calibration

COLUMNS = ["path", "category", "verdict", "score", "severity", "threshold", "regions"]
COLUMNS += ["x", "y", "width", "height", "area", "peak", *FILES]  # x to peak: strongest region


def say(inspection: Inspection, calibration: Calibration, name: object) -> str:
    """Print the verdict on an image, and return it: good or defect."""
    verdict = calibration.verdict(inspection.score)
    mark = "DEFECT" if verdict == "defect" else "good  "
    severity = calibration.severity(inspection.score)
    print(f"{mark}  severity {severity:5.2f}  score {inspection.score:.5f}  {name}")
    return verdict


def entry(inspection: Inspection, category: str, calibration: Calibration) -> dict[str, Any]:
    """Return what results say of an inspected image, by name, for JSON."""
    return {
        "category": category,
        "verdict": calibration.verdict(inspection.score),
        "score": inspection.score,
        "severity": calibration.severity(inspection.score),
        "threshold": calibration.threshold,
        "regions": [region._asdict() for region in regions(inspection, calibration)],
    }


@contextmanager
def result_files(
    folder: Path,
) -> Iterator[Callable[[Path, dict[str, Any], Mapping[str, Path]], None]]:
    """Open results.jsonl and results.csv in a folder; `FileExistsError` if it holds either.

    An image becomes a line of each as soon as it is done, so that a kill costs no more than that of
    the image at hand.

    Yields:
        A function that adds an image: its path, what `entry` says of it, and its `FILES`, those
        there are.
    """
    with (
        # buffering=1: written out at the end of each line
        (folder / "results.jsonl").open("x", buffering=1, encoding="utf-8") as lines,
        # backslashreplace: the name of a file need not be UTF-8
        (folder / "results.csv").open(
            "x", buffering=1, encoding="utf-8", errors="backslashreplace", newline=""
        ) as table,
    ):
        rows = csv.DictWriter(table, COLUMNS)
        rows.writeheader()

        def add(path: Path, said: dict[str, Any], files: Mapping[str, Path]) -> None:
            row = {"path": str(path), **said, **{name: str(file) for name, file in files.items()}}
            print(json.dumps(row), file=lines)
            row["regions"] = len(said["regions"])
            for strongest in said["regions"][:1]:
                row |= dict(zip(["x", "y", "width", "height"], strongest["box"], strict=True))
                row |= {"area": strongest["area"], "peak": strongest["peak"]}
            rows.writerow(row)

        yield add
