"""What is said of an inspected image: printed, and as an entry of the results."""

from typing import Any

from inspection.inspector import Inspection
from inspection.regions import strongest_region
from utils.calibration import Calibration


def say(inspection: Inspection, calibration: Calibration, name: object) -> str:
    """Print the verdict on an image, and return it: good or defect."""
    verdict = calibration.verdict(inspection.score)
    mark = "DEFECT" if verdict == "defect" else "good  "
    print(f"{mark}  score {inspection.score:.5f}  {name}")
    return verdict


def entry(inspection: Inspection, calibration: Calibration) -> dict[str, Any]:
    """What results say of an inspection, by name, for JSON."""
    return {
        "score": inspection.score,
        "verdict": calibration.verdict(inspection.score),
        "threshold": calibration.threshold,
        "box": strongest_region(inspection, calibration.pixel_threshold),
    }
