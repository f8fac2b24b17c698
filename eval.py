"""Measure a trained detector on the official test split.

    python eval.py                                    the newest run
    python eval.py --category wood                    the newest run that knows a category
    python eval.py --checkpoint checkpoints/<run>     a certain one
    python eval.py --synthetic                        without test images, to choose settings by
    python eval.py --html                             and a page to file or to send

Prints the metrics and writes them to outputs/<run>/eval/ with plots and the worst cases; of a run
of several categories, to a folder for each in there, and their mean. Pixels outside of data.region
are left out.
"""

import argparse
import sys
from pathlib import Path

from inspection.open_run import (
    add_category_flag,
    add_run_flags,
    open_categories,
    open_run,
    parse_checked,
)
from training.folders import run_name
from utils.errors import run_script
from utils.flags import add_batch_flag, file_or_folder, script_parser


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = script_parser(__doc__)
    add_run_flags(parser)
    add_category_flag(parser)
    add = parser.add_argument
    add("--output", type=file_or_folder, metavar="DIR", help="default: outputs/<run>/eval")
    text = "measure with defects drawn on good images, to choose settings by; "
    add("--synthetic", action="store_true", help=text + "the test split is not touched")
    add("--html", action="store_true", help="also write all of it as one page, report.html")
    add_batch_flag(parser)
    return parse_checked(parser)


def main() -> int:
    """Evaluate each category and write the results; returns the exit status."""
    args = parse_args()
    # Slow to import: --help and wrong flags are answered before.
    from evaluation.evaluate import evaluate, record_folders, refuse_foreign, replace_files
    from evaluation.report import mean_tables, overview

    file, inspector = open_run(args)
    categories = open_categories(args, inspector)
    kind = "synthetic" if args.synthetic else "eval"
    output = args.output or Path("outputs") / run_name(file) / kind
    several = len(categories) > 1
    folders = {one.name: output / one.name if several else output for one in categories}
    # Before anything is measured, which may take an hour.
    for folder in (output, *folders.values()):
        folder.mkdir(parents=True, exist_ok=True)
        refuse_foreign(folder)
    if several:
        record_folders(output, folders)

    metrics, problems = {}, []
    for category in categories:
        name = category.name
        metrics[name], some = evaluate(
            inspector, file, category, folders[name], args.synthetic, args.html
        )
        problems += some
    if several:
        replace_files(output, mean_tables(metrics), keep=folders)
        print(f"{overview(metrics)}\n")
    print(f"metrics, plots and worst cases are in {output}")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    run_script(main)
