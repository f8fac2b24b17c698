"""Images that arrive in a folder."""

import hashlib
import json
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data.images import ImageError, read_ahead, read_image
from data.listing import is_image
from streams.source import POLL, Frame, Gap, Source, iso, now
from utils.errors import UserError, masked
from utils.files import write_whole

PATIENCE = 5.0  # seconds that a file may stay unchanged and unreadable before it counts as bad
SAVE = 2.0  # seconds at least between two times that what is inspected is written down

Stamp = tuple[int, int]
"""What tells that a file has changed: when it was written, in nanoseconds, and its size."""


class Watch(Source):
    """A folder that images arrive in: each is handed out once, whole, and again if it changes.

    An image has arrived when its size and time stay the same between two looks and it can be read.
    What is kept of a file is its name, size and time, until it is deleted. A folder that cannot be
    looked into, as on a share that is gone, is waited for.

    Args:
        folder: only files directly in it count.

    Attributes:
        read: how images are read; that of the detector knows the depth of the camera.
        handed: files that have been handed out.
        inspected: those of them that all has been done with.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self.name, self.places = str(self.folder), [self.folder]
        self.read: Callable[[Path], np.ndarray] = read_image
        self.handed: dict[str, Stamp] = {}
        self.inspected: dict[str, Stamp] = {}
        self.waiting: dict[str, tuple[Stamp, float | None]] = {}  # with when reading first failed
        self._state: Path | None = None
        self._saved: tuple[float, dict[str, Stamp]] = 0.0, {}

    def open(self) -> None:
        """See `Source.open`; raises `UserError` if there is no such folder."""
        if not self.folder.is_dir():
            raise UserError(f"no folder at {masked(str(self.folder))} to watch")

    def resume(self, output: Path, again: bool) -> None:
        """Go on where a former start ended, by the file that it left in `output`.

        Args:
            output: folder of the results; a file in it says from now on what is inspected.
            again: hand out everything anew.
        """
        place = str(self.folder.resolve())
        mark = hashlib.sha256(place.encode()).hexdigest()[:8]  # folders of one name may differ
        self._state = output / f"watched-{self.folder.resolve().name}-{mark}.json"
        if self._state.exists() and not again:
            try:
                files = json.loads(self._state.read_text())["files"]
                self.inspected = {name: (written, size) for name, (written, size) in files.items()}
            except (ValueError, KeyError, TypeError, AttributeError):
                raise UserError(f"{self._state} is damaged; delete it, or add --again") from None
            self.handed = dict(self.inspected)

    def frames(self, stopping: threading.Event) -> Iterator[Frame]:
        """Images: those there first, then each as it arrives; and gaps in which the folder is gone.

        Yields:
            The images, and an error for what cannot be read.
        """
        began = None
        try:
            while not stopping.is_set():
                try:
                    ready = self._ready()
                except OSError as error:
                    if began is None:
                        began = now()
                        gone = f"cannot look into {self.name}: {error.strerror}; waiting for it"
                        yield Frame(self.name, self._about(), ImageError(gone))
                else:
                    if began is not None:
                        yield Frame(self.name, self._about(), Gap.since(began))
                        began = None
                    yield from self._images(ready)
                self._save()
                stopping.wait(POLL)
            if began is not None:
                yield Frame(self.name, self._about(), Gap.since(began))
        finally:
            self._save(every=0)

    def finished(self, frame: Frame) -> None:
        """See `Source.finished`: a new start need not inspect this image again."""
        if frame.stamp is not None:
            self.inspected[Path(frame.about["path"]).name] = frame.stamp

    def _about(self) -> dict[str, str | None]:
        return {"source": self.name, "path": None, "time": iso(now())}

    def _images(self, ready: list[str]) -> Iterator[Frame]:
        """Images that have arrived, in this order, and errors for those that stay unreadable."""
        for name, image in read_ahead(ready, self._read):
            if image is None:
                continue  # deleted, or written to again
            stamp, failed = self.waiting[name]
            if isinstance(image, ImageError):
                failed = time.monotonic() if failed is None else failed
                if time.monotonic() - failed < PATIENCE:  # perhaps its writer pauses
                    self.waiting[name] = stamp, failed
                    continue
            del self.waiting[name]
            self.handed[name] = stamp
            path = str(self.folder / name)
            yield Frame(path, self._about() | {"path": path}, image, stamp=stamp)

    def _ready(self) -> list[str]:
        """Names of the files that have not changed since the last look, by time and name.

        Raises:
            OSError: if the folder cannot be looked into.
        """
        paths = [path for path in self.folder.iterdir() if is_image(path)]
        there = {path.name: stamp for path in paths if (stamp := _stamp(path)) is not None}
        if there:  # an empty folder may be that of a share that is gone: what is known is kept
            self.handed = {name: at for name, at in self.handed.items() if there.get(name) == at}
        new = {name: stamp for name, stamp in there.items() if name not in self.handed}
        same = {name: seen for name, seen in self.waiting.items() if new.get(name) == seen[0]}
        self.waiting = {name: (stamp, None) for name, stamp in new.items()} | same
        return sorted(same, key=lambda name: (there[name][0], name))

    def _read(self, name: str) -> np.ndarray | ImageError | None:
        """The image; None if the file is no longer as it was at the last look."""
        path = self.folder / name
        try:
            image = self.read(path)
        except ImageError as error:
            image = error
        try:  # asked after reading, so that what changed on the way counts
            return image if _stamp(path) == self.waiting[name][0] else None
        except OSError:
            return None  # the folder is gone, as the next look will tell

    def _save(self, every: float = SAVE) -> None:
        """Write down what is inspected and still there, if that changed and so much time passed."""
        when, known = self._saved
        if self._state is None or time.monotonic() - when < every:
            return
        for name in [name for name in list(self.inspected) if name not in self.handed]:
            self.inspected.pop(name, None)
        inspected = dict(self.inspected)
        if inspected != known:
            write_whole(self._state, json.dumps({"folder": self.name, "files": inspected}))
        self._saved = time.monotonic(), inspected


def _stamp(path: Path) -> Stamp | None:
    """None for what is no file, or no longer there; raises `OSError` if that cannot be told."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return (status.st_mtime_ns, status.st_size) if stat.S_ISREG(status.st_mode) else None
