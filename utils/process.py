"""Settings of the process under which torch is fast, beside other work too.

They take effect only before torch is imported. Figures: `python -m benchmarks.busy`.
"""

import ctypes
import math
import os
import sys
from pathlib import Path

# Turns that a thread of OpenMP waits in a loop before it sleeps. By default threads wait for 0.1 s
# or more at the end of each operation; beside other work the thread that they wait for has no core.
SPIN_COUNT = 1000

# Bytes from which glibc maps memory for a tensor, and of free memory that it keeps. By default each
# large tensor is mapped and unmapped, and the kernel writes zeros to it, at every step.
MMAP_BYTES, KEPT_BYTES = 2**30, 2**30

# Numbers of glibc's parameters, as in malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def set_up() -> None:
    """Let threads wait without spinning, count them by the cores at hand, and keep freed memory.

    What the user has set by an environment variable stays.
    """
    if not os.environ.keys() & {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"}:
        os.environ["GOMP_SPINCOUNT"] = str(SPIN_COUNT)
    allowed = allowed_cores()
    if allowed is not None and "OMP_NUM_THREADS" not in os.environ:
        os.environ["OMP_NUM_THREADS"] = str(allowed)
    by_user = any(name.startswith("MALLOC_") for name in os.environ)
    if sys.platform == "linux" and not by_user and "GLIBC_TUNABLES" not in os.environ:
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # not in musl
            libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
            libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)


def allowed_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int | None:
    """Return the cores that a container's limit of CPU time comes to; None if there is no limit.

    OpenMP knows the cores of the machine, and those that the process is bound to, but not this.

    Args:
        quota: file of cgroup v2 with the microseconds of CPU time in a period, and the period.
    """
    try:
        time, period = quota.read_text().split()
        cores = math.ceil(int(time) / int(period))
    except (OSError, ValueError):  # no cgroup v2, or "max": no limit
        return None
    # Those that the process is bound to may be fewer still, and OpenMP goes by them.
    bound = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else ()
    return cores if cores < (len(bound) or os.cpu_count() or 1) else None
