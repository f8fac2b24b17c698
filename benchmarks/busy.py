"""Time training steps and inference beside other work, with and without what the project sets.

    python -m benchmarks.busy --size 256 --batch 8 --runs checkpoints/RUN RUN.onnx

Runs beside 0, 1 and 2 endless loops of Python. Two processes take turns: one with the defaults of
torch and onnxruntime, one with the settings of `utils.process` and `inspection.onnx_inspector`.
Prints a row for the training step of the U-Net and for an image of each run: medians, and the ratio
of the pairs with its lowest and highest. docs/speed.md has the figures of 2 cores.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import TYPE_CHECKING
from unittest import mock

from benchmarks.experiment import markdown
from training.folders import named_checkpoint
from utils import process
from utils.config import Config, changed, default_config, load_config
from utils.errors import run_script
from utils.flags import add_setting_flags, overrides_from, script_parser

if TYPE_CHECKING:
    import numpy as np

# As it was before `run_script` set this process up: children inherit it.
ENVIRONMENT = dict(os.environ)

LOOPS = (0, 1, 2)
SECONDS, MIN_CALLS = 4, 2  # of a measurement
CHILD = "import json, sys; from benchmarks.busy import measure; measure(*json.loads(sys.argv[1]))"


def measure(settings: dict, run: str | None, ours: bool) -> None:
    """Print the median milliseconds of a training step, or of an image of a run.

    Args:
        settings: a dumped `Config`.
        run: a checkpoint's folder or an export; None for the training step.
        ours: whether the process is set up as scripts do it.
    """
    if ours:
        process.set_up()
    import numpy as np

    config = changed(default_config(), settings)
    image = np.random.default_rng(0).integers(90, 160, (*config.data.size, 3), dtype=np.uint8)
    work = training_step(config, image) if run is None else inspection(run, image, ours)
    work()
    times: list[float] = []
    while sum(times) < 1000 * SECONDS or len(times) < MIN_CALLS:
        started = perf_counter()
        work()
        times.append(1000 * (perf_counter() - started))
    print(median(times))


def training_step(config: Config, image: np.ndarray) -> Callable[[], object]:
    """Return a step of the U-Net's training on a batch of this image, uint8 [H, W, 3]."""
    import numpy as np
    import torch

    from models import build_model
    from training.loop import pick_micro_batch, train_step
    from utils.device import place

    device = torch.device("cpu")
    model = place(build_model(config), device).train()
    model.load_pretrained()
    batch, pieces = np.stack([image] * config.train.batch), pick_micro_batch(config, device)
    return partial(train_step, model, model.optimizer(), batch, device, pieces)


def inspection(run: str, image: np.ndarray, ours: bool) -> Callable[[], object]:
    """Return the inspection of an image, uint8 [H, W, 3], by a run or an export."""
    from inspection.open_run import open_inspector

    # Without its entries a session spins as onnxruntime has it by default.
    entries = "onnxruntime.SessionOptions.add_session_config_entry"
    with nullcontext() if ours else mock.patch(entries):
        inspector = open_inspector(Path(run), "cpu")
    return partial(inspector.inspect, image)


@contextmanager
def beside(loops: int) -> Iterator[None]:
    """Keep so many cores busy while inside."""
    command = [sys.executable, "-c", "while True: pass"]
    busy = [subprocess.Popen(command) for _ in range(loops)]
    try:
        yield
    finally:
        for one in busy:
            one.kill()


def pairs(settings: dict, run: str | None, repeats: int) -> list[tuple[float, float]]:
    """Return milliseconds with the defaults of the libraries, and with the project's settings."""

    def once(ours: bool) -> float:
        argument = json.dumps([settings, run, ours])
        command = [sys.executable, "-c", CHILD, argument]
        started = subprocess.run(command, env=ENVIRONMENT, check=True, stdout=subprocess.PIPE)
        return float(started.stdout)

    return [(once(False), once(True)) for _ in range(repeats)]


def main() -> int:
    """Print the table."""
    parser = script_parser(__doc__)
    add_setting_flags(parser)
    parser.add_argument("--runs", nargs="*", type=named_checkpoint, default=[], metavar="RUN")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    config = load_config(overrides=overrides_from(args) | {"model": "unet"})
    lines = []
    for run in [None, *map(str, args.runs)]:
        name = run or f"training step, {config.train.batch} images"
        quiet = None
        for loops in LOOPS:
            with beside(loops):
                found = pairs(config.model_dump(), run, args.repeats)
            theirs, ours = map(median, zip(*found, strict=True))
            quiet = quiet or ours
            ratios = sorted(default / tuned for default, tuned in found)
            spread = f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
            times = [f"{theirs:.0f}", f"{ours:.0f}", spread, f"{ours / quiet:.2f}"]
            lines.append([name, str(loops), *times])
            print(*lines[-1], file=sys.stderr)
    headings = ["what", "loops", "ms by default", "ms", "times as fast", "of the quiet time"]
    print(markdown(headings, lines))
    return 0


if __name__ == "__main__":
    run_script(main)
