"""Compare detectors on categories: train and evaluate each on each, and write one table.

    python benchmark.py                                          all detectors, all categories
    python benchmark.py --models patchcore padim --categories tile wood --size 256
    python benchmark.py --for unet train.epochs=20 --for unet unet.width=16
    python benchmark.py --jobs 4                                 four cells at a time
    torchrun --nproc-per-node 2 benchmark.py                     processes, or GPUs, share the cells

Writes results.csv, results.md and chart.png to outputs/benchmark/, and all else of a cell to
<detector>/<category>/ in there. The same command again goes on where it was stopped and tries again
what failed. Times are comparable only where nothing else runs: leave --jobs at 1 for them.
"""

if __name__ == "__main__":  # before what takes long to import: Ctrl-C is quiet from here on
    from utils.interrupt import quiet_start

    quiet_start()

import argparse
from pathlib import Path
from typing import Any

from benchmarks.cells import Cell, Row
from data.mvtec import Category, list_categories
from models import DETECTORS, check_model, reads, refuse_unread
from utils.config import category_name, differences, load_config, with_absolute_paths
from utils.errors import UserError, answer_early, run_script
from utils.flags import FLAGS, add_setting_flags, assignment, overrides_from, script_parser

ELSEWHERE = {"model": "--models", "data.category": "--categories", "data.root": "--data-root"}
"""Settings that have flags of their own here."""


