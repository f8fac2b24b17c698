"""Streams of frames: video files, cameras, and folders that images arrive in.

Memory does not grow with the number of frames: each is handed over and forgotten.
"""

import glob
import stat
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.images import ImageError, read_ahead, read_image
from data.listing import is_image
from utils.errors import UserError
from utils.extras import opencv

VIDEO_SUFFIXES = {
    ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"
}  # fmt: skip
POLL = 0.25  # seconds between two looks into a folder
PATIENCE = 5.0  # seconds that a file may stay unchanged and unreadable before it counts as bad
FPS = 10.0  # of an annotated video whose source has no rhythm of its own


class Frame(NamedTuple):
    """One image of a stream.

    Attributes:
        name: what to call it in a line of text.
        about: what to write of it: source, frame (from 0) or path, and time: seconds into a video,
            or else when it was taken up, in ISO 8601.
        image: uint8 [H, W, 3], RGB, or what is wrong with it.
        fps: frames per second to show the stream at.
    """

    name: str
    about: dict[str, Any]
    image: np.ndarray | ImageError
    fps: float = FPS


def is_video(argument: str) -> bool:
    """Whether a file or pattern is one of videos, as its suffix says."""
    return Path(argument).suffix.lower() in VIDEO_SUFFIXES and not Path(argument).is_dir()


def expand_videos(arguments: Iterable[str]) -> list[Path]:
    """Video files meant by files and glob patterns; a file that does not exist is kept."""
    found: list[Path] = []
    for argument in arguments:
        if Path(argument).exists() or not glob.has_magic(argument):
            found.append(Path(argument))
        else:
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  (may be absolute)
            found += [Path(match) for match in matches]
    return list(dict.fromkeys(found))


def video_frames(paths: Iterable[Path]) -> Generator[Frame, None, None]:
    """Every frame of video files, one file after the other.

    Yields:
        The frames; for a file that cannot be opened, or ends long before it should, an error.

    Raises:
        UserError: if OpenCV is not installed; at the call, not at the first frame.
    """
    cv2 = opencv()
    return (frame for path in paths for frame in _video(cv2, path))


def _video(cv2: Any, path: Path) -> Iterator[Frame]:
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
        # OpenCV ends at damage as it ends at the end. Some containers tell their length roughly.
        length = capture.get(cv2.CAP_PROP_FRAME_COUNT) / fps
        if number == 0 or seconds + 1 / fps < 0.9 * length:
            told = f" of {length:.1f}" if length > 0 else ""
            error = ImageError(f"{path} is damaged: it ends after {seconds:.1f}{told} seconds")
            about = {"source": str(path), "frame": number, "time": round(seconds, 3)}
            yield Frame(f"{path} frame {number}", about, error)
    finally:
        capture.release()


class Camera:
    """A camera, or a stream of the network; hands out the newest frame.

    A thread empties the camera's buffer and keeps one frame, so that a slow detector skips frames
    in place of falling behind.

    Args:
        source: number of a camera, its device file, or the address of a stream.

    Raises:
        UserError: if OpenCV is not installed or there is no such camera.
    """

    def __init__(self, source: str) -> None:
        self.cv2 = opencv()
        self.source = source
        self._capture = self.cv2.VideoCapture(int(source) if source.isdecimal() else source)
        if not self._capture.isOpened():
            raise UserError(f"cannot open camera {source}; is it connected, and used by no other?")
        self._news = threading.Condition()
        self._newest: tuple[int, str, np.ndarray] | None = None
        self._ended = False
        # A daemon: a camera that hangs must not keep the program from ending.
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        number = 0
        try:
            while not self._ended:
                there, pixels = self._capture.read()
                if not there:
                    break
                with self._news:
                    self._newest = (number, _now(), pixels)
                    self._news.notify()
                number += 1
        finally:
            self._ended = True
            self._capture.release()

    def frames(self, stopped: Callable[[], bool]) -> Generator[Frame, None, None]:
        """Frames until `stopped` says so; gaps in their numbers are frames that were skipped.

        Yields:
            The frames, and an error where the camera gives no more.
        """
        try:
            while not stopped():
                with self._news:
                    ended = self._ended
                    if self._newest is None and not ended:
                        self._news.wait(POLL)
                    newest, self._newest = self._newest, None
                source = f"camera {self.source}"
                if newest is not None:
                    number, taken, pixels = newest
                    about = {"source": source, "frame": number, "time": taken}
                    image = self.cv2.cvtColor(pixels, self.cv2.COLOR_BGR2RGB)
                    yield Frame(f"{source} frame {number}", about, image)
                elif ended:
                    about = {"source": source, "frame": None, "time": _now()}
                    yield Frame(source, about, ImageError(f"{source} gives no more frames"))
                    return
        finally:
            self._ended = True
            self._thread.join(1)  # so that it releases the camera, unless that hangs


