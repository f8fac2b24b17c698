"""Errors that a user can mend: one line that says what is wrong and the way out, no traceback."""

import os
import sys
from collections.abc import Callable
from functools import lru_cache
from typing import NoReturn

from utils.interrupt import end_quiet_start


class UserError(Exception):
    """Something that the user can mend; the message names the path, option or command to do so."""


@lru_cache(maxsize=1000)  # a stream may go on for months
def say_once(line: str) -> None:
    """Print a line to stderr, but not again however often the same is found."""
    print(line, file=sys.stderr)


def answer_early(parse_args: Callable[[], object]) -> None:
    """Read the arguments ahead of a script's slow imports: --help and mistakes end it here."""
    try:
        parse_args()
    except UserError as error:
        _say(error)
        sys.exit(2)


def run_script(main: Callable[[], int]) -> NoReturn:
    """Run a script's `main` and exit with its status: 2 on a `UserError`, 130 on a hard Ctrl-C."""
    # A log file shows each line as it comes, and a name that its encoding lacks stops nothing.
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    sys.stderr.reconfigure(errors="backslashreplace")
    try:
        end_quiet_start()
        status = main()
    except (UserError, OSError) as error:  # OSError: a full disk, a folder that is read-only
        _say(error)
        status = 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which is not imported here
            raise
        _say("out of memory; lower --size, train.micro_batch in training, or --batch elsewhere")
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    if "WORLD_SIZE" in os.environ:
        # Under torchrun: Gloo's threads now and then abort a process that Python takes down.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    sys.exit(status)


def _say(error: object) -> None:
    print(f"error: {error}", file=sys.stderr)
