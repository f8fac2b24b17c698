"""Memory of infer.py along a video of 10,000 frames.

    python -m benchmarks.stream_memory
    python -m benchmarks.stream_memory --frames 2000 --checkpoint checkpoints/<run> --video

Draws the video, and without --checkpoint the sample set and a tiny U-Net (64x64, width 4) trained
on it, all in a temporary folder. --video has infer.py write an annotated video as well.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import psutil

from data.sample import write_sample
from utils.extras import opencv
from utils.flags import script_parser

REPO = Path(__file__).resolve().parent.parent
TINY = ["--size", "64", "--set", "unet.width=4", "--batch", "4"]
SIDE = 64  # of a frame, pixels
FIRST = 500  # frames until the first sample: by then all is loaded
EXTRA = 50  # frames after the last sample, so that the process is still there


def write_video(path: Path, frames: int) -> None:
    """Write a seeded video of a light that wanders over noise."""
    cv2 = opencv()
    random = np.random.default_rng(0)
    noise = random.integers(60, 120, (SIDE, SIDE, 3), dtype=np.uint8)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 25.0, (SIDE, SIDE))
    for number in range(frames):
        place = number % SIDE, number // SIDE % SIDE
        writer.write(cv2.circle(noise.copy(), place, 6, (250, 250, 250), -1))
    writer.release()


def train(folder: Path) -> Path:
    """Train a tiny U-Net in a folder; returns its run."""
    write_sample(folder / "data", "tile", size=SIDE, train=20, good=1, defects=1, quiet=True)
    command = [sys.executable, str(REPO / "train.py"), *TINY, "--epochs", "2"]
    command += ["--data-root", str(folder / "data")]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return next((folder / "checkpoints").iterdir())


def main() -> None:
    """Print the memory after the first frames and at the end, and the frames per second."""
    parser = script_parser(__doc__)
    parser.add_argument("--frames", type=int, default=10_000, metavar="N")
    parser.add_argument("--checkpoint", type=Path, metavar="RUN")
    parser.add_argument("--video", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run = args.checkpoint or train(folder)
        write_video(folder / "line.avi", args.frames + EXTRA)
        command = [sys.executable, str(REPO / "infer.py"), str(folder / "line.avi")]
        command += ["--checkpoint", str(run), "--output", str(folder)]
        if args.video:
            command += ["--video", str(folder / "annotated.mp4")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        watched, memory, times = psutil.Process(process.pid), {}, {}
        summary = ""
        for number, summary in enumerate(process.stdout, 1):  # noqa: B007  (its last line)
            if number in (FIRST, args.frames):
                memory[number] = watched.memory_info().rss / 2**20
                times[number] = time.perf_counter()
                print(f"after {number} frames: {memory[number]:.1f} MiB", flush=True)
        if process.wait() or len(memory) < 2:
            sys.exit("infer.py failed, or the video is too short")
        print(f"growth {memory[args.frames] - memory[FIRST]:+.1f} MiB")
        print(f"{(args.frames - FIRST) / (times[args.frames] - times[FIRST]):.0f} frames/s")
        print(summary.strip())


if __name__ == "__main__":
    main()
