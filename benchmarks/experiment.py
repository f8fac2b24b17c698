"""An experiment of a benchmark: one detector trained and evaluated on one category.

<folder>/settings.yaml    the settings it was begun with
<folder>/checkpoints/     the run
<folder>/eval/            what eval.py wrote
<folder>/row.json         its row of the table, or the error
<folder>/*.log            what the scripts printed
"""

import ctypes
import json
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.folders import FINISHED
from utils.config import Config, config_from, differences, write_config
from utils.errors import UserError
from utils.files import write_whole
from utils.yaml_files import read_yaml

REPO = Path(__file__).resolve().parent.parent
PATIENCE = 10  # seconds for a script to save and stop, before it is killed
PR_SET_PDEATHSIG = 1

Row = dict[str, Any]
"""Model, category, error (or None), and numbers by name; those that are undefined are None.

A finished one also has a notice (or None) of what eval.py left out.
"""


@dataclass(frozen=True)
class Experiment:
    """One detector on one category: its settings, with absolute paths, and where its files are."""

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
        """Raise `UserError` if it was begun with other settings."""
        file = self.folder / "settings.yaml"
        begun = config_from(read_yaml(file), source=str(file)) if file.exists() else self.config
        for key, (old, new) in differences(begun, self.config).items():
            raise UserError(
                f"{self.name} was begun with {key} {old!r}, not {new!r}; take another --output, "
                f"or delete {self.folder} to start this cell anew"
            )

    def row(self) -> Row | None:
        """Its row, if an earlier start came as far as that."""
        file = self.folder / "row.json"
        return json.loads(file.read_text()) if file.exists() else None

    def compute(self, environment: dict[str, str] | None = None) -> Row:
        """Its row: train and evaluate, from where an earlier start was broken off or failed.

        A script that fails makes a row with an error; what eval.py leaves out, a notice there.
        `environment` is that of the scripts.
        """
        row = self.row()
        if row is None or row["error"] is not None:
            row = {"model": self.config.model, "category": self.config.data.category}
            try:
                row |= self._measured(environment) | {"error": None}
            except UserError as error:
                row["error"] = str(error)
            write_whole(self.folder / "row.json", json.dumps(row, indent=2))
        return row

    def _measured(self, environment: dict[str, str] | None) -> Row:
        where = {"cwd": self.folder, "environment": environment}
        self.folder.mkdir(parents=True, exist_ok=True)
        write_config(self.config, self.folder / "settings.yaml")
        if self.run is None or not (self.run / FINISHED).exists():
            flags = ["--resume", self.run] if self.run else ["--config", "settings.yaml"]
            script("train", *flags, **where)
        flags = ["--checkpoint", self.run, "--output", "eval", "--device", self.config.device]
        file, notice = self.folder / "eval/metrics.json", None
        file.unlink(missing_ok=True)
        try:
            script("eval", *flags, **where)
        except UserError as error:  # also where it measured all but what it could not read
            if not file.exists():
                raise
            notice = str(error)
        fit = json.loads((self.run / "fit.json").read_text())
        metrics = json.loads(file.read_text())
        return metrics | {
            "notice": notice,
            "fit_seconds": fit["seconds"],
            "fit_peak_mib": fit["peak_mib"],
            "eval_peak_mib": metrics.pop("peak_mib"),
            "checkpoint_mib": (self.run / "last.pt").stat().st_size / 2**20,
        }


def script(name: str, *flags: object, cwd: Path, environment: dict[str, str] | None = None) -> None:
    """Run the script <name>.py in a folder; what it prints is added to <name>.log there.

    Raises:
        UserError: if it fails, with the last line that it printed.
        KeyboardInterrupt: on Ctrl-C, once the script has saved and stopped.
    """
    log = cwd / f"{name}.log"
    with (
        log.open("a") as stream,
        subprocess.Popen(
            [sys.executable, str(REPO / f"{name}.py"), *map(str, flags)],
            cwd=cwd,
            env=environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a Ctrl-C reaches the caller alone, which then stops it
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        ) as process,
    ):
        try:
            status = process.wait()
        except KeyboardInterrupt:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            raise
        finally:
            process.kill()
    if status < 0:
        raise UserError(f"{name}.py was killed by {signal.Signals(-status).name}")
    if status:
        lines = [line for line in log.read_text(errors="replace").split("\n") if line.strip()]
        raise UserError(lines[-1].removeprefix("error: ") if lines else "it printed nothing")


def _die_with_parent() -> None:
    """Have Linux kill this process as soon as the one that started it is gone.

    Otherwise it would live on and write into folders that the next start of the same command uses.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
