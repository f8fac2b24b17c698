"""Frames of video files."""

import glob
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.images import ImageError
from streams.source import FPS, Frame, Source
from utils.optional_packages import opencv


class Videos(Source):
    """Every frame of video files, one file after the other.

    Args:
        arguments: files and glob patterns; a file that does not exist is reported in its turn.
    """

    def __init__(self, arguments: Iterable[str]) -> None:
        self.places: list[Path] = []
        for argument in arguments:
            if Path(argument).exists() or not glob.has_magic(argument):
                self.places.append(Path(argument))
            else:
                matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  (may be absolute)
                self.places += [Path(match) for match in matches]
        self.places = list(dict.fromkeys(self.places))
        self.name = "videos"

    def open(self) -> None:
        """See `Source.open`; raises `UserError` if OpenCV is not installed."""
        self.cv2 = opencv()

    def frames(self, stopping: threading.Event) -> Iterator[Frame]:
        """The frames; for a file that cannot be opened, or ends before it should, an error."""
        for path in self.places:
            for frame in self._video(path):
                if stopping.is_set():
                    return
                yield frame

    def _video(self, path: Path) -> Iterator[Frame]:
        cv2 = self.cv2
        capture = cv2.VideoCapture(str(path)) if path.is_file() else None
        if capture is None or not capture.isOpened():
            reason = "no such file" if capture is None else "no video, or a damaged one"
            error = ImageError(f"cannot read {path}: {reason}")
            yield Frame(str(path), {"source": str(path), "frame": None, "time": None}, error)
            return
        try:
            fps = capture.get(cv2.CAP_PROP_FPS)
            fps = fps if 1 <= fps <= 240 else FPS
            number, seconds = 0, 0.0
            while True:
                there, pixels = capture.read()
                if not there:
                    break
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 or number / fps
                yield Frame(
                    f"{path} frame {number}",
                    {"source": str(path), "frame": number, "time": round(seconds, 3)},
                    cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB),
                    fps,
                )
                number += 1
            # OpenCV ends at damage as it ends at the end. Some containers tell their length badly.
            length = capture.get(cv2.CAP_PROP_FRAME_COUNT) / fps
            if number == 0 or seconds + 1 / fps < 0.9 * length:
                told = f" of {length:.1f}" if length > 0 else ""
                error = ImageError(f"{path} is damaged: it ends after {seconds:.1f}{told} seconds")
                about = {"source": str(path), "frame": number, "time": round(seconds, 3)}
                yield Frame(f"{path} frame {number}", about, error)
        finally:
            capture.release()
