"""Inspect images: a verdict and a heatmap each.

    python infer.py                            the test folder of the newest run's category
    python infer.py part.png photos/ '*.jpg'   files, folders, patterns
    python infer.py --checkpoint checkpoints/<run> --threshold 1.2 photos/
    python infer.py --part tile photos/        of a run of several categories, where no folder tells
    python infer.py --save map,mask,overlay photos/   other pictures than panels; none: no pictures

Writes a panel for each image, and as it goes a line for it in results.csv and results.jsonl, to
outputs/<run>/infer/, or to infer-2/, infer-3/ and so on: nothing is overwritten. The exit status is
1 if an image could not be read. Videos, cameras and watched folders: stream.py.
"""

if __name__ == "__main__":  # before what takes long to import: Ctrl-C is quiet from here on
    from utils.interrupt import quiet_start

    quiet_start()

import argparse
import os
import re
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path, PurePath

from data.images import ImageError, read_ahead, read_image
from data.listing import expand
from inspection.inspector import Inspector
from inspection.open_run import (
    add_part_flag,
    add_run_flags,
    chosen_categories,
    finite_threshold,
    open_run,
    parse_checked,
)
from inspection.pictures import KINDS, save_pictures
from inspection.results import entry, result_files, say
from streams.source import is_video
from training.folders import run_name
from utils.config import nearest
from utils.errors import UserError, run_script
from utils.files import empty_folder, new_folder, printable
from utils.flags import add_batch_flag, script_parser

LONGEST = 230
"""Bytes in the name of a panel or of its folder: disks take 255; `_overlay` or a number follow."""


def parse_args() -> argparse.Namespace:
    """Flags of the command line; raises `UserError` for what is a stream."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE", help="files, folders or patterns")
    add_run_flags(parser)
    word = "call what scores above X defective, in this start; default: as calibrated"
    add("--threshold", type=finite_threshold, metavar="X", help=word)
    add_part_flag(parser)
    add("--output", type=Path, metavar="DIR", help="a new folder; default: outputs/<run>/infer")
    kinds = {"type": named_kinds, "default": ("panel",), "metavar": "KINDS"}
    word = f"what to write of each image: {', '.join(KINDS)}, joined by commas, or none"
    add("--save", **kinds, help=f"{word}; default: panel")
    add_batch_flag(parser)
    add("--camera", "--watch", dest="stream", help=argparse.SUPPRESS)
    args = parse_checked(parser)
    streams = [argument for argument in args.images if is_video(argument)]
    if args.stream or streams:
        raise UserError("videos, cameras and watched folders are inspected by python stream.py")
    return args


def named_kinds(text: str) -> tuple[str, ...]:
    """The kinds of pictures that `--save` names; raises `UserError` for one there is not."""
    kinds = () if text == "none" else tuple(text.split(","))
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(
                f"--save is {text!r} but should be none, or some of {','.join(KINDS)}"
                + nearest(kind, list(KINDS))
            )
    return kinds


def panel_names(paths: Sequence[PurePath]) -> list[Path]:
    """Names for panels of images: they lie to one another as the images do.

    Two may be the same, as those of part.jpg and part.png are.

    Args:
        paths: absolute, and free of `..`.

    Returns:
        Relative paths of .png files, of characters and lengths that a disk takes.
    """

    def name(part: str) -> str:
        plain = re.sub(r"[\\/:]", "", printable(part))  # of a drive, too: D:\ becomes D
        return plain.encode()[:LONGEST].decode(errors="ignore")

    folders = [path.parent.parts for path in paths]
    common = len(os.path.commonprefix(folders))
    return [
        Path(*map(name, folder[common:]), name(path.stem) + ".png")
        for folder, path in zip(folders, paths, strict=True)
    ]


def inspect(
    inspector: Inspector, parts: dict[Path, str], output: Path, kinds: Sequence[str]
) -> tuple[int, int, int]:
    """Inspect images, and print and write what is found of each before the next.

    Args:
        inspector: the detector.
        parts: the images, each with the part that it shows.
        output: an empty folder.
        kinds: of pictures that are written of each image.

    Returns:
        How many are good, defective, and could not be read.
    """
    paths = list(parts)
    # Not resolve(): a link goes by its own name, whatever it points to.
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100
    names = dict(zip(paths, panel_names(absolute), strict=True))
    counts = {"good": 0, "defect": 0, "failed": 0}
    with result_files(output) as add_result:
        for path, inspection in inspector.inspect_all(read_ahead(paths, inspector.read)):
            if isinstance(inspection, ImageError):
                print(f"FAILED  {inspection}", file=sys.stderr)
                counts["failed"] += 1
                continue
            part, calibration = parts[path], inspector.calibrations[parts[path]]
            counts[say(inspection, calibration, path)] += 1
            files = save_pictures(
                kinds,
                output / names[path],
                inspection,
                calibration,
                path.name,
                partial(read_image, path, inspector.config.data),
            )
            add_result(path, entry(inspection, part, calibration), files)
    return counts["good"], counts["defect"], counts["failed"]


def main() -> int:
    """Inspect files and write pictures of each and the results; returns the exit status."""
    args = parse_args()
    paths = expand(args.images)
    if args.images and not any(path.is_file() for path in paths):
        raise UserError(f"no images at {', '.join(args.images)}")
    if args.output:
        empty_folder(args.output)
    file, inspector = open_run(args)
    if not args.images:
        categories = chosen_categories(args, inspector)
        paths = [test.path for category in categories for test in category.test_images()]
    parts = {path: inspector.category_of(path) for path in paths}
    output = args.output or new_folder(Path("outputs") / run_name(file) / "infer")
    good, defective, failed = inspect(inspector, parts, output, args.save)
    found = inspector.calibrations.items()
    thresholds = ", ".join(f"of {part} {one.threshold:.5f}" for part, one in found)
    print(
        f"{defective} defective, {good} good, {failed} failed; "
        f"threshold {thresholds}; results in {output}"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    run_script(main)
