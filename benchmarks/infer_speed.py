"""Images per second of infer.py by what it writes of each image.

    python -m benchmarks.infer_speed --checkpoint checkpoints/<run>

The ways take turns on the same images, read, inspected and written as infer.py does it. Panels at
zlib's usual level of 6 are among them, for comparison. Seconds are those of the CPU, all threads
together, so that other work on the machine does not count; on a GPU they say nothing.
"""

import contextlib
import io
import tempfile
import time
from pathlib import Path

import infer
from benchmarks.timing import spread, test_images
from inspection import pictures
from inspection.open_run import add_run_flags, open_run
from utils.errors import run_script
from utils.flags import add_batch_flag, script_parser

WAYS = {
    "panel, PNG level 6": (["panel"], 6),
    "panel": (["panel"], pictures.COMPRESSION),
    "map,mask,overlay": (["map", "mask", "overlay"], pictures.COMPRESSION),
    "none": ([], pictures.COMPRESSION),
}


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = script_parser(__doc__)
    add_run_flags(parser)
    add_batch_flag(parser)
    parser.add_argument("--images", type=int, default=16, metavar="N", help="images a turn")
    parser.add_argument("--turns", type=int, default=5, metavar="N", help="turns of each way")
    args = parser.parse_args()
    _, inspector = open_run(args)
    parts = {path: inspector.category_of(path) for path in test_images(args, inspector)}
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(args.turns + 1):
        for way, (kinds, pictures.COMPRESSION) in WAYS.items():
            with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
                started = time.process_time()
                infer.inspect(inspector, parts, Path(folder), kinds)
                if turn:  # the first one warms up
                    rates[way].append(len(parts) / (time.process_time() - started))
    for way, found in rates.items():
        print(f"{way:<20} {spread(found, 'images/s', 1)}, {args.turns} turns of {len(parts)}")
    return 0


if __name__ == "__main__":
    run_script(main)