class Watch:
    """A folder that images arrive in: each is handed out once, whole, and again if it changes.

    An image has arrived when its size and time stay the same between two looks and it can be read.
    What is kept of a file is its name, size and time, until it is deleted.

    Args:
        folder: only files directly in it count.

    Raises:
        UserError: if there is no such folder.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise UserError(f"no folder at {folder} to watch")
        self.folder = folder
        self.done: dict[str, _Stamp] = {}
        self.waiting: dict[str, tuple[_Stamp, float | None]] = {}  # with when reading first failed

    def frames(self, stopped: Callable[[], bool]) -> Generator[Frame, None, None]:
        """Images until `stopped` says so: those there first, then each as it arrives."""
        while not stopped():
            yield from self.look()
            time.sleep(POLL)

    def look(self) -> Iterator[Frame]:
        """Images that have arrived since the last look, by the time they were written, then name.

        Yields:
            The images, and an error for a file that has stayed unreadable for `PATIENCE` seconds.
        """
        ready = self._ready()
        for name, image in read_ahead(ready, self._read):
            if image is None:
                continue  # deleted, or written to again
            stamp, failed = self.waiting[name]
            if isinstance(image, ImageError):
                now = time.monotonic()
                failed = now if failed is None else failed
                if now - failed < PATIENCE:  # perhaps its writer pauses
                    self.waiting[name] = stamp, failed
                    continue
            del self.waiting[name]
            self.done[name] = stamp
            path = str(self.folder / name)
            yield Frame(path, {"source": str(self.folder), "path": path, "time": _now()}, image)

    def _ready(self) -> list[str]:
        """Names of the files that have not changed since the last look, in order."""
        paths = (path for path in self.folder.iterdir() if is_image(path))
        there = {path.name: stamp for path in paths if (stamp := _stamp(path)) is not None}
        for name in [name for name, stamp in self.done.items() if there.get(name) != stamp]:
            del self.done[name]
        before, self.waiting = self.waiting, {}
        ready = []
        for name, stamp in there.items():
            if name in self.done:
                continue
            if name in before and before[name][0] == stamp:
                self.waiting[name] = before[name]
                ready.append(name)
            else:
                self.waiting[name] = stamp, None
        return sorted(ready, key=lambda name: (there[name].written, name))

    def _read(self, name: str) -> np.ndarray | ImageError | None:
        """The image; None if the file is no longer as it was at the last look."""
        path = self.folder / name
        try:
            image = read_image(path)
        except ImageError as error:
            image = error
        # Asked after reading, so that what changed on the way counts.
        return image if _stamp(path) == self.waiting[name][0] else None


class _Stamp(NamedTuple):
    """What tells that a file has changed."""

    written: int
    size: int


def _stamp(path: Path) -> _Stamp | None:
    """None for what is no file, or no longer there."""
    try:
        status = path.stat()
    except OSError:
        return None
    return _Stamp(status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None


def _now() -> str:
    return datetime.now().astimezone().isoformat(timespec="milliseconds")
