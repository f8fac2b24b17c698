"""The command line of the drawn categories: python -m data.sample."""

import argparse
import sys
from pathlib import Path

from data.sample import KINDS, write_sample


def main() -> None:
    """Read the command line and write the sample; exit with 2 and one line if that fails."""
    parser = argparse.ArgumentParser(
        prog="python -m data.sample",
        description="Draw a category in the MVTec AD layout.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--root", type=Path, default=Path("data/mvtec"), help="data set folder")
    parser.add_argument("--kind", choices=KINDS, default="tile", help="what to draw")
    parser.add_argument(
        "--category", default=argparse.SUPPRESS, help="name of the category (default: its kind)"
    )
    parser.add_argument("--size", type=int, default=512, help="side of the images in pixels")
    parser.add_argument("--train", type=int, default=60, help="good training images")
    parser.add_argument("--good", type=int, default=16, help="good test images")
    parser.add_argument("--defects", type=int, default=8, help="test images of each defect type")
    parser.add_argument("--seed", type=int, default=0, help="seed of the whole set")
    try:
        folder = write_sample(**vars(parser.parse_args()))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    print(f"wrote {folder}")


if __name__ == "__main__":
    main()
