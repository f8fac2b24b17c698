"""The files that verdicts are written to, a line of JSON each."""

import json
from datetime import date
from pathlib import Path
from typing import Any


class VerdictLog:
    """Files `verdicts-<day>-<number>.jsonl`: a new one each start, each day and at a size.

    By name they lie in order of time. None is ever written to by another start. A context manager.

    Args:
        folder: where they are; created.
        mib: a file that has grown beyond so many MiB is followed by the next.

    Attributes:
        path: the file that is written.
    """

    def __init__(self, folder: Path, mib: float) -> None:
        self.folder, self.limit = folder, mib * 2**20
        folder.mkdir(parents=True, exist_ok=True)
        self._open()

    def __enter__(self) -> "VerdictLog":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def next_line(self) -> None:
        """Go on to the next file, where the day or the size asks for it."""
        if self._day != date.today() or self._file.tell() > self.limit:
            self._file.close()
            self._open()

    def write(self, line: dict[str, Any]) -> str:
        """Write a line at once; returns it as JSON."""
        text = json.dumps(line)
        self._file.write(text.encode() + b"\n")
        return text

    def _open(self) -> None:
        self._day = date.today()
        there = sorted(self.folder.glob(f"verdicts-{self._day}-*.jsonl"))
        number = int(there[-1].stem.rpartition("-")[2]) if there else 0
        while True:
            number += 1
            self.path = self.folder / f"verdicts-{self._day}-{number:04d}.jsonl"
            try:
                self._file = self.path.open("xb", buffering=0)
            except FileExistsError:  # another process was faster
                continue
            return
