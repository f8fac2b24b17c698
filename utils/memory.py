"""The memory that this process took."""

import sys


def peak_mib() -> float | None:
    """Largest resident memory of this process so far, in MiB; None on Windows, which has no count.

    Linux starts to count from what the process that started this one held.
    """
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)  # bytes on macOS, else KiB
