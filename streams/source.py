"""Streams of frames: what a source of them is, and taking turns among several.

Memory does not grow with the number of frames: each is handed over and forgotten.
"""

import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.images import ImageError

VIDEO_SUFFIXES = {
    ".avi", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".ts", ".webm", ".wmv"
}  # fmt: skip
POLL = 0.25  # seconds between two looks, at a folder or at whether to stop
FPS = 10.0  # of an annotated video whose source has no rhythm of its own


def is_video(argument: str) -> bool:
    """Whether a file or pattern is one of videos, as its suffix says."""
    return Path(argument).suffix.lower() in VIDEO_SUFFIXES and not Path(argument).is_dir()


def now() -> datetime:
    """The time, with the time zone of this machine."""
    return datetime.now().astimezone()


def iso(time: datetime) -> str:
    """A time as results say it: ISO 8601, to the millisecond."""
    return time.isoformat(timespec="milliseconds")


class Gap(NamedTuple):
    """A time in which a source gave nothing; then it was back, or the program stopped."""

    began: str  # in ISO 8601
    seconds: float

    @classmethod
    def since(cls, began: datetime) -> "Gap":
        """The gap from then until now."""
        return cls(iso(began), round((now() - began).total_seconds(), 1))


class Frame(NamedTuple):
    """One image of a stream, or news of its source.

    `about` is what to write of it: source, frame (from 0) or path, and time: seconds into a video,
    or else when it was taken up, in ISO 8601.
    """

    name: str  # what to call it in a line of text
    about: dict[str, Any]
    image: np.ndarray | ImageError | Gap  # uint8 [H, W, 3], RGB; what is wrong; a gap that is over
    fps: float = FPS  # frames per second to show the stream at
    stamp: tuple[int, int] | None = None  # tells a watched file from a later one of its name


def numbered(
    source: str,
    number: int | None,
    time: str | float | None,
    image: np.ndarray | ImageError | Gap,
    fps: float = FPS,
) -> Frame:
    """A frame of a camera or a video; without a number news of it."""
    name = source if number is None else f"{source} frame {number}"
    return Frame(name, {"source": source, "frame": number, "time": time}, image, fps)


class Source(ABC):
    """Where frames come from; `in_turn` reads it in a thread of its own.

    Attributes:
        name: what it is called, without passwords.
        places: files or folders that its frames are of, if any: they may tell the part shown.
        newest: whether only the newest frame counts, so that a slow detector skips frames in place
            of falling behind; else it waits for the detector.
    """

    name: str
    places: Sequence[Path] = ()
    newest = False

    @abstractmethod
    def open(self) -> None:
        """Open it before any work is done; raises `UserError` if that cannot be."""

    @abstractmethod
    def frames(self, stopping: threading.Event) -> Iterator[Frame]:
        """Frames until they end or `stopping` is set."""

    def finished(self, frame: Frame) -> None:  # noqa: B027  (most have nothing to do)
        """All that is to be done with a frame is done."""


class _Reader(threading.Thread):
    """Reads a source ahead into a box: one frame, and what news there is of gaps."""

    def __init__(self, source: Source, news: threading.Condition) -> None:
        super().__init__(daemon=True)  # what hangs must not keep the program from ending
        self.source, self.news = source, news
        self.box: deque[Frame] = deque()
        self.stopping, self.ended = threading.Event(), False
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with closing(self.source.frames(self.stopping)) as frames:
                for frame in frames:
                    if self.stopping.is_set() and not isinstance(frame.image, Gap):
                        break
                    self._put(frame)
        except Exception as error:  # to be raised where it is seen
            self.error = error
        with self.news:
            self.ended = True
            self.news.notify_all()

    def _put(self, frame: Frame) -> None:
        with self.news:
            if not self.source.newest:
                self.news.wait_for(lambda: not self.box or self.stopping.is_set())
            elif self.box and isinstance(self.box[-1].image, np.ndarray):
                self.box.pop()
            self.box.append(frame)
            self.news.notify_all()

    def take(self) -> Frame:
        with self.news:
            self.news.notify_all()
            return self.box.popleft()

    def stop(self) -> None:
        with self.news:
            self.stopping.set()
            self.news.notify_all()


def in_turn(
    sources: Iterable[Source], stopped: Callable[[], bool], between: Callable[[], object]
) -> Generator[tuple[Source, Frame], None, None]:
    """Frames of all sources, one of each in turn; a source that has none is passed over.

    Args:
        sources: opened ones.
        stopped: says whether to end, asked before each frame and at least once a second.
        between: called as often.

    Yields:
        Each frame with its source, and, once stopped, the gaps that were not over.
    """
    news = threading.Condition()
    readers = [_Reader(source, news) for source in sources]
    for reader in readers:
        reader.start()
    try:
        while not stopped():
            between()
            if error := next((reader.error for reader in readers if reader.error), None):
                raise error
            with news:
                if not any(reader.box for reader in readers):
                    if all(reader.ended for reader in readers):
                        break
                    news.wait(POLL)
                    continue
            reader = next(reader for reader in readers if reader.box)
            readers.append(readers.pop(readers.index(reader)))  # to the end of the queue
            frame = reader.take()
            yield reader.source, frame
            reader.source.finished(frame)
        _stop(readers)
        for reader in readers:
            yield from ((reader.source, f) for f in [*reader.box] if isinstance(f.image, Gap))
    finally:
        _stop(readers)


def _stop(readers: list[_Reader]) -> None:
    """Let all finish what they are at, so that cameras are released; those that hang are left."""
    for reader in readers:
        reader.stop()
    for reader in readers:
        reader.join(1)
