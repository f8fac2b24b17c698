"""What a supervisor watches: counts, and a file that stays fresh while frames are inspected."""

import json
import time
from collections.abc import Iterable
from pathlib import Path

from streams.source import iso, now
from utils.errors import UserError
from utils.files import write_whole

EVERY = 2.0  # seconds between two beats


class Heartbeat:
    """Counts what is inspected, and tells it in a file that is replaced every few seconds.

    It is written by the loop that inspects: where that hangs, the file grows old. It holds JSON:
    `sources` by name, all from the start: frames, defects, failures, and the time of the last one.
    A path of None writes none.

    Raises:
        UserError: if the file is there and is no heartbeat.
    """

    def __init__(self, path: Path | None, names: Iterable[str]) -> None:
        self.path = path
        self.sources = {
            name: {"frames": 0, "defects": 0, "failures": 0, "last": None} for name in names
        }
        self._beaten = float("-inf")
        if path:
            if path.exists() and b'"sources"' not in path.read_bytes():
                raise UserError(f"{path} is none of --heartbeat, and stays; name another file")
            path.parent.mkdir(parents=True, exist_ok=True)

    def count(self, name: str, defect: bool) -> None:
        """Count a frame that was inspected."""
        source = self.sources[name]
        source["frames"] += 1
        source["defects"] += defect
        source["last"] = iso(now())

    def fail(self, name: str) -> None:
        """Count what could not be inspected."""
        self.sources[name]["failures"] += 1

    def total(self, what: str) -> int:
        """Frames, defects or failures of all sources."""
        return sum(source[what] for source in self.sources.values())

    def beat(self) -> None:
        """Write the file, if the last time is long enough ago."""
        if time.monotonic() - self._beaten >= EVERY:
            self.write()

    def write(self) -> None:
        """Write the file, as of now."""
        self._beaten = time.monotonic()
        if self.path:
            write_whole(self.path, json.dumps({"time": iso(now()), "sources": self.sources}))