def parse_args() -> argparse.Namespace:
    """Flags of the command line, and the cells that they ask for; raises `UserError`."""
    parser = script_parser(__doc__)
    parser.add_argument("--models", nargs="+", metavar="NAME", help="detectors, by default all")
    parser.add_argument(
        "--categories",
        nargs="+",
        type=category_name,
        metavar="NAME",
        help="by default all there are",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file over config.yaml")
    add_setting_flags(
        parser, [*(flag for flag in FLAGS if flag not in ("--model", "--category")), "--set"]
    )
    parser.add_argument(
        "--for",
        nargs=2,
        action="append",
        default=[],
        metavar=("MODEL", "KEY=VALUE"),
        help="a setting for one detector only, over the others",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", default=Path("outputs/benchmark"))
    parser.add_argument("--jobs", type=int, metavar="N", default=1, help="cells at a time")
    args = parser.parse_args()
    if args.jobs < 1:
        raise UserError(f"--jobs is {args.jobs} but should be a whole number from 1")
    args.cells = chosen_cells(args)
    return args


def chosen_cells(args: argparse.Namespace) -> list[Cell]:
    """The cells that the flags ask for, in the order of the table.

    Raises:
        UserError: for a detector, a category or a setting that there is not, or a cell that was
            begun with other settings.
    """
    models = list(dict.fromkeys(args.models or DETECTORS))
    own: dict[str, dict[str, Any]] = {name: {} for name in models}
    for model in models:
        check_model(model)
    for model, text in getattr(args, "for"):
        check_model(model)
        if model in own:
            own[model] |= [assignment(f"--for {model}", text)]
            _refuse(own[model], list(ELSEWHERE))
            refuse_unread(model, own[model])
    common = common_settings(args, models)
    configs = {}
    for model in models:
        heeded = {key: value for key, value in common.items() if reads(model, key)}
        config = load_config(overrides=heeded | own[model] | {"model": model})
        configs[model] = with_absolute_paths(config)
    data = configs[models[0]].data
    categories = args.categories or list_categories(data.root) or [data.category]
    for category in categories:
        Category(data.root, category)
    cells = []
    for model in models:
        for category in dict.fromkeys(categories):
            config = configs[model]
            data = config.data.model_copy(update={"category": category})
            folder = args.output.resolve() / model / category
            cells.append(Cell(config.model_copy(update={"data": data}), folder))
    for cell in cells:
        cell.check()
    return cells


def common_settings(args: argparse.Namespace, models: list[str]) -> dict[str, Any]:
    """What the flags and the file set for all detectors, by dotted key.

    Raises:
        UserError: for a setting that none of them reads.
    """
    given = overrides_from(args)
    _refuse(given, ["model", "data.category"])
    changes = differences(load_config(), load_config(args.config, given))
    common = {key: new for key, (_, new) in changes.items() if key != "model"}
    for key in common:
        if not any(reads(model, key) for model in models):
            refuse_unread(models[0], [key])
    return common


def _refuse(settings: dict[str, Any], keys: list[str]) -> None:
    """Raise `UserError` if one of the keys is among the settings."""
    for key in keys:
        if key in settings:
            raise UserError(f"{key} is not set this way here; use {ELSEWHERE[key]}")


if __name__ == "__main__":
    answer_early(parse_args)  # --help and wrong flags, before the slow imports

import json
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Event

import torch.distributed as dist
from tqdm import tqdm

from benchmarks.results import table, write_results
from benchmarks.scripts import Stopped
from runs import distributed

POLL = 0.2  # seconds between two looks at what the workers have finished


def work(cells: list[Cell], store: dist.Store, environment: dict[str, str], stop: Event) -> None:
    """Compute the cells that no other worker has claimed, in any process; those begun here first.

    Returns early if `stop` is set. Rows go into the store.
    """
    for cell in sorted(cells, key=lambda cell: cell.run is None):
        if stop.is_set():
            return
        if store.add(f"claim {cell.name}", 1) == 1:
            with suppress(Stopped):
                row = cell.compute(environment, stop)
                store.set(f"row {cell.name}", json.dumps(row))


def wait_for_all(store: dist.Store, place: str, processes: int) -> None:
    """Wait until that many processes have come to a place."""
    store.add(place, 1)
    while store.add(place, 0) < processes:
        time.sleep(POLL)


def main() -> int:
    """Compute the cells that are missing; returns the exit status."""
    args = parse_args()
    cells = args.cells
    store, number, processes = distributed.meet()
    writer = number == 0
    args.output.mkdir(parents=True, exist_ok=True)

    # 1. What is finished; each process tells, since their machines may not share a file system.
    for cell in cells:
        row = cell.row()
        if row is not None and row["error"] is None:
            store.set(f"row {cell.name}", json.dumps(row))
    wait_for_all(store, "start", processes)
    missing = [cell for cell in cells if not store.check([f"row {cell.name}"])]

    # 2. The others. Workers wait for scripts, this thread collects their rows.
    rows: dict[str, Row] = {}
    environment, stop, interrupted = distributed.child_environment(args.jobs), Event(), False
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # torchrun stops its processes so
    bar = tqdm(total=len(cells), unit="cell", disable=not writer or None)
    with ThreadPoolExecutor(args.jobs) as pool, bar:
        try:
            task = (work, missing, store, environment, stop)
            workers = [pool.submit(*task) for _ in range(args.jobs)]
            while len(rows) < len(cells):
                new = [c for c in cells if c.name not in rows and store.check([f"row {c.name}"])]
                for cell in new:
                    rows[cell.name] = row = json.loads(store.get(f"row {cell.name}"))
                    bar.update()
                    if writer and cell in missing:
                        bar.write(f"{cell.name}: {outcome(row)}")
                if new and writer:
                    write_results(in_order(rows, cells), args.output)
                for worker in workers:
                    if worker.done():
                        worker.result()  # raises what it raised, such as a full disk
                time.sleep(POLL)
        except KeyboardInterrupt:
            interrupted = True
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)  # the scripts are being stopped
        finally:
            stop.set()

    # 3. The table.
    if interrupted:
        there = {cell.name: row for cell in cells if (row := cell.row()) is not None}
        rows = there | rows
        if writer:
            write_results(in_order(rows, cells), args.output)
            finished = sum(row["error"] is None for row in rows.values())
            print(
                f"stopped with {finished} of {len(cells)} cells finished, see {args.output}; "
                "the same command goes on",
                file=sys.stderr,
            )
        return 130
    failed = sum(row["error"] is not None for row in rows.values())
    if writer:
        print(f"\n{table(in_order(rows, cells))}\n\ntable and chart are in {args.output}")
    if failed and writer:
        print(
            f"{failed} of {len(cells)} cells failed; the same command tries them again, or delete "
            f"{args.output}/<detector>/<category>, where their logs are, to start one anew",
            file=sys.stderr,
        )
    wait_for_all(store, "end", processes)  # the store may live in the first process
    return 1 if failed else 0


def outcome(row: Row) -> str:
    """A few words on a row."""
    if row["error"] is not None:
        return f"failed: {row['error']}"
    auroc = "undefined" if row["image_auroc"] is None else f"{row['image_auroc']:.3f}"
    return f"image AUROC {auroc}, fit in {row['fit_seconds']:.0f} s"


def in_order(rows: dict[str, Row], cells: list[Cell]) -> list[Row]:
    """The rows that there are, in the order of the cells."""
    return [rows[cell.name] for cell in cells if cell.name in rows]


if __name__ == "__main__":
    run_script(main)
