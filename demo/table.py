"""The table of many images."""

from typing import NamedTuple

import pandas as pd

from inspection.threshold import Calibration

COLUMNS = ["name", "score", "severity", "verdict", "threshold", "error"]


class Result(NamedTuple):
    """One of many images: its name, and its score or why it has none."""

    name: str
    score: float | None
    error: str = ""


def table_of(results: list[Result], calibration: Calibration) -> pd.DataFrame:
    """A row of `COLUMNS` for each image; what cannot be had is empty."""
    rows = []
    for name, score, error in results:
        found = [None, None, ""]
        if score is not None:
            found = [score, calibration.severity(score), calibration.verdict(score)]
        rows.append([name, *found, calibration.threshold, error])
    return pd.DataFrame(rows, columns=COLUMNS)
