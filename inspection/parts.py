"""One verdict for a part with several images, such as views or lights; see `calibration.group`."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from inspection.output import PART_COLUMNS, result_files, say
from inspection.threshold import Calibration


@dataclass
class Part:
    """A part and the scores of its images; it is defective if one of them is.

    Attributes:
        name: as of `data.parts.part_name`.
        category: that of its images.
        calibration: of the category.
        scores: of its images so far.
    """

    name: str
    category: str
    calibration: Calibration
    scores: list[float] = field(default_factory=list)

    @property
    def about(self) -> dict[str, str]:
        """Name of the part, for results of its images; nothing where each image is a part."""
        return {"part": self.name} if self.calibration.views else {}

    @property
    def is_defect(self) -> bool:
        """True if an image is called defective so far."""
        return any(map(self.calibration.is_defect, self.scores))

    def entry(self) -> dict[str, Any]:
        """Return the verdict by name, for JSON: that on the highest score of the images."""
        highest, calibration = max(self.scores), self.calibration
        return {
            **self.about,
            "category": self.category,
            "verdict": calibration.verdict(highest),
            "score": highest,
            "severity": calibration.severity(highest),
            "threshold": calibration.threshold,
            "views": len(self.scores),
            "usual_views": calibration.usual_views,
        }

    def say(self) -> None:
        """Print the verdict, and on stderr if the part has fewer images than others."""
        say(max(self.scores), self.calibration, f"part {self.name}")
        count, usual = len(self.scores), self.calibration.usual_views
        if count < usual:
            print(f"part {self.name} has {count} of {usual} views", file=sys.stderr)


@contextmanager
def part_files(folder: Path, group: str | None) -> Iterator[Callable[[Part], None]]:
    """Open parts.jsonl and parts.csv in a folder, see `result_files`; none where `group` is None.

    Yields:
        A function that prints the verdict on a part, and writes it; without files it does nothing.
    """
    if group is None:
        yield lambda _: None
        return
    with result_files(folder, PART_COLUMNS, "parts") as write:

        def add(part: Part) -> None:
            part.say()
            write(part.entry())

        yield add
