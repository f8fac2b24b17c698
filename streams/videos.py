"""Frames of video files."""

import glob
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

from data.images import ImageError
from streams.source import FPS, Frame, Source, numbered
from utils.optional_packages import opencv


class Videos(Source):
    """Every frame of video files, one file after the other.

    Args:
        arguments: files and glob patterns; a file that does not exist is reported in its turn.
    """

    def __init__(self, arguments: Iterable[str]) -> None:
        names: list[str] = []
        for argument in arguments:
            if Path(argument).exists() or not glob.has_magic(argument):
                names.append(argument)
            else:
                names += sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  (may be absolute)
        self.name, self.places = "videos", list(dict.fromkeys(map(Path, names)))

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
            yield numbered(str(path), None, None, ImageError(f"cannot read {path}: {reason}"))
            return
        try:
            fps = capture.get(cv2.CAP_PROP_FPS)
            fps = fps if 1 <= fps <= 240 else FPS
            number, seconds = 0, 0.0
            while (read := capture.read())[0]:
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 or number / fps
                image = cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)
                yield numbered(str(path), number, round(seconds, 3), image, fps)
                number += 1
            # OpenCV ends at damage as it ends at the end. Some containers tell their length badly.
            length = capture.get(cv2.CAP_PROP_FRAME_COUNT) / fps
            if number == 0 or seconds + 1 / fps < 0.9 * length:
                told = f" of {length:.1f}" if length > 0 else ""
                error = ImageError(f"{path} is damaged: it ends after {seconds:.1f}{told} seconds")
                yield numbered(str(path), number, round(seconds, 3), error)
        finally:
            capture.release()
