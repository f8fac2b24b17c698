"""What a page knows: the run that it has open, and the image that it shows."""

from pathlib import Path
from typing import NamedTuple

from demo.scale import Scale
from inspection.inspector import Inspection


class Opened(NamedTuple):
    """The run that a page has open, if any, and the part that is shown to it.

    Attributes:
        run: its file.
        part: name of the part.
        scale: the calibration for this part, on the scale of thresholds.
        examples: files of the images that can be clicked.
        error: why the run could not be opened, or written.
    """

    run: str | None = None
    part: str | None = None
    scale: Scale | None = None
    examples: tuple[Path, ...] = ()
    error: str = ""


class Shot(NamedTuple):
    """The image that a page shows, if any: its file, what to call it, and what was found."""

    path: str | None = None
    name: str = ""
    inspection: Inspection | None = None
    error: str = ""

    @property
    def score(self) -> float | None:
        """Its score, if it has one."""
        return None if self.inspection is None else self.inspection.score
