"""Streams of frames: what a source of them is, and how several take turns.

Memory does not grow with the number of frames: each is handed over and dropped.
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

POLL = 0.25  # seconds between two listings of a folder, and between two checks for the end
FPS = 10.0  # of an annotated video whose source has no frame rate of its own


def now() -> datetime:
    """Return the time, with the time zone of this machine."""
    return datetime.now().astimezone()


def iso(time: datetime) -> str:
    """Format a time by ISO 8601, to the millisecond."""
    return time.isoformat(timespec="milliseconds")


class Gap(NamedTuple):
    """A time in which a source gave nothing, until it was back or the program stopped."""

    began: str  # in ISO 8601
    seconds: float

    @classmethod
    def since(cls, began: datetime) -> "Gap":
        """Return the gap from then until now."""
        return cls(iso(began), round((now() - began).total_seconds(), 1))


class Frame(NamedTuple):
    """One image of a stream, or in its place an error or a gap of the source.

    Attributes:
        name: of the frame, to be printed.
        about: what results say of it: source, frame (from 0) or path, and time: seconds into a
            video, or else when it was read, in ISO 8601.
        image: uint8 [H, W, 3], RGB; or an error; or a gap that is over.
        fps: frames per second to show the stream at.
        stamp: time and size of a watched file.
    """

    name: str
    about: dict[str, Any]
    image: np.ndarray | ImageError | Gap
    fps: float = FPS
    stamp: tuple[int, int] | None = None


class Source(ABC):
    """A source of frames; `in_turn` reads it in a thread of its own.

    Attributes:
        name: as it is printed, without passwords.
        paths: files or folders that its frames are of, if any: their names may give the category.
        named: if its frames are files, by whose names those of one part are told.
        newest: if only the newest frame is of interest, so that a slow detector skips frames
            rather than fall behind; else the source waits for the detector.
    """

    name: str
    paths: Sequence[Path] = ()
    named = False
    newest = False

    @abstractmethod
    def open(self) -> None:
        """Open it before any work is done; raises `UserError` if that fails."""

    @abstractmethod
    def frames(self, stopping: threading.Event) -> Iterator[Frame]:
        """Yield frames until they end or `stopping` is set."""

    def finished(self, frame: Frame) -> None:  # noqa: B027  (most have nothing to do)
        """Note that a frame is inspected, and its verdict written."""


class _Reader(threading.Thread):
    """Reads a source ahead: one frame, and the gaps before it."""

    def __init__(self, source: Source, changed: threading.Condition) -> None:
        super().__init__(daemon=True)  # a source that hangs must not keep the program from ending
        self.source, self.changed = source, changed
        self.ready: deque[Frame] = deque()
        self.stopping, self.ended = threading.Event(), False
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            with closing(self.source.frames(self.stopping)) as frames:
                for frame in frames:
                    if self.stopping.is_set() and not isinstance(frame.image, Gap):
                        break
                    self._put(frame)
        except Exception as error:  # raised by `in_turn`, in the main thread
            self.error = error
        with self.changed:
            self.ended = True
            self.changed.notify_all()

    def _put(self, frame: Frame) -> None:
        with self.changed:
            if not self.source.newest:
                self.changed.wait_for(lambda: not self.ready or self.stopping.is_set())
            elif self.ready and self.ready[-1].about["frame"] is not None:
                self.ready.pop()  # what is no frame, such as a gap, is kept
            self.ready.append(frame)
            self.changed.notify_all()

    def take(self) -> Frame:
        with self.changed:
            self.changed.notify_all()
            return self.ready.popleft()

    def stop(self) -> None:
        with self.changed:
            self.stopping.set()
            self.changed.notify_all()


def in_turn(
    sources: Iterable[Source], stopped: Callable[[], bool], between: Callable[[], object]
) -> Generator[tuple[Source, Frame], None, None]:
    """Yield frames of all sources, one of each in turn; a source that has none is passed over.

    Args:
        sources: opened ones.
        stopped: tells if to end; called before each frame and at least once a second.
        between: called as often.

    Yields:
        Each frame with its source, and, once stopped, the gaps that were not over.
    """
    changed = threading.Condition()
    readers = [_Reader(source, changed) for source in sources]
    for reader in readers:
        reader.start()
    try:
        while not stopped():
            between()
            if error := next((reader.error for reader in readers if reader.error), None):
                raise error
            with changed:
                if not any(reader.ready for reader in readers):
                    if all(reader.ended for reader in readers):
                        break
                    changed.wait(POLL)
                    continue
            reader = next(reader for reader in readers if reader.ready)
            readers.append(readers.pop(readers.index(reader)))  # the others come first next time
            frame = reader.take()
            yield reader.source, frame
            reader.source.finished(frame)
        _stop(readers)
        for reader in readers:
            yield from ((reader.source, f) for f in [*reader.ready] if isinstance(f.image, Gap))
    finally:
        _stop(readers)


def _stop(readers: list[_Reader]) -> None:
    """Wait for readers to end, so that cameras are released, but not for those that hang."""
    for reader in readers:
        reader.stop()
    for reader in readers:
        reader.join(1)
