"""Peak memory of train.py for few and for many images.

    python -m benchmarks.fit_memory --model patchcore --category tile --images 200 761

Flags are those of train.py. Each fit is a process of its own, in a temporary folder.
"""

import sys
import tempfile
from pathlib import Path

from benchmarks.scripts import as_flags, script
from utils.errors import run_script


def fit(images: int, flags: list[str]) -> tuple[float, float]:
    """Peak memory in MiB and seconds of a fit to at most this many images."""
    with tempfile.TemporaryDirectory() as folder:
        done = script("train.py", *flags, *as_flags({"data.limit": images}), cwd=Path(folder))
    return done.peak_mib, done.seconds


def main() -> int:
    """Print a line for each number of images, and the ratio of the last to the first."""
    if "--help" in sys.argv or "--images" not in sys.argv:
        sys.exit(__doc__)
    flags, numbers = sys.argv[1:], []
    place = flags.index("--images")
    while place + 1 < len(flags) and flags[place + 1].isdigit():
        numbers.append(int(flags.pop(place + 1)))
    flags.pop(place)
    peaks = []
    for number in numbers:
        peak, seconds = fit(number, flags)
        peaks.append(peak)
        print(f"at most {number} images: peak {peak:.0f} MiB, {seconds:.0f} s", flush=True)
    print(f"ratio {peaks[-1] / peaks[0]:.2f}")
    return 0


if __name__ == "__main__":
    run_script(main)
