"""An exported detector against its checkpoint: time an image, and time to the first verdict.

    python export.py --checkpoint checkpoints/<run>
    python -m benchmarks.export_speed --checkpoint checkpoints/<run>

Images of the test split are inspected by both in turn, one at a time; the ratio is the median over
the pairs. The first verdict is timed from the start of the command infer.py until it is printed.
"""

import subprocess
import sys
import time
from pathlib import Path

from benchmarks.experiment import REPO
from benchmarks.timing import ratio, spread, test_images
from inspection.open_run import named_run, open_inspector
from training.folders import run_name
from utils.errors import UserError, run_script
from utils.flags import add_setting_flags, script_parser


def first_verdict(checkpoint: Path, image: Path) -> float:
    """Seconds from the start of infer.py to its first line."""
    command = [sys.executable, str(REPO / "infer.py"), "--checkpoint", str(checkpoint), str(image)]
    started = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        seconds = time.perf_counter() - started
        process.communicate()
    if "score" not in line:
        raise UserError(f"{' '.join(command)} gave no verdict")
    return seconds


def main() -> int:
    """Measure and print; returns the exit status."""
    parser = script_parser(__doc__)
    parser.add_argument("--checkpoint", type=Path, metavar="RUN")
    parser.add_argument("--images", type=int, default=20, metavar="N", help="pairs to measure")
    parser.add_argument("--starts", type=int, default=5, metavar="N", help="starts of infer.py")
    add_setting_flags(parser, ["--model", "--category", "--data-root"])
    args = parser.parse_args()
    file = named_run(args)
    export = file.with_name(f"{run_name(file)}.onnx")
    if not export.exists():
        raise UserError(f"no {export}; write it with: python export.py --checkpoint {file.parent}")
    pair = [open_inspector(path, "cpu") for path in (file, export)]
    paths = test_images(args, pair[0])
    verdicts_equal, times = 0, []
    for path in [paths[0], *paths]:  # the first one warms up
        image = pair[0].read(path)
        found = [inspector.inspect(image) for inspector in pair]
        times.append([one.milliseconds for one in found])
        verdicts = [
            inspector.calibrations[inspector.category_of(path)].is_defect(one.score)
            for inspector, one in zip(pair, found, strict=True)
        ]
        verdicts_equal += verdicts[0] == verdicts[1]
    ours, theirs = (list(column) for column in zip(*times[1:], strict=True))
    print(f"checkpoint  {spread(ours, 'ms an image', 0)}")
    print(f"export      {spread(theirs, 'ms an image', 0)}")
    print(f"ratio       {ratio(ours, theirs)}")
    print(f"verdicts    {verdicts_equal} of {len(times)} equal")
    for name, checkpoint in {"checkpoint": file, "export": export}.items():
        starts = [first_verdict(checkpoint, paths[0]) for _ in range(args.starts)]
        print(f"first verdict of the {name}: {spread(starts, 's', 2)}, {len(starts)} starts")
    return 0


if __name__ == "__main__":
    run_script(main)
