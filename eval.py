"""Measure a trained detector on the official test split.

    python eval.py                                    the newest run
    python eval.py --category wood                    the newest run of a category
    python eval.py --checkpoint checkpoints/<run>     a certain one
    python eval.py --synthetic                        without test images, to choose settings by
    python eval.py --html                             and a page to file or to send

Prints the metrics and writes them to outputs/<run>/eval/ with plots and the worst cases; of a run
of several categories, to a folder for each in there, and their mean. Pixels outside of data.region
are not counted.
"""

if __name__ == "__main__":  # before what takes long to import: Ctrl-C is quiet from here on
    from utils.interrupt import quiet_start

    quiet_start()

import argparse
from pathlib import Path

from inspection.open_run import add_run_flags, chosen_categories, open_run, parse_checked
from utils.errors import answer_early, run_script
from utils.flags import add_batch_flag, script_parser


def parse_args() -> argparse.Namespace:
    """Flags of the command line."""
    parser = script_parser(__doc__)
    add_run_flags(parser)
    add = parser.add_argument
    add("--output", type=Path, metavar="DIR", help="default: outputs/<run>/eval")
    word = "measure with defects synthesised on good images, to choose settings by; "
    add("--synthetic", action="store_true", help=word + "the test split is not touched")
    add("--html", action="store_true", help="also write all of it as one page, report.html")
    add_batch_flag(parser)
    return parse_checked(parser)


if __name__ == "__main__":
    answer_early(parse_args)  # --help and wrong flags, before the slow imports

import sys
from collections.abc import Iterable

from data.images import read_ahead
from data.mvtec import Category, TestImage
from evaluation.html_report import html_report
from evaluation.measure import Reader, Test, collect_pixels, measure, score_split
from evaluation.metrics import BinnedPixelScores, PixelScores
from evaluation.report import (
    kinds_table,
    mean_tables,
    overview,
    plots,
    refuse_foreign,
    replace_files,
    stacked,
    summary,
    tables,
    worst_cases,
)
from evaluation.synthetic_split import pseudo_readers
from inspection.inspector import Inspector
from training.folders import run_name
from utils.files import printable


def choose_split(
    category: Category, inspector: Inspector, part: str, synthetic: bool
) -> tuple[list[Test], Iterable[Reader], str]:
    """What to measure on: the images, readers of them, and what they are called."""
    if synthetic:
        tests, readers = pseudo_readers(inspector, category.folder.parent, part)
        return tests, readers, "defects synthesised on good images"
    tests = category.test_images()
    return tests, [read_ahead(tests, TestImage.read)], f"images of {category.folder / 'test'}"


def evaluate(
    args: argparse.Namespace, file: Path, inspector: Inspector, category: Category, output: Path
) -> tuple[dict[str, float], list[str]]:
    """Measure on one category, and write the results to a folder: the metrics, and problems."""
    config, part = inspector.config, inspector.category_of(category.folder)
    calibration = inspector.calibrations[part]
    tests, readers, measured_on = choose_split(category, inspector, part, args.synthetic)
    pixels, notices = PixelScores(), []
    if not args.synthetic:
        pixels, notices = collect_pixels(tests)
    elif config.data.tile:  # at the size of the originals, of which these are many
        pixels = BinnedPixelScores()
    for notice in notices:
        print(notice, file=sys.stderr)
    rows, problems = score_split(inspector, readers, len(tests), pixels)
    metrics = measure(rows, pixels, calibration, inspector.batch)
    title = f"{config.model} on {category.name}"
    print(f"{title}, {file}\n\n{summary(metrics, args.synthetic)}\n")

    curves = plots(rows, metrics, calibration)
    panels = worst_cases(rows, inspector, calibration)
    files = tables(rows, metrics, calibration) | curves | stacked(panels)
    if args.html:
        page = html_report(
            title,
            f"{file}; {measured_on}",
            metrics,
            kinds_table(rows, metrics, calibration),
            curves,
            panels,
            notices + problems,
            config,
        )
        files["report.html"] = printable(page).encode()
    replace_files(output, files)
    return metrics, problems


def main() -> int:
    """Evaluate each category and write the results; returns the exit status."""
    args = parse_args()
    file, inspector = open_run(args)
    categories = chosen_categories(args, inspector)
    kind = "synthetic" if args.synthetic else "eval"
    output = args.output or Path("outputs") / run_name(file) / kind
    several = len(categories) > 1
    folders = {one.name: output / one.name if several else output for one in categories}
    for folder in (output, *folders.values()):
        folder.mkdir(parents=True, exist_ok=True)
        refuse_foreign(folder)

    found, problems = {}, []
    for category in categories:
        found[category.name], some = evaluate(
            args, file, inspector, category, folders[category.name]
        )
        problems += some
    if several:
        replace_files(output, mean_tables(found))
        print(f"{overview(found)}\n")
    print(f"metrics, plots and worst cases are in {output}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    run_script(main)
