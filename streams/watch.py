"""Images that arrive in a folder."""

import hashlib
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data.images import ImageError, read_ahead, read_image
from data.listing import is_image
from streams.source import POLL, Frame, Gap, Source, iso, now
from utils.addresses import masked
from utils.errors import UserError
from utils.files import Disk, write_whole

UNREADABLE = 3  # times as long for a file that cannot be read: its writer may pause
SAVE = 2.0  # seconds between two writings of the inspected files, at least

# Time of the last writing, in nanoseconds, and size: what changes when a file does.
Stamp = tuple[int, int]


class Watch(Source):
    """A folder that images arrive in: each is inspected once, whole, and again if it changes.

    An image has arrived when its size and time have not changed for `settle` seconds and it can be
    read. A folder that cannot be listed, as on a share that is gone, is waited for.

    Args:
        folder: only files directly in it count.
        settle: seconds.

    Attributes:
        read: reads an image; that of an inspector knows the bit depth of the camera.
        disk: notes if the inspected files cannot be saved.
        yielded: stamps of the files that were yielded, by name, until they are deleted.
        inspected: those of them whose verdicts are written.
        waiting: stamps of files that have not arrived, with the time at which each was first seen.
    """

    named = True

    def __init__(self, folder: str | Path, settle: float) -> None:
        self.folder, self.settle = Path(folder), settle
        self.name, self.paths = masked(str(self.folder)), [self.folder]
        self.read: Callable[[Path], np.ndarray] = read_image
        self.disk = Disk()
        self.yielded: dict[str, Stamp] = {}
        self.inspected: dict[str, Stamp] = {}
        self.waiting: dict[str, tuple[Stamp, float]] = {}
        self._state: Path | None = None
        self._saved: tuple[float, dict[str, Stamp]] = 0.0, {}

    def open(self) -> None:
        """Check that the folder is there; raises `UserError` if not."""
        if not self.folder.is_dir():
            raise UserError(f"no folder at {self.folder} to watch")

    def resume(self, output: Path, again: bool) -> None:
        """Go on where an earlier start ended, by the file that it left in `output`.

        Args:
            output: folder of the results, in which the inspected files are saved from now on.
            again: inspect everything again.
        """
        # By a digest: the name of a folder may be too long for another one, or no UTF-8.
        digest = hashlib.sha256(os.fsencode(self.folder.resolve())).hexdigest()[:16]
        self._state = output / f"watched-{digest}.json"
        if self._state.exists() and not again:
            try:
                files = json.loads(self._state.read_bytes())["files"]
                self.inspected = {name: (written, size) for name, (written, size) in files.items()}
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(f"{self._state} is damaged; delete it, or add --again") from None
            self.yielded = dict(self.inspected)

    def frames(self, stopping: threading.Event) -> Iterator[Frame]:
        """Yield images, those there first, then each as it arrives; errors for unreadable files.

        While the folder is gone there is an error, and a gap when it is back.
        """
        began = None
        try:
            while not stopping.is_set():
                try:
                    arrived = self._arrived()
                except OSError as error:
                    if began is None:
                        began = now()
                        gone = f"cannot list {self.name}: {error.strerror}; waiting for it"
                        yield Frame(self.name, self._about(), ImageError(gone))
                else:
                    if began is not None:
                        yield Frame(self.name, self._about(), Gap.since(began))
                        began = None
                    yield from self._images(arrived)
                self._save()
                stopping.wait(POLL)
            if began is not None:
                yield Frame(self.name, self._about(), Gap.since(began))
        finally:
            self._save(every=0)

    def finished(self, frame: Frame) -> None:
        """Note that an image need not be inspected again by a later start."""
        if frame.stamp is not None:
            self.inspected[Path(frame.about["path"]).name] = frame.stamp

    def _about(self) -> dict[str, str | None]:
        return {"source": self.name, "path": None, "time": iso(now())}

    def _arrived(self) -> list[str]:
        """Return the names of files that have settled, by time and name.

        Raises:
            OSError: if the folder cannot be listed.
        """
        paths = [path for path in self.folder.iterdir() if is_image(path)]
        there = {path.name: stamp for path in paths if (stamp := _stamp(path)) is not None}
        if there:  # an empty folder may be the mount point of a share that is gone
            kept = self.yielded.items()
            self.yielded = {name: stamp for name, stamp in kept if there.get(name) == stamp}
        seen, former = time.monotonic(), self.waiting
        self.waiting = {
            name: former[name] if name in former and former[name][0] == stamp else (stamp, seen)
            for name, stamp in there.items()
            if name not in self.yielded
        }
        settled = [
            name
            for name, (_, since) in self.waiting.items()
            if since < seen and seen - since >= self.settle
        ]
        return sorted(settled, key=lambda name: (there[name][0], name))

    def _images(self, arrived: list[str]) -> Iterator[Frame]:
        for name, image in read_ahead(arrived, self._read):
            stamp, since = self.waiting[name]
            if image is None:  # deleted, or written to again
                continue
            # A file may have its full length from the start, and be filled in later.
            rested = time.monotonic() - since
            if isinstance(image, ImageError) and rested < UNREADABLE * self.settle:
                continue
            del self.waiting[name]
            self.yielded[name] = stamp
            path = str(self.folder / name)
            yield Frame(path, self._about() | {"path": path}, image, stamp=stamp)

    def _read(self, name: str) -> np.ndarray | ImageError | None:
        """Read an image; None if its file has changed since it was listed."""
        path = self.folder / name
        try:
            image = self.read(path)
        except ImageError as error:
            image = error
        try:  # after reading, so that changes meanwhile are seen
            return image if _stamp(path) == self.waiting[name][0] else None
        except OSError:
            return None  # the folder is gone, which the next listing finds

    def _save(self, every: float = SAVE) -> None:
        """Save the inspected files that are still there, if they changed, every few seconds."""
        when, saved = self._saved
        if self._state is None or time.monotonic() - when < every:
            return
        # `finished` is called in another thread: hence the copies.
        for name in [name for name in list(self.inspected) if name not in self.yielded]:
            self.inspected.pop(name, None)
        inspected = dict(self.inspected)
        if inspected != saved:
            with self.disk.writing():
                write_whole(self._state, json.dumps({"folder": self.name, "files": inspected}))
        self._saved = time.monotonic(), inspected


def _stamp(path: Path) -> Stamp | None:
    """Return the stamp of a file, None for others; raises `OSError` if that cannot be known."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return (status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None
