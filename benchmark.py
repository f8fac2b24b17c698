"""Compare detectors on categories: train and evaluate each on each, and write one table.

    python benchmark.py                                          all detectors, all categories
    python benchmark.py --models patchcore padim --categories tile wood --size 256
    python benchmark.py --config configs/cpu.yaml configs/fastflow.yaml     recipes of detectors
    python benchmark.py --for unet train.epochs=20 --for unet unet.width=16
    torchrun --nproc-per-node 2 benchmark.py                     two at a time, each on its GPU

Writes results.csv, results.md and chart.png to outputs/benchmark/, and all else of a cell of the
table to <detector>/<category>/ in there. The same command again goes on where it was stopped and
tries again what failed. Times are comparable only where nothing else runs.
"""

if __name__ == "__main__":  # before what takes long to import: Ctrl-C is quiet from here on
    from utils.interrupt import quiet_start

    quiet_start()

import argparse
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.experiment import Experiment
from data.mvtec import Category, list_categories
from models import DETECTORS, check_model, reads, refuse_unread
from utils.config import category_names, changed, differences, load_config, with_absolute_paths
from utils.errors import UserError, answer_early, run_script
from utils.flags import add_setting_flags, assignment, overrides_from, script_parser
from utils.yaml_files import read_yaml

ELSEWHERE = {"model": "--models", "data.category": "--categories"}
"""Settings that have flags of their own here."""

RESULTS = ["results.csv", "results.md", "chart.png"]


def parse_args() -> argparse.Namespace:
    """Flags of the command line, and the cells that they ask for; raises `UserError`."""
    parser = script_parser(__doc__)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="detectors, by default all")
    several = {"nargs": "+", "type": category_names, "metavar": "NAME"}
    parser.add_argument("--categories", **several, help="by default all there are")
    files = {"nargs": "+", "type": Path, "default": [], "metavar": "FILE"}
    parser.add_argument(
        "--config", **files, help="YAML files over config.yaml; one that names a model is for that"
    )
    flags = ["--data-root", "--size", "--epochs", "--batch", "--lr", "--seed", "--device", "--set"]
    add_setting_flags(parser, flags)
    pairs = {"nargs": 2, "action": "append", "default": [], "metavar": ("MODEL", "KEY=VALUE")}
    parser.add_argument(
        "--for", dest="own", **pairs, help="a setting for one detector only, over the others"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path("outputs/benchmark"))
    args = parser.parse_args()
    args.cells = chosen_cells(args)
    there = [name for name in RESULTS if (args.output / name).exists()]
    if there and not any(args.output.glob("*/*/settings.yaml")):
        raise UserError(
            f"{args.output / there[0]} is none of benchmark.py, and nothing is overwritten; name "
            "another folder by --output"
        )
    return args


def chosen_cells(args: argparse.Namespace) -> list[Experiment]:
    """The cells that the flags ask for, in the order of the table.

    Raises:
        UserError: for a detector, a category or a setting that there is not, or a cell that was
            begun with other settings.
    """
    models = list(dict.fromkeys(args.models or DETECTORS))
    for model in models:
        check_model(model)
    own: dict[str, dict[str, Any]] = defaultdict(dict)
    for model, text in args.own:
        key, value = assignment(text, f"--for {model}")
        refuse_unread(model, [key])
        own[model][key] = value
    given = overrides_from(args)
    for key, flag in ELSEWHERE.items():
        if any(key in settings for settings in (given, *own.values())):
            raise UserError(f"{key} is not set this way here; use {flag}")
    recipes: dict[str | None, dict[str, Any]] = defaultdict(dict)
    for file in args.config:
        recipes[read_yaml(file).get("model")] |= changes(file)
    common = recipes[None] | changes(None, given)
    for key in common:
        if not any(reads(model, key) for model in models):
            refuse_unread(models[0], [key])
    cells = []
    for model in models:
        settings = {key: value for key, value in common.items() if reads(model, key)}
        settings |= {key: value for key, value in recipes[model].items() if key not in given}
        config = with_absolute_paths(load_config(None, settings | own[model] | {"model": model}))
        there = list_categories(config.data.root) or [config.data.category]
        for category in dict.fromkeys(args.categories or there):
            config = changed(config, {"data.category": category})
            Category.chosen(config.data)
            cells.append(Experiment(config, args.output.resolve() / model / category))
            cells[-1].check()
    return cells


def changes(file: Path | None, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
    """What a file and flags set that is not so in config.yaml, by dotted key; not the detector."""
    found = differences(load_config(), load_config(file, overrides))
    return {key: new for key, (_, new) in found.items() if key != "model"}


if __name__ == "__main__":
    answer_early(parse_args)  # --help and wrong flags, before the slow imports

import signal
import sys
from datetime import timedelta

import torch
from tqdm import tqdm

from benchmarks.table import table, write_results
from training import distributed

LONGEST = timedelta(days=30)  # that a process waits for the others at the end


def main() -> int:
    """Compute the cells that are missing; returns the exit status."""
    args = parse_args()
    cells, environment = args.cells, distributed.child_environment()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # torchrun stops its processes so
    distributed.start(torch.device("cpu"), LONGEST)
    writer = distributed.is_writer()
    mine = cells[distributed.rank() :: distributed.world_size()]
    try:
        for cell in tqdm(mine, unit="cell", disable=not writer or None):
            row = cell.compute(environment)
            said = [row["error"] or "finished", row.get("notice")]
            tqdm.write(f"{cell.name}: {'; '.join(filter(None, said))}")
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
