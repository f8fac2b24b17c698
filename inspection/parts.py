"""One verdict for a part with several images, such as views or lights; see `calibration.group`."""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from data.parts import part_name
from inspection.threshold import Calibration


@dataclass
class Part:
    """A part and the scores of its images; it is defective if one of them is.

    Attributes:
        name: as of `part_name`.
        category: that of its images.
        calibration: of the category.
        scores: of its images so far.
    """

    name: str
    category: str
    calibration: Calibration
    scores: list[float] = field(default_factory=list)

    @property
    def is_defect(self) -> bool:
        """True if an image is called defective so far."""
        return any(map(self.calibration.is_defect, self.scores))

    def entry(self) -> dict[str, Any]:
        """Return the verdict by name, for JSON: that on the highest score of the images."""
        highest, calibration = max(self.scores), self.calibration
        return {
            "part": self.name,
            "category": self.category,
            "verdict": calibration.verdict(highest),
            "score": highest,
            "severity": calibration.severity(highest),
            "threshold": calibration.threshold,
            "views": len(self.scores),
            "usual_views": calibration.usual_views,
        }

    def say(self) -> None:
        """Print the verdict, and on stderr if the part has fewer images than it should."""
        found, usual = self.entry(), self.calibration.usual_views
        mark = "DEFECT" if self.is_defect else "good  "
        print(
            f"{mark}  severity {found['severity']:5.2f}  score {found['score']:.5f}  "
            f"part {self.name}, {found['views']} view{'s' if found['views'] > 1 else ''}"
        )
        if found["views"] < usual:
            print(f"part {self.name} has {found['views']} of {usual} views", file=sys.stderr)


class Parts:
    """Joins images to parts as they are inspected; those of one part come one after another.

    A part ends when its last image is there, as far as that is known, or when the next begins.

    Args:
        pattern: `Inspector.group`; None: each image is a part, which ends with it.
        sizes: number of images of each part. Parts that are not named end with the most images
            that a part had in training.

    Attributes:
        grouped: whether parts have images in common.
        current: the part that has not ended.
        verdicts: number of ended parts that are "good" and "defect".
    """

    def __init__(self, pattern: str | None, sizes: Mapping[str, int] | None = None) -> None:
        self.pattern, self.grouped, self.sizes = pattern, pattern is not None, sizes or {}
        self.current: Part | None = None
        self.verdicts: Counter[str] = Counter()

    def begin(self, path: str | PurePath, category: str, calibration: Calibration) -> Part | None:
        """Make the part of an image the current one; returns the former if that ends it."""
        name = part_name(path, category, self.pattern)
        if self.current is not None and self.current.name == name:
            return None
        ended, self.current = self.close(), Part(name, category, calibration)
        return ended

    def add(self, score: float) -> Part | None:
        """Add an image of the current part; returns the part if it is the last one."""
        part = self.current
        part.scores.append(score)
        last = self.sizes.get(part.name, part.calibration.most_views)
        return self.close() if len(part.scores) >= last else None

    def close(self) -> Part | None:
        """End the current part, if any, and return it."""
        part, self.current = self.current, None
        if part is not None:
            self.verdicts["defect" if part.is_defect else "good"] += 1
        return part

    def named(self) -> dict[str, str]:
        """Return what results of an image say of its part: nothing where each image is one."""
        return {"part": self.current.name} if self.grouped else {}
