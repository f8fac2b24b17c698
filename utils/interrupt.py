"""Ctrl-C: quiet while a script starts, and later one that lets the current step finish."""

import os
import signal
from types import FrameType
from typing import NoReturn


def quiet_start() -> None:
    """Until `run_script`, Ctrl-C ends the process at once with status 130 and no traceback.

    A script calls it before its imports. A `KeyboardInterrupt` in the midst of these would not do:
    some packages turn it into errors of their own. Where Ctrl-C is ignored, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def end_quiet_start() -> None:
    """From here on Ctrl-C raises `KeyboardInterrupt` again, so that what is done can be saved."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    os._exit(130)


class StopRequest:
    """The first Ctrl-C (or SIGTERM) sets `requested`; a second Ctrl-C stops at once."""

    def __init__(self, notice: str) -> None:
        self.requested = False
        self.notice = notice

    def __enter__(self) -> "StopRequest":
        self._previous = {
            number: signal.signal(number, self._handle)
            for number in (signal.SIGINT, signal.SIGTERM)
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        print(f"\n{self.notice}", flush=True)
