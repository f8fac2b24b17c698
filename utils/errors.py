"""Errors that a user can mend: one line that says what is wrong and the way out, no traceback."""

import os
import signal
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import NoReturn

from utils import process
from utils.addresses import masked
from utils.interrupt import catch_signals


class UserError(Exception):
    """Something that the user can mend; the message names the path, option or command to do so.

    Passwords of addresses in the message are masked.
    """

    def __init__(self, message: str) -> None:
        super().__init__(masked(message))


@lru_cache(maxsize=1000)  # a stream may go on for months
def say_once(line: str) -> None:
    """Print a line to stderr, but not again however often the same is found."""
    print(masked(line), file=sys.stderr)


def run_script(main: Callable[[], int]) -> NoReturn:
    """Run a script's `main` and exit with its status.

    That is 2 on a `UserError`, 130 on Ctrl-C, and 143 or 129 on SIGTERM or SIGHUP, which raise
    `KeyboardInterrupt` as Ctrl-C does: what cleans up after one cleans up after all.
    """
    process.set_up()  # before `main` imports torch
    # A process may be started with closed streams, as by `>&-`; it works on, unheard.
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: PTH123, SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: PTH123, SIM115
    # A log file shows each line as it comes, and a name that its encoding lacks stops nothing.
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.stderr.reconfigure(errors="backslashreplace")
    with catch_signals() as received:
        try:
            status = main()
        except (Exception, KeyboardInterrupt) as error:
            # Some packages turn Ctrl-C during their import into an error of their own.
            if received or isinstance(error, KeyboardInterrupt):
                print("interrupted", file=sys.stderr)
                status = 128 + (received or [signal.SIGINT])[0]
            elif isinstance(error, UserError | OSError):  # OSError: a full disk, a read-only folder
                _say(error)
                status = 2
            elif type(error).__name__ == "OutOfMemoryError":  # torch's, not imported here
                ways = "lower --size, train.micro_batch in training, or --batch elsewhere"
                _say(f"out of memory; {ways}")
                status = 2
            elif isinstance(error, ModuleNotFoundError):
                ways = "pip install -r requirements.txt, or as docs/deployment.md says"
                _say(f"the package {error.name} is not installed; install it with: {ways}")
                status = 2
            else:
                raise
    if "WORLD_SIZE" in os.environ:
        # Under torchrun: Gloo's threads now and then abort a process that Python takes down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _say(error: object) -> None:
    print(f"error: {masked(str(error))}", file=sys.stderr)
