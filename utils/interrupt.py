"""Signals that end a program: one that stops at once, and one that lets the current step finish."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

ENDING = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]
"""Signals that ask a program to end: Ctrl-C, `kill`, a terminal that closes (not on Windows)."""


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Let each of `ENDING` raise `KeyboardInterrupt`; those that are ignored, as by nohup, stay so.

    Yields:
        The signals that came so far.
    """
    received: list[int] = []

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    former = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in former.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, interrupt)
    try:
        yield received
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


class StopRequest:
    """The first of `ENDING` sets `requested`; a second Ctrl-C stops at once."""

    def __init__(self, notice: str) -> None:
        self.requested = False
        self.notice = notice

    def __enter__(self) -> "StopRequest":
        # Ignored ones stay so: SIGHUP under nohup, Ctrl-C in a shell's background.
        heeded = [number for number in ENDING if signal.getsignal(number) != signal.SIG_IGN]
        self._previous = {number: signal.signal(number, self._handle) for number in heeded}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        print(f"\n{self.notice}", flush=True)
