"""Compare detectors on categories: train and evaluate each on each, and write one table.

    python benchmark.py                                          all detectors, all categories
    python benchmark.py --models patchcore padim --categories tile wood --size 256
    python benchmark.py --for unet train.epochs=20 --for unet unet.width=16
    torchrun --nproc-per-node 2 benchmark.py                     two at a time, each on its GPU

Writes results.csv, results.md and chart.png to outputs/benchmark/, and all else of a cell of the
table to <detector>/<category>/ in there. The same command again goes on where it was stopped and
tries again what failed. Times are comparable only where nothing else runs.
"""

import argparse
import signal
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.cells import Cell
from benchmarks.results import table, write_results
from data.mvtec import Category, list_categories
from models import DETECTORS, detector_class
from utils import distributed
from utils.config import (
    FLAGS,
    add_setting_flags,
    assignment,
    load_config,
    overrides_from,
    with_absolute_paths,
)
from utils.errors import UserError, run_script

ELSEWHERE = {"model": "--models", "data.category": "--categories"}
"""Settings that have flags of their own here."""

LONGEST = timedelta(days=30)  # that a process waits for the others at the end


def parse_args() -> argparse.Namespace:
    """Flags of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", nargs="+", metavar="NAME", help="detectors, by default all")
    parser.add_argument("--categories", nargs="+", metavar="NAME", help="by default all there are")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file over config.yaml")
    add_setting_flags(
        parser, [*(flag for flag, (key, *_) in FLAGS.items() if key not in ELSEWHERE), "--set"]
    )
    parser.add_argument(
        "--for",
        nargs=2,
        action="append",
        default=[],
        dest="own",
        metavar=("MODEL", "KEY=VALUE"),
        help="a setting for one detector only, over the others",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path("outputs/benchmark"))
    return parser.parse_args()


def chosen_cells(args: argparse.Namespace) -> list[Cell]:
    """The cells that the flags ask for, in the order of the table.

    Raises:
        UserError: for a detector, a category or a setting that there is not, or a cell that was
            begun with other settings.
    """
    common = overrides_from(args)
    own: dict[str, dict[str, Any]] = {model: {} for model in DETECTORS}
    for model, text in args.own:
        detector_class(model)
        own[model] |= [assignment(f"--for {model}", text)]
    for key, flag in ELSEWHERE.items():
        if any(key in settings for settings in (common, *own.values())):
            raise UserError(f"{key} is not set this way here; use {flag}")
    configs = {
        model: with_absolute_paths(load_config(args.config, common | own[model] | {"model": model}))
        for model in DETECTORS
    }
    environment = distributed.child_environment()
    cells = []
    for model in dict.fromkeys(args.models or DETECTORS):
        detector_class(model)
        config = configs[model]
        there = list_categories(config.data.root)
        for category in dict.fromkeys(args.categories or there or [config.data.category]):
            Category(config.data.root, category)
            data = config.data.model_copy(update={"category": category})
            folder = args.output.resolve() / model / category
            cells.append(Cell(config.model_copy(update={"data": data}), folder, environment))
            cells[-1].check()
    return cells


def main() -> int:
    """Compute the cells that are missing; returns the exit status."""
    args = parse_args()
    cells = chosen_cells(args)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # torchrun stops its processes so
    distributed.start(torch.device("cpu"), LONGEST)
    writer = distributed.is_writer()
    mine = cells[distributed.rank() :: distributed.world_size()]
    try:
        for cell in tqdm(mine, unit="cell", disable=not writer or None):
            if not cell.finished:
                row = cell.compute()
                tqdm.write(f"{cell.name}: {row['error'] or 'finished'}")
            if writer:
                write_results([row for cell in cells if (row := cell.row())], args.output)
        parts = distributed.gather({cell.name: cell.row() for cell in mine})
    except KeyboardInterrupt:
        if writer:
            print(f"stopped, see {args.output}; the same command goes on", file=sys.stderr)
        return 130
    by_name = {name: row for part in parts for name, row in part.items()}
    rows = [by_name[cell.name] for cell in cells]
    failed = sum(row["error"] is not None for row in rows)
    if writer:
        write_results(rows, args.output)
        print(f"\n{table(rows)}\n\ntable and chart are in {args.output}")
    if writer and failed:
        print(
            f"{failed} of {len(cells)} cells failed; the same command tries them again, or delete "
            f"{args.output}/<detector>/<category>, where their logs are, to start one anew",
            file=sys.stderr,
        )
    return 1 if failed else 0


if __name__ == "__main__":
    run_script(main)
