"""Inspect images: a verdict and a heatmap each.

    python infer.py                            the test folder of the newest run's category
    python infer.py part.png photos/ '*.jpg'   files, folders, patterns
    python infer.py --checkpoint checkpoints/<run> photos/

Writes a panel for each image, results.csv and results.json to outputs/<run>/infer/. The exit status
is 1 if an image could not be read. Videos, cameras and watched folders: stream.py.
"""

import argparse
import csv
import json
import os
import sys
from pathlib import Path

from data.images import ImageError, expand, read_ahead, read_image
from data.mvtec import Category
from inspection.open_run import add_run_flags, open_run, parse_checked
from inspection.panel import panel
from inspection.results import entry, say
from inspection.streams import is_video
from utils.batches import add_batch_flag
from utils.errors import UserError, run_script
from utils.runs import run_name


def parse_args() -> argparse.Namespace:
    """Flags of the command line; raises `UserError` for what is a stream."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="*", metavar="IMAGE", help="files, folders or patterns")
    add_run_flags(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="default: outputs/<run>/infer")
    add_batch_flag(parser)
    parser.add_argument("--camera", "--watch", dest="stream", help=argparse.SUPPRESS)
    args = parse_checked(parser)
    streams = [argument for argument in args.images if is_video(argument)]
    if args.stream or streams:
        raise UserError("videos, cameras and watched folders are inspected by python stream.py")
    return args


def panel_names(paths: list[Path]) -> dict[Path, Path]:
    """Where each image's panel goes, relative to the output: as the images lie to one another."""
    absolute = {path: path.resolve() for path in paths if path.exists()}
    if not absolute:
        return {}
    common = Path(os.path.commonpath([path.parent for path in absolute.values()]))
    names, taken = {}, set()
    for path, full in absolute.items():
        name = full.relative_to(common).with_suffix(".png")
        while name in taken:  # part.jpg beside part.png
            name = name.with_name(name.stem + "_" + full.suffix[1:] + ".png")
        taken.add(name)
        names[path] = name
    return names


def write_results(results: list[dict], output: Path) -> None:
    """results.json and results.csv, one entry an image."""
    with (output / "results.json").open("w") as stream:
        json.dump(results, stream, indent=2)
    columns = ["path", "score", "verdict", "threshold", "x", "y", "width", "height", "panel"]
    with (output / "results.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(columns)
        for result in results:
            box = result["box"] or [""] * 4
            first = [result[column] for column in columns[:4]]
            writer.writerow([*first, *box, result["panel"]])


def main() -> int:
    """Inspect files and write a panel each and the results; returns the exit status."""
    args = parse_args()
    settings = vars(args)
    file, inspector = open_run(args)
    calibration = inspector.calibration
    if args.images:
        paths = expand(args.images)
    else:
        category = Category.chosen(
            inspector.config.data, settings["data.root"], settings["data.category"]
        )
        paths = [test.path for test in category.test_images()]
    if not paths:
        raise UserError(f"no images at {', '.join(args.images)}")
    output = args.output or Path("outputs") / run_name(file) / "infer"

    names = panel_names(paths)
    results, failed = [], 0
    try:
        for path, inspection in inspector.inspect_all(read_ahead(paths, read_image)):
            if isinstance(inspection, ImageError):
                print(f"FAILED  {inspection}", file=sys.stderr)
                failed += 1
                continue
            say(inspection, calibration, path)
            picture = output / names[path]
            picture.parent.mkdir(parents=True, exist_ok=True)
            panel(inspection, calibration, path.name).save(picture)
            said = entry(inspection, calibration)
            results.append({"path": str(path), **said, "panel": str(picture)})
    finally:  # what is done is kept, also on Ctrl-C
        output.mkdir(parents=True, exist_ok=True)
        write_results(results, output)
    defects = sum(result["verdict"] == "defect" for result in results)
    summary = f"{defects} defective, {len(results) - defects} good"
    print(f"{summary}, {failed} failed; threshold {calibration.threshold:.5f}; panels in {output}")
    return 1 if failed else 0


if __name__ == "__main__":
    run_script(main)
