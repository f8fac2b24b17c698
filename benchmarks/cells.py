"""The cells of a benchmark: one detector on one category, trained and evaluated as processes.

<folder>/settings.yaml    the settings it was begun with
<folder>/checkpoints/     the run
<folder>/fit.json         what training took, once it is finished
<folder>/eval/            what eval.py wrote
<folder>/row.json         the row of the table, or the error
<folder>/*.log            what the scripts printed
"""

import json
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from benchmarks.scripts import Finished, read_metrics, script, training_seconds
from utils.config import Config, config_from, differences, write_config
from utils.errors import UserError
from utils.files import write_whole
from utils.yaml_files import read_yaml

METRICS = [
    "image_auroc",
    "image_auroc_low",
    "image_auroc_high",
    "pixel_auroc",
    "pixel_ap",
    "aupro_0.3",
    "ms_per_image",
]
"""What the row takes from the metrics of eval.py."""

Row = dict[str, Any]
"""Model, category, error (or None), and numbers by name; those that are undefined are None."""


@dataclass(frozen=True)
class Cell:
    """One detector on one category.

    Attributes:
        config: its settings, with absolute paths.
        folder: where all its files are.
    """

    config: Config
    folder: Path

    @property
    def name(self) -> str:
        """How it is called in what is printed."""
        return f"{self.config.model} on {self.config.data.category}"

    @property
    def run(self) -> Path | None:
        """Its run, if training has come as far as a checkpoint."""
        files = sorted(self.folder.glob("checkpoints/*/last.pt"))
        return files[-1].parent if files else None

    def check(self) -> None:
        """Raise `UserError` if the cell was begun with other settings."""
        file = self.folder / "settings.yaml"
        if not file.exists():
            return
        begun = config_from(read_yaml(file), source=str(file))
        for key, (old, new) in differences(begun, self.config).items():
            raise UserError(
                f"{self.name} was begun with {key} {old!r}, not {new!r}; take another --output, "
                f"or delete {self.folder} to start this cell anew"
            )

    def row(self) -> Row | None:
        """Its row as far as it was computed before: finished, failed, or None for neither."""
        file = self.folder / "row.json"
        return json.loads(file.read_text()) if file.exists() else None

    def compute(self, environment: dict[str, str], stop: Event) -> Row:
        """Train and evaluate, from where an earlier attempt was broken off, and keep the row.

        A script that fails makes a row with an error.

        Args:
            environment: that of the scripts.
            stop: an event that stops them when set.

        Raises:
            Stopped: if they were stopped.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        write_config(self.config, self.folder / "settings.yaml")
        row: Row = {"model": self.config.model, "category": self.config.data.category}
        try:
            row |= self._fit(environment, stop) | self._evaluate(environment, stop)
            row["error"] = None
        except UserError as error:
            row["error"] = str(error)
        write_whole(self.folder / "row.json", json.dumps(row, indent=2))
        return row

    def _script(
        self, name: str, *flags: object, environment: dict[str, str], stop: Event
    ) -> Finished:
        """Run a script in the cell's folder; what it prints goes to a log of its name there."""
        log = self.folder / f"{name}.log"
        return script(
            f"{name}.py", *flags, cwd=self.folder, log=log, environment=environment, stop=stop
        )

    def _fit(self, environment: dict[str, str], stop: Event) -> Row:
        """Train unless that is done; seconds and peak memory.

        Seconds of a resumed run are those of its finished epochs and of the process that ended it,
        whose peak memory it is.
        """
        file = self.folder / "fit.json"
        if not file.exists():
            flags = ["--resume", self.run] if self.run else ["--config", "settings.yaml"]
            earlier = training_seconds(self.run) if self.run else 0.0
            done = self._script("train", *flags, environment=environment, stop=stop)
            fit = {"fit_seconds": earlier + done.seconds, "fit_peak_mib": done.peak_mib}
            write_whole(file, json.dumps(fit))
        return json.loads(file.read_text())

    def _evaluate(self, environment: dict[str, str], stop: Event) -> Row:
        """Evaluate: metrics, peak memory and size of the checkpoint."""
        flags = ["--checkpoint", self.run, "--output", "eval", "--device", self.config.device]
        done = self._script("eval", *flags, environment=environment, stop=stop)
        metrics = read_metrics(self.folder / "eval")
        return {name: metrics[name] for name in METRICS} | {
            "eval_peak_mib": done.peak_mib,
            "checkpoint_mib": (self.run / "last.pt").stat().st_size / 2**20,
        }
