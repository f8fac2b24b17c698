"""Ctrl-C that lets the current step finish."""

import signal
from types import FrameType, TracebackType


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.requested = True
        print(f"\n{self.notice}", flush=True)
