"""Files that stream.py writes as it goes: a line of JSON for each frame, and a file of counts."""

import itertools
import json
import time
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

from streams.source import iso, now
from utils.errors import UserError
from utils.files import LineFile, write_whole

EVERY = 2.0  # seconds between two heartbeats
PROGRAM = "stream.py"  # tells a heartbeat from other files


class VerdictLog:
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

    def __enter__(self) -> "VerdictLog":
        return self

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
