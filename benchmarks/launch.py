"""Run a command for benchmarks/scripts.py and report its status and its peak memory.

    python benchmarks/launch.py DESCRIPTOR PARENT COMMAND ...

A process of its own between the two, for two reasons. Linux counts into a process' peak what its
starter held, so a small script started by a large one would seem large; this one holds next to
nothing. And it has a single thread, so that the command can be told to die with it, see `die_with`.
"""

import ctypes
import os
import signal
import subprocess
import sys
from functools import partial

PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def die_with(parent: int) -> None:
    """Have Linux kill this process as soon as its parent, a process id, is gone.

    A parent that is killed by SIGKILL cannot stop its children, which would live on and write into
    folders that the next start of the same command uses. Other systems have no such call.
    """
    if LIBC is not None:
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it went before the call
            os._exit(1)


def main() -> None:
    """Run the command; writes '<status> <peak memory in bytes>' to the descriptor."""
    descriptor, parent, *command = sys.argv[1:]
    die_with(int(parent))
    for number in (signal.SIGINT, signal.SIGTERM):  # the command gets them too, and then ends
        signal.signal(number, lambda *_: None)
    process = subprocess.Popen(command, preexec_fn=partial(die_with, os.getpid()))
    _, status, usage = os.wait4(process.pid, 0)
    unit = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    report = f"{os.waitstatus_to_exitcode(status)} {usage.ru_maxrss * unit}"
    os.write(int(descriptor), report.encode())


if __name__ == "__main__":
    main()
