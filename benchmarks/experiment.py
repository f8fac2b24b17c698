"""A cell of the benchmark, a detector on a category, and the table and chart of all cells."""

import csv
import ctypes
import io
import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, BinaryIO

import numpy as np

from data.listing import list_images
from data.mvtec import Category
from training.folders import FINISHED
from utils.config import Config, changed, differences, load_config, write_config
from utils.errors import UserError
from utils.files import CSV_ENCODING, replacing, write_whole

REPO = Path(__file__).resolve().parent.parent
STOP_SECONDS = 10  # for a script to save and stop, before it is killed
PR_SET_PDEATHSIG = 1  # of <sys/prctl.h>

# Model, category, error or None, notice or None, and once finished numbers by name, None where
# undefined.
Row = dict[str, Any]


def with_absolute_paths(config: Config) -> Config:
    """Return the same settings for a process that starts in another folder."""
    paths = {
        "data.root": config.data.root,
        "data.region": config.data.region,
        "data.defects": config.data.defects,
        "loss.vgg16": config.loss.vgg16,
        "backbone.weights": config.backbone.weights,
    }
    return changed(config, {key: str(Path(path).resolve()) for key, path in paths.items() if path})


@dataclass(frozen=True)
class Experiment:
    """One detector on one category: its settings, with absolute paths, and its folder."""

    config: Config
    folder: Path

    @property
    def name(self) -> str:
        """Name in what is printed."""
        return f"{self.config.model} on {self.config.data.category}"

    @property
    def run(self) -> Path | None:
        """Folder of the run, None before training has written a checkpoint."""
        files = sorted(self.folder.glob("checkpoints/*/last.pt"))
        return files[-1].parent if files else None

    def check(self) -> None:
        """Raise `UserError` if it was begun with other settings."""
        file = self.folder / "settings.yaml"
        begun = load_config(file) if file.exists() else self.config
        for key, (old, new) in differences(begun, self.config).items():
            raise UserError(
                f"{self.name} was begun with {key} {old!r}, not {new!r}; take another --output, "
                f"or delete {self.folder} to start this cell over"
            )

    def row(self) -> Row | None:
        """Return the row that an earlier start wrote, None if there is none that can be read."""
        try:
            row = json.loads((self.folder / "row.json").read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return row if isinstance(row, dict) and {"model", "category", "error"} <= set(row) else None

    def lacks_test_images(self) -> bool:
        """Return whether one of the categories has none, so that defects are drawn instead."""
        chosen = Category.chosen(self.config.data)
        return not all(list_images(category.folder / "test") for category in chosen)

    def compute(self, environment: dict[str, str] | None = None) -> Row:
        """Train and evaluate, from where an earlier start stopped or failed; return the row.

        Args:
            environment: of train.py and eval.py. Where one of them fails the row has an error;
                where eval.py left images out, a notice. Without test images eval.py draws defects
                on good ones, and the row has `drawn_defects`.
        """
        row, drawn = self.row(), self.lacks_test_images()
        # An old row stands, unless it is of drawn defects and test images have come since.
        if row is not None and row["error"] is None and row.get("drawn_defects", False) == drawn:
            return row
        self.folder.mkdir(parents=True, exist_ok=True)
        write_config(self.config, self.folder / "settings.yaml")
        error = notice = None
        if self.run is None or not (self.run / FINISHED).exists():
            flags = ["--resume", self.run] if self.run else ["--config", "settings.yaml"]
            error = script("train", *flags, cwd=self.folder, env=environment)
        if error is None:
            metrics = self.folder / "eval/metrics.json"
            metrics.unlink(missing_ok=True)  # of an earlier start
            flags = ["--checkpoint", self.run, "--output", "eval", "--device", self.config.device]
            flags += ["--synthetic"] if drawn else []
            notice = script("eval", *flags, cwd=self.folder, env=environment)
            # eval.py fails also if it left damaged images out, but then it has measured the others.
            error = None if metrics.exists() else notice or "eval.py wrote no metrics"
        row = {"model": self.config.model, "category": self.config.data.category, "error": error}
        if error is None:
            row |= json.loads(metrics.read_text("utf-8"))
            row |= {"notice": notice, "drawn_defects": drawn}
            fit = json.loads((self.run / "fit.json").read_text("utf-8"))
            row |= {"fit_seconds": fit["seconds"], "fit_peak_mib": fit["peak_mib"]}
            row["eval_peak_mib"] = row.pop("peak_mib")
            row["checkpoint_mib"] = (self.run / "last.pt").stat().st_size / 2**20
        write_whole(self.folder / "row.json", json.dumps(row, indent=2))
        return row


def script(name: str, *flags: object, cwd: Path, env: dict[str, str] | None = None) -> str | None:
    """Run the script <name>.py in a folder, and add what it prints to <name>.log there.

    Returns:
        None, or if it fails the last line that it printed.

    Raises:
        KeyboardInterrupt: on Ctrl-C, once the script has saved and stopped.
    """
    log = cwd / f"{name}.log"
    command = [sys.executable, str(REPO / f"{name}.py"), *map(str, flags)]
    # In a session of its own a Ctrl-C does not reach it: the caller stops it.
    options = {"cwd": cwd, "env": env, "stderr": subprocess.STDOUT, "start_new_session": True}
    if sys.platform == "linux":
        options["preexec_fn"] = _die_with_parent
    with log.open("a") as stream, subprocess.Popen(command, stdout=stream, **options) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
            raise
        finally:
            process.kill()  # does nothing to one that has ended
    if status < 0:
        return f"{name}.py was killed by {signal.Signals(-status).name}"
    lines = [line for line in log.read_text(errors="replace").split("\n") if line.strip()]
    last = lines[-1].removeprefix("error: ") if lines else "it printed nothing"
    return last if status else None


def _die_with_parent() -> None:
    """Have Linux kill this process as soon as the one that started it has ended."""
    # Otherwise it would write on into folders that the next start of the same command uses.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


# Columns of the table: name in a row -> (heading, format).
COLUMNS = {
    "image_auroc": ("image AUROC (95% interval)", ".3f"),
    "pixel_auroc": ("pixel AUROC", ".3f"),
    "pixel_ap": ("pixel AP", ".3f"),
    "aupro_0.3": ("AUPRO 0.3", ".3f"),
    "f1": ("F1 at threshold", ".3f"),
    "fit_seconds": ("fit s", ".1f"),
    "ms_per_image": ("ms an image", ".1f"),
    "fit_peak_mib": ("peak MiB, fit", ".0f"),
    "eval_peak_mib": ("peak MiB, eval", ".0f"),
    "checkpoint_mib": ("checkpoint MiB", ".1f"),
}

INTERVAL = ["image_auroc_low", "image_auroc_high"]


def write_results(rows: list[Row], folder: Path, choice: str = "") -> None:
    """Write results.csv, results.md and chart.png, each whole, of the rows there are so far.

    Args:
        rows: of the table.
        folder: of the files.
        choice: a sentence below the table.
    """
    text = io.StringIO()
    names = ["model", "category", "image_auroc", *INTERVAL, *list(COLUMNS)[1:]]
    names += ["false_alarms", "drawn_defects", "error", "notice"]
    writer = csv.DictWriter(text, names, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(folder / "results.csv") as file:
        file.write(text.getvalue().encode(CSV_ENCODING))
    below = f"\n\n{choice}" if choice else ""
    write_whole(folder / "results.md", f"{table(rows)}{below}\n")
    with replacing(folder / "chart.png") as file:
        save_chart(rows, file)


def table(rows: list[Row]) -> str:
    """Return the rows in Markdown, and below those of each detector their mean."""
    lines: list[list[str]] = []
    for model in dict.fromkeys(row["model"] for row in rows):
        mine = [row for row in rows if row["model"] == model]
        lines += map(_entries, mine + [mean_row(mine)] * (len(mine) > 1))
    return markdown(["detector", "category", *(heading for heading, _ in COLUMNS.values())], lines)


def markdown(headings: list[str], lines: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    rows = [headings, ["---"] * len(headings), *lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def mean_row(rows: list[Row]) -> Row:
    """Return the mean over the categories of one detector, as papers print it.

    Failed cells are left out, and its name says how many. A number that one of the others lacks is
    None.
    """
    done = [row for row in rows if row["error"] is None]
    label = "mean" if len(done) == len(rows) else f"mean of {len(done)} of {len(rows)}"
    row: Row = {"model": rows[0]["model"], "category": f"**{label}**", "error": None}
    for name in COLUMNS:
        values = [one.get(name) for one in done]
        row[name] = fmean(values) if values and None not in values else None
    return row


def _entries(row: Row) -> list[str]:
    """Return a row as text, an entry for each column."""
    if row["error"] is not None:
        numbers = ["failed: " + row["error"].replace("|", "\\|"), *[""] * (len(COLUMNS) - 1)]
    else:
        columns = ((row.get(name), form) for name, (_, form) in COLUMNS.items())
        numbers = ["" if value is None else format(value, form) for value, form in columns]
        low, high = map(row.get, INTERVAL)
        if low is not None:
            numbers[0] += f" ({low:.3f} to {high:.3f})"
    on_drawn = " (drawn defects)" if row.get("drawn_defects") else ""
    return [row["model"], row["category"] + on_drawn, *numbers]


def save_chart(rows: list[Row], file: BinaryIO) -> None:
    """Write a PNG with bars of image AUROC for each category, a colour for each detector."""
    from matplotlib.figure import Figure  # late: flags are answered before it is there

    rows = [row for row in rows if row.get("image_auroc") is not None]
    models = list(dict.fromkeys(row["model"] for row in rows))
    categories = sorted({row["category"] for row in rows})
    width = 0.8 / max(1, len(models))  # of the distance between two categories; the rest is a gap
    figure = Figure(figsize=(3 + 0.4 * len(categories) * len(models), 4), layout="constrained")
    axes = figure.add_subplot()
    for number, model in enumerate(models):
        mine = [row for row in rows if row["model"] == model]
        first = (number - (len(models) - 1) / 2) * width
        positions = [categories.index(row["category"]) + first for row in mine]
        values = np.array([row["image_auroc"] for row in mine])
        # A mean over the categories of one model has no interval.
        ends = [[row.get(name, row["image_auroc"]) for row in mine] for name in INTERVAL]
        errors = np.maximum([values - ends[0], ends[1] - values], 0)
        axes.bar(positions, values, width, yerr=errors, label=model, ecolor="0.2", capsize=2)
    axes.axhline(0.5, color="0.5", linewidth=1, linestyle="--")  # chance
    axes.set(ylabel="image AUROC, 95% interval", ylim=(0, 1.02))
    axes.set_xticks(range(len(categories)), categories, rotation=30, ha="right")
    if models:
        figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(file, format="png")
