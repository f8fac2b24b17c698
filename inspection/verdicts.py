"""What is said of an inspected image: printed, and as an entry of the results."""

import csv
import json
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from inspection.inspector import Inspection
from inspection.pictures import FILES
from inspection.regions import regions
from utils.calibration import Calibration

COLUMNS = ["path", "part", "verdict", "score", "severity", "threshold", "regions"]
COLUMNS += ["x", "y", "width", "height", "area", "peak", *FILES]  # x to peak: strongest region


def say(inspection: Inspection, calibration: Calibration, name: object) -> str:
    """Print the verdict on an image, and return it: good or defect."""
    verdict = calibration.verdict(inspection.score)
    mark = "DEFECT" if verdict == "defect" else "good  "
    severity = calibration.severity(inspection.score)
    print(f"{mark}  severity {severity:5.2f}  score {inspection.score:.5f}  {name}")
    return verdict


def entry(inspection: Inspection, part: str, calibration: Calibration) -> dict[str, Any]:
    """What results say of the inspection of a part, by name, for JSON."""
    return {
        "part": part,
        "verdict": calibration.verdict(inspection.score),
        "score": inspection.score,
        "severity": calibration.severity(inspection.score),
        "threshold": calibration.threshold,
        "regions": [region._asdict() for region in regions(inspection, calibration)],
    }


class ResultFiles:
    """results.jsonl and results.csv of a folder; a context manager that closes them.

    An image becomes a line of each as soon as it is done, so that a kill costs no more than that of
    the image at hand.

    Args:
        folder: holds neither yet, or `FileExistsError` is raised.
    """

    def __init__(self, folder: Path) -> None:
        with ExitStack() as stack:
            # buffering=1: written out at the end of each line
            self._json = stack.enter_context(
                (folder / "results.jsonl").open("x", buffering=1, encoding="utf-8")
            )
            # backslashreplace: the name of a file need not be UTF-8
            table = (folder / "results.csv").open(
                "x", buffering=1, encoding="utf-8", errors="backslashreplace", newline=""
            )
            self._csv = csv.DictWriter(stack.enter_context(table), COLUMNS)
            self._csv.writeheader()
            self._files = stack.pop_all()

    def __enter__(self) -> "ResultFiles":
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    def add(self, path: Path, said: dict[str, Any], files: Mapping[str, Path]) -> None:
        """Add an image: its path, what `entry` says of it, and its `FILES`, those there are."""
        row = {"path": str(path), **said, **{name: str(file) for name, file in files.items()}}
        print(json.dumps(row), file=self._json)
        row["regions"] = len(said["regions"])
        if said["regions"]:
            strongest = said["regions"][0]
            row |= dict(zip(["x", "y", "width", "height"], strongest["box"], strict=True))
            row |= {"area": strongest["area"], "peak": strongest["peak"]}
        self._csv.writerow(row)
