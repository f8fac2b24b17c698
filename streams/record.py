"""What stream.py writes: a line of JSON for each frame, a file of counts, an annotated video."""

import itertools
import json
import time
from collections.abc import Iterable
from contextlib import AbstractContextManager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from inspection.inspector import Inspection, scaled_to
from inspection.panel import BACKGROUND, HEADER, draw_verdict, whole_overlay
from inspection.threshold import Calibration
from streams.source import iso, now
from utils.errors import UserError
from utils.files import LineFile, new_file, write_whole
from utils.optional_packages import opencv, opencv_name

# Formats that every build of OpenCV writes and every player reads.
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}

SIDES = 480, 1280  # limits of a picture's longer side, pixels: from below for the text
EVERY = 2.0  # seconds between two heartbeats
PROGRAM = "stream.py"  # tells a heartbeat from other files


class AnnotatedVideo(AbstractContextManager):
    """A video file that is written frame by frame; a context manager that closes it.

    Args:
        path: an .mp4 or .avi file; where it exists another is written beside it, see `path`.

    Attributes:
        path: the file that is written.

    Raises:
        UserError: if it cannot be written, before any frame is there.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in CODECS:
            raise UserError(f"cannot write a video to {path}: name it .mp4 or .avi")
        opencv_name(path)
        self.cv2 = opencv()
        self.path = new_file(path)
        self._size: tuple[int, int] | None = None  # of the first frame
        self._writer = self._open(10.0, (64, 64))  # fails now rather than at the first frame

    def __exit__(self, *_: object) -> None:
        self._writer.release()  # writes the index, without which an .mp4 does not play
        if self._size is None:
            self.path.unlink(missing_ok=True)

    def write(self, picture: Image.Image, fps: float) -> None:
        """Add a frame; the first one sets size and speed, others are padded to it.

        Args:
            picture: RGB, with even sides.
            fps: frames per second.
        """
        if self._size is None:
            self._writer.release()
            self._writer = self._open(fps, picture.size)
            self._size = picture.size
        if picture.size != self._size:
            picture = ImageOps.pad(picture, self._size, color=BACKGROUND)
        self._writer.write(self.cv2.cvtColor(np.asarray(picture), self.cv2.COLOR_RGB2BGR))

    def _open(self, fps: float, size: tuple[int, int]) -> Any:
        code = self.cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
        writer = self.cv2.VideoWriter(opencv_name(self.path), code, fps, size)
        if not writer.isOpened():
            self.path.unlink(missing_ok=True)
            raise UserError(f"cannot write a video to {self.path}; try the other of .mp4 and .avi")
        return writer


def annotate(
    image: np.ndarray, inspection: Inspection, calibration: Calibration, name: str
) -> Image.Image:
    """Draw an image under its heatmap and the rings of its regions, below its verdict."""
    longer = min(max(*image.shape[:2], SIDES[0]), SIDES[1])
    height, width = scaled_to(longer, image.shape[:2])
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    tinted = whole_overlay(np.asarray(picture), inspection, calibration)

    def even(side: int) -> int:  # codecs take even sides: they halve the resolution of colours
        return (side + 1) // 2 * 2

    canvas = Image.new("RGB", (even(max(width, SIDES[0])), HEADER + even(height)), BACKGROUND)
    canvas.paste(Image.fromarray(tinted), ((canvas.width - width) // 2, HEADER))
    draw_verdict(canvas, inspection.score, calibration, name)
    return canvas


class VerdictLog(AbstractContextManager):
    """Files `verdicts-<day>-<number>.jsonl`: a new one each start, each day and at a size.

    By name they lie in order of time. None is ever written to by another start. A context manager.

    Args:
        folder: of the files; created.
        mib: size in MiB at which the next file is begun.
    """

    def __init__(self, folder: Path, mib: float) -> None:
        self.folder, self.limit = folder, mib * 2**20
        folder.mkdir(parents=True, exist_ok=True)
        self._open()

    def __exit__(self, *_: object) -> None:
        self._file.close()

    @property
    def path(self) -> Path:
        """The file that is written."""
        return self._file.path

    def next_line(self) -> None:
        """Begin the next file where the day or the size asks for it."""
        if self._day != date.today() or self._file.size > self.limit:
            former = self._file
            self._open()
            former.close()

    def write(self, line: dict[str, Any]) -> None:
        """Write a line at once, whole or not at all; raises `OSError` if it cannot be written."""
        self._file.write(json.dumps(line) + "\n")

    def _open(self) -> None:
        day = date.today()
        stems = [path.stem for path in self.folder.glob(f"verdicts-{day}-*.jsonl")]
        numbers = [stem.rpartition("-")[2] for stem in stems]
        last = max((int(number) for number in numbers if number.isdecimal()), default=0)
        for number in itertools.count(last + 1):
            try:
                self._file = LineFile(self.folder / f"verdicts-{day}-{number:04d}.jsonl")
            except FileExistsError:  # another process was faster
                continue
            self._day = day
            return


class Heartbeat:
    """Counts what is inspected, and writes the counts to a file, replaced every few seconds.

    The loop that inspects writes it, so that the file grows old where that hangs. It holds JSON:
    `program`, `time`, and `sources` by name, all from the start: frames, defects, failures, and
    the time of the last frame.

    Args:
        path: the file; None for none.
        names: of the sources.

    Raises:
        UserError: if the file is there and is no heartbeat.
    """

    def __init__(self, path: Path | None, names: Iterable[str]) -> None:
        self.path = path
        self.sources: dict[str, dict[str, Any]] = {
            name: {"frames": 0, "defects": 0, "failures": 0, "last": None} for name in names
        }
        self._written = float("-inf")
        if path:
            if path.exists() and not _is_heartbeat(path):
                raise UserError(f"{path} is no file of --heartbeat, and stays; name another one")
            path.parent.mkdir(parents=True, exist_ok=True)

    def count(self, name: str, defect: bool) -> None:
        """Count a frame that was inspected."""
        source = self.sources[name]
        source["frames"] += 1
        source["defects"] += defect
        source["last"] = iso(now())

    def fail(self, name: str) -> None:
        """Count a frame that could not be inspected."""
        self.sources[name]["failures"] += 1

    def total(self, kind: str) -> int:
        """Return the frames, defects or failures of all sources."""
        return sum(source[kind] for source in self.sources.values())

    def write(self, every: float = EVERY) -> None:
        """Write the file, if the last time is at least `every` seconds ago."""
        if self.path and time.monotonic() - self._written >= every:
            self._written = time.monotonic()
            content = {"program": PROGRAM, "time": iso(now()), "sources": self.sources}
            write_whole(self.path, json.dumps(content))


def _is_heartbeat(path: Path) -> bool:
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("program") == PROGRAM
