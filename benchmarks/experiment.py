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
from utils.config import Config, changed, config_from, differences, write_config
from utils.errors import UserError
from utils.files import read_yaml, write_whole

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
        begun = config_from(read_yaml(file), source=str(file)) if file.exists() else self.config
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

    def compute(self, environment: dict[str, str] | None = None) -> Row:
        """Train and evaluate, from where an earlier start stopped or failed; return the row.

        Args:
            environment: of train.py and eval.py. Where one of them fails the row has an error;
                where eval.py left images out, a notice.
        """
        row = self.row()
        if row is not None and row["error"] is None:
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
            notice = script("eval", *flags, cwd=self.folder, env=environment)
            # eval.py fails also if it left damaged images out, but then it has measured the others.
            error = None if metrics.exists() else notice or "eval.py wrote no metrics"
        row = {"model": self.config.model, "category": self.config.data.category, "error": error}
        if error is None:
            row |= json.loads(metrics.read_text("utf-8")) | {"notice": notice}
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
