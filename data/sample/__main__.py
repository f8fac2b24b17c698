"""The command line of the drawn categories: python -m data.sample."""

import argparse
from pathlib import Path

from data.sample import KINDS, write_sample
from utils.errors import run_script
from utils.flags import file_or_folder


def main() -> int:
    """Read the command line and write the sample; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m data.sample",
        description="Draw a category in the MVTec AD layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    root = {"type": file_or_folder, "default": Path("data/mvtec")}
    parser.add_argument("--root", **root, help="data set folder")
    parser.add_argument("--kind", choices=KINDS, default="tile", help="what to draw")
    parser.add_argument(
        "--category", default=argparse.SUPPRESS, help="name of the category (default: its kind)"
    )
    parser.add_argument("--size", type=int, default=512, help="side of the images in pixels")
    parser.add_argument("--train", type=int, default=60, help="good training images")
    parser.add_argument("--good", type=int, default=16, help="good test images")
    parser.add_argument("--defects", type=int, default=8, help="test images of each defect type")
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole set")
    print(f"wrote {write_sample(**vars(parser.parse_args()))}")
    return 0


if __name__ == "__main__":
    run_script(main)
