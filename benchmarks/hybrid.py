"""Do two detectors see different defects? AUROC of each, and of their severities together.

    python -m benchmarks.hybrid outputs/<run> outputs/<other run>

Takes what eval.py wrote for runs on one category; nothing is scored again. Severities are on one
scale for all detectors: 0 is the middle of good parts, 1 the threshold.
"""

import csv
from itertools import combinations
from pathlib import Path

import numpy as np
import yaml

from evaluation.metrics import auroc
from inspection.threshold import Calibration
from training.folders import FINISHED, ROOT
from utils.errors import UserError, run_script
from utils.flags import script_parser


def severities(output: Path) -> dict[str, tuple[bool, float]]:
    """Whether each image of the test split is defective, and its severity, by path."""
    try:
        calibrations = yaml.safe_load((ROOT / output.name / FINISHED).read_text())
        rows = list(csv.DictReader((output / "eval/scores.csv").read_text("utf-8").splitlines()))
    except OSError as error:
        raise UserError(f"{error.filename} is missing; run eval.py on that run first") from None
    if len(calibrations) > 1:
        raise UserError(f"{output.name} knows several parts; take runs of a single one")
    (calibration,) = (Calibration(**values) for values in calibrations.values())
    return {
        row["path"]: (row["defect"] != "good", calibration.severity(float(row["score"])))
        for row in rows
    }


def main() -> int:
    """Print the table."""
    parser = script_parser(__doc__)
    parser.add_argument("outputs", nargs="+", type=Path, metavar="OUTPUT")
    found = {output.name: severities(output) for output in parser.parse_args().outputs}
    first, *others = found.values()
    if any(other.keys() != first.keys() for other in others):
        raise UserError("these are evaluations of different images")
    defective = np.array([is_defect for is_defect, _ in first.values()])
    scores = {name: np.array([run[path][1] for path in first]) for name, run in found.items()}
    for pair in combinations(found, 2):
        both, names = np.stack([scores[name] for name in pair]), " and ".join(pair)
        scores[f"mean of {names}"] = both.mean(axis=0)
        scores[f"highest of {names}"] = both.max(axis=0)
    for name, values in scores.items():
        print(f"{auroc(values[~defective], values[defective]):.3f}  {name}")
    return 0


if __name__ == "__main__":
    run_script(main)
