"""Compare detectors on categories: train and evaluate each on each, and write one table.

    python benchmark.py                                          all detectors, all categories
    python benchmark.py --models patchcore padim --categories tile wood --size 256
    python benchmark.py --config configs/cpu.yaml configs/fastflow.yaml     recipes of detectors
    python benchmark.py --for unet train.epochs=20 --for unet unet.width=16
    torchrun --nproc-per-node 2 benchmark.py                     two at a time, each on its GPU

Writes results.csv, results.md and chart.png to outputs/benchmark/, and all else of a cell of the
table to <detector>/<category>/ in there. Ends with the detector to take, by benchmarks/choice.py. A
category without test images is measured on drawn defects. The same command again goes on where it
was stopped and tries again what failed. Times are comparable only where nothing else runs.
"""

import argparse
import os
import sys
from collections import defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmarks.experiment import Experiment, with_absolute_paths
from data.mvtec import Category, list_categories
from models import DETECTORS, check_model, reads, refuse_unread
from utils.config import category_names, changed, differences, load_config
from utils.errors import UserError, run_script
from utils.files import read_yaml
from utils.flags import add_setting_flags, assignment, file_or_folder, overrides_from, script_parser

MAX_WAIT = timedelta(days=30)  # of a process of torchrun for the others, which train meanwhile
OTHER_FLAGS = {"model": "--models", "data.category": "--categories"}


def parse_args() -> argparse.Namespace:
    """Return the flags of the command line."""
    parser = script_parser(__doc__)
    add = parser.add_argument
    add("--models", nargs="+", metavar="NAME", help="detectors, by default all")
    add("--categories", nargs="+", type=category_names, metavar="NAME", help="default: all")
    text = "YAML files over config.yaml; one that names a model is for that"
    add("--config", nargs="+", type=file_or_folder, default=[], metavar="FILE", help=text)
    flags = ["--data-root", "--size", "--epochs", "--batch", "--lr", "--seed", "--device", "--set"]
    add_setting_flags(parser, flags)
    several = {"nargs": 2, "action": "append", "default": [], "metavar": ("MODEL", "KEY=VALUE")}
    add("--for", dest="own", **several, help="a setting for one detector only, over the others")
    add("--output", type=file_or_folder, metavar="DIR", default=Path("outputs/benchmark"))
    return parser.parse_args()


def chosen_cells(args: argparse.Namespace) -> list[Experiment]:
    """Return the cells that the flags ask for, in the order of the table.

    Raises:
        UserError: for a detector, a category or a setting that does not exist, for a cell that was
            begun with other settings, or if the output holds files of another program.
    """
    models = list(dict.fromkeys(args.models or DETECTORS))
    for model in models:
        check_model(model)
    # From the weakest to the strongest: recipes for all, recipes of a detector, flags, --for.
    recipes: dict[str | None, dict[str, Any]] = defaultdict(dict)
    for file in args.config:
        recipes[read_yaml(file).get("model")] |= changes(file)
    for model, settings in recipes.items():
        if model is not None:
            refuse_unread(model, settings)
    given = overrides_from(args)
    own: dict[str, dict[str, Any]] = defaultdict(dict)
    for model, text in args.own:
        key, value = assignment(text, f"--for {model}")
        refuse_unread(model, [key])
        own[model][key] = value
    for key, flag in OTHER_FLAGS.items():
        if any(key in settings for settings in (given, *own.values())):
            raise UserError(f"{key} is not set this way here; use {flag}")
    # A setting for all may be unknown to some of the detectors, but not to every one of them.
    for key in recipes[None] | changes(None, given):
        if not any(reads(model, key) for model in models):
            refuse_unread(models[0], [key])
    cells = []
    for model in models:
        settings = recipes[None] | recipes[model] | given
        settings = {key: value for key, value in settings.items() if reads(model, key)}
        config = with_absolute_paths(load_config(None, settings | own[model] | {"model": model}))
        there = list_categories(config.data.root) or [config.data.category]
        for category in dict.fromkeys(args.categories or there):
            config = changed(config, {"data.category": category})
            Category.chosen(config.data)
            cells.append(Experiment(config, args.output.resolve() / model / category))
            cells[-1].check()
    for file in map(args.output.joinpath, ("results.csv", "results.md", "chart.png")):
        if file.exists() and not any(args.output.glob("*/*/settings.yaml")):
            ways = "nothing is overwritten; name another folder by --output"
            raise UserError(f"{file} is none of benchmark.py, and {ways}")
    return cells


def changes(*sources: Any) -> dict[str, Any]:
    """Return what the sources of `load_config` change, by dotted key, but for the detector."""
    found = differences(load_config(), load_config(*sources))
    return {key: new for key, (_, new) in found.items() if key != "model"}


def compute(cells: list[Experiment], output: Path) -> int:
    """Compute the cells that are missing and write the results; return the exit status."""
    # Slow to import: --help and wrong flags are answered before.
    import torch
    from tqdm import tqdm

    from benchmarks.choice import sentence
    from benchmarks.experiment import table, write_results
    from training import distributed

    distributed.start(torch.device("cpu"), MAX_WAIT)
    writer = distributed.is_writer()
    mine = cells[distributed.rank() :: distributed.world_size()]
    try:
        for cell in tqdm(mine, unit="cell", disable=not writer or None):
            row = cell.compute(distributed.child_environment())
            said = [row["error"] or "finished", row.get("notice")]
            tqdm.write(f"{cell.name}: {'; '.join(filter(None, said))}")
            if writer:
                write_results([row for cell in cells if (row := cell.row())], output)
        # Sent, not read from files: another machine may have a disk of its own.
        by_process = distributed.gather({cell.name: cell.row() for cell in mine})
    except KeyboardInterrupt:
        if writer:
            print(f"stopped, see {output}; the same command goes on", file=sys.stderr)
        return 130
    by_name = {name: row for rows in by_process for name, row in rows.items()}
    rows = [by_name[cell.name] for cell in cells]
    failed = sum(row["error"] is not None for row in rows)
    if writer:
        choice = sentence(rows, output)
        write_results(rows, output, choice)
        print(f"\n{table(rows)}\n\ntable and chart are in {output}")
    if writer and failed:
        print(
            f"{failed} of {len(cells)} cells failed; the same command tries them again, or delete "
            f"{output}/<detector>/<category>, where their logs are, to start one over",
            file=sys.stderr,
        )
    if writer and choice:
        print(choice)
    return 1 if failed else 0


def main() -> int:
    """Fill the table, unless another benchmark does; return the exit status."""
    args = parse_args()
    cells = chosen_cells(args)
    if os.environ.get("RANK", "0") != "0":  # torchrun's first process holds the lock for all
        return compute(cells, args.output)
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        # The system frees it however the process ends, so that a killed benchmark can go on.
        with FileLock(args.output / "benchmark.lock", timeout=0):
            return compute(cells, args.output)
    except Timeout:
        raise UserError(
            f"another benchmark is writing to {args.output}; wait for it, or name another folder "
            "by --output"
        ) from None


if __name__ == "__main__":
    run_script(main)
