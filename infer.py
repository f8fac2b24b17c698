"""Inspect images: a verdict and a heatmap each.

    python infer.py                            the test folder of the newest run's category
    python infer.py part.png photos/ '*.jpg'   files, folders, patterns
    python infer.py --checkpoint checkpoints/<run> --threshold 1.2 photos/
    python infer.py --category tile photos/    of a run of several categories, where no folder tells
    python infer.py --save map,mask,overlay photos/   other pictures than panels; none: no pictures

Writes a panel for each image, and as it goes a line for it in results.csv and results.jsonl, to
outputs/<run>/infer/, or to infer-2/, infer-3/ and so on: nothing is overwritten. A run that was
trained with calibration.group also gives a verdict on each part, in parts.csv and parts.jsonl. The
exit status is 1 if an image could not be read. Videos, cameras and watched folders: stream.py.
"""

import argparse
import os
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import islice
from pathlib import Path

from data.images import ImageError, read_ahead, read_image
from data.input_profile import InputCheck
from data.listing import expand, is_video
from data.parts import part_name
from inspection.inspector import Inspector
from inspection.open_run import (
    add_category_flag,
    add_run_flags,
    finite_threshold,
    open_categories,
    open_run,
    parse_checked,
)
from inspection.output import (
    COLUMNS,
    KINDS,
    MM_COLUMNS,
    entry,
    named_kinds,
    panel_names,
    result_files,
    save_pictures,
    say,
)
from inspection.parts import Part, part_files
from training.folders import run_name
from utils.errors import UserError, run_script
from utils.files import Disk, empty_folder, new_folder
from utils.flags import add_batch_flag, file_or_folder, script_parser


def parse_args() -> argparse.Namespace:
    """Parse the command line; raises `UserError` for what is a stream."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("images", nargs="*", metavar="IMAGE", help="files, folders or patterns")
    add_run_flags(parser)
    add_category_flag(parser)
    text = "call what scores above X defective, in this start; default: as calibrated"
    add("--threshold", type=finite_threshold, metavar="X", help=text)
    text = "a new folder; default: outputs/<run>/infer"
    add("--output", type=file_or_folder, metavar="DIR", help=text)
    text = f"pictures to write: {', '.join(KINDS)}, joined by commas, or none; default: panel"
    add("--save", type=named_kinds, default=("panel",), metavar="KINDS", help=text)
    add_batch_flag(parser)
    add("--camera", "--watch", dest="stream", help=argparse.SUPPRESS)
    args = parse_checked(parser)
    if args.stream or any(map(is_video, args.images)):
        raise UserError("videos, cameras and watched folders are inspected by python stream.py")
    return args


def inspect(
    inspector: Inspector,
    categories: dict[Path, str],
    output: Path,
    kinds: Sequence[str],
    disk: Disk,
) -> Counter[str]:
    """Inspect images, and print and write the result of each, and of each part, before the next.

    Args:
        inspector: the detector.
        categories: the images, each with its category; those of a part are inspected together.
        output: an empty folder.
        kinds: of pictures that are written of each image.
        disk: notes if anything cannot be written.

    Returns:
        The number of images that are "good", "defect" and "failed": could not be read; and of
        "parts", of which so many are "defective parts".
    """
    group = inspector.group
    images: dict[str, list[Path]] = {}  # of each part
    for path, category in categories.items():
        images.setdefault(part_name(path, category, group), []).append(path)
    paths = [path for own in images.values() for path in own]
    # Not resolve(): a link goes by its own name, whatever it points to.
    absolute = [Path(os.path.abspath(path)) for path in paths]  # noqa: PTH100
    names = dict(zip(paths, panel_names(absolute), strict=True))
    counts: Counter[str] = Counter()
    checks = {
        name: InputCheck(name, one.profile, len(one.scores))
        for name, one in inspector.calibrations.items()
    }
    in_mm = inspector.config.data.mm_per_pixel > 0
    columns = [*COLUMNS, *(MM_COLUMNS if in_mm else []), *(["part"] if group else [])]
    with result_files(output, columns) as add_result, part_files(output, group) as add_part:
        inspections = inspector.inspect_all(read_ahead(paths, inspector.read))
        for name, own in images.items():
            category = categories[own[0]]
            calibration = inspector.calibrations[category]
            part = Part(name, category, calibration)
            for path, inspection in islice(inspections, len(own)):
                if isinstance(inspection, ImageError):
                    print(f"FAILED  {inspection}", file=sys.stderr)
                    counts["failed"] += 1
                    continue
                part.scores.append(inspection.score)
                counts[calibration.verdict(inspection.score)] += 1
                original = partial(read_image, path, inspector.config.data)
                picture, title = output / names[path], path.name
                with disk.writing():
                    say(inspection.score, calibration, path)
                    checks[category].add(inspection.measures)
                    files = save_pictures(kinds, picture, inspection, calibration, title, original)
                    found = {"path": str(path), **entry(inspection, category, calibration)}
                    found |= {kind: str(file) for kind, file in files.items()}
                    add_result(found | part.about)
            if part.scores:
                counts["parts"] += 1
                counts["defective parts"] += part.is_defect
                with disk.writing():
                    add_part(part)
    for check in checks.values():
        check.end()
    return counts


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
        data_sets = open_categories(args, inspector)
        paths = [test.path for data_set in data_sets for test in data_set.test_images()]
    categories = {path: inspector.category_of(path) for path in paths}
    disk = Disk()
    output = args.output or new_folder(Path("outputs") / run_name(file) / "infer")
    counts = inspect(inspector, categories, output, args.save, disk)
    calibrations = inspector.calibrations.items()
    thresholds = ", ".join(f"of {category} {one.threshold:.5f}" for category, one in calibrations)
    of_parts = f"{counts['parts']} parts, {counts['defective parts']} defective; images: "
    with disk.writing():
        print(
            f"{of_parts if inspector.group else ''}{counts['defect']} defective, "
            f"{counts['good']} good, {counts['failed']} failed; "
            f"threshold {thresholds}; results in {output}"
        )
    return 1 if counts["failed"] or disk.failed else 0


if __name__ == "__main__":
    run_script(main)
