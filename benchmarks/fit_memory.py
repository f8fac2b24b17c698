"""Peak memory of train.py for few and for many images.

    python -m benchmarks.fit_memory --model patchcore --category tile --images 200 761

Flags are those of train.py. Each fit is a process of its own, in a temporary folder.
"""

import tempfile
from pathlib import Path

from benchmarks.cells import Cell
from utils.config import load_config, with_absolute_paths
from utils.errors import run_script
from utils.flags import add_setting_flags, overrides_from, script_parser


def main() -> int:
    """Print a line for each number of images, and the ratio of the last to the first."""
    parser = script_parser(__doc__)
    add_setting_flags(parser)
    parser.add_argument("--images", type=int, nargs="+", metavar="N", required=True)
    args = parser.parse_args()
    peaks = []
    for number in args.images:
        config = load_config(overrides=overrides_from(args) | {"data.limit": number})
        with tempfile.TemporaryDirectory() as folder:
            fit = Cell(with_absolute_paths(config), Path(folder)).fit()
        peaks.append(fit["fit_peak_mib"])
        print(
            f"at most {number} images: peak {peaks[-1]:.0f} MiB, {fit['fit_seconds']:.0f} s",
            flush=True,
        )
    print(f"ratio {peaks[-1] / peaks[0]:.2f}")
    return 0


if __name__ == "__main__":
    run_script(main)
