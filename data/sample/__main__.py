"""Draw a sample category from the command line: python -m data.sample."""

import argparse
from pathlib import Path

from utils.errors import run_script
from utils.flags import file_or_folder


def main() -> int:
    """Write the sample that the flags describe; return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data.sample",
        description="Draw a category in the MVTec AD layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--root", type=file_or_folder, default=Path("data/mvtec"), help="data set folder")
    add("--kind", choices=["tile", "part"], default="tile", help="what to draw")
    text = "name of the category (default: its kind)"
    add("--category", type=file_or_folder, default=argparse.SUPPRESS, help=text)
    add("--size", type=int, default=512, help="side of the images in pixels")
    add("--train", type=int, default=60, help="good training images")
    add("--good", type=int, default=16, help="good test images")
    add("--defects", type=int, default=8, help="test images of each defect type")
    add("--seed", type=int, default=0, help="seed of the whole set")
    args = parser.parse_args()
    # Slow to import: --help and wrong flags are answered before.
    import torch

    from data.sample.write import write_sample

    # Threads gain nothing on single images, and one gives the same bytes on every machine.
    torch.set_num_threads(1)
    print(f"wrote {write_sample(**vars(args))}")
    return 0


if __name__ == "__main__":
    run_script(main)
