"""Running train.py and eval.py as processes, for benchmarks."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import Any

from utils.errors import UserError

REPO = Path(__file__).resolve().parent.parent
LAUNCHER = Path(__file__).with_name("launch.py")
PATIENCE = 10  # seconds for a script to save and stop, before it is killed


class Stopped(Exception):
    """A script was stopped because its caller asked for it."""


@dataclass(frozen=True)
class Finished:
    """A script that ended well.

    Attributes:
        printed: its standard output, "" if that went to a log.
        seconds: how long it ran.
        peak_mib: its peak memory in MiB; None on Windows, which does not tell.
    """

    printed: str
    seconds: float
    peak_mib: float | None


def as_flags(settings: dict[str, Any]) -> list[str]:
    """Settings by dotted key as arguments of train.py."""
    return [
        part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")
    ]


def script(
    name: str,
    *arguments: object,
    cwd: Path,
    log: Path | None = None,
    environment: dict[str, str] | None = None,
    stop: Event | None = None,
) -> Finished:
    """Run one of the scripts in a folder and wait for it.

    Args:
        name: the script, such as "train.py".
        arguments: its arguments.
        cwd: folder to run it in.
        log: file that all it prints is added to; without one, errors go where the caller's go.
        environment: its environment, by default the caller's.
        stop: an event that stops it when set.

    Raises:
        UserError: if it fails, with the last line of its log.
        Stopped: if it was stopped by the event.
    """
    command = [sys.executable, str(REPO / name), *map(str, arguments)]
    started = time.perf_counter()
    if log is None:
        status, peak, printed = _run(command, cwd, environment, stop, subprocess.PIPE, None)
        reason = f"{' '.join(command)} failed with status {status}"
    else:
        with log.open("a+b") as stream:
            begin = stream.tell()
            status, peak, printed = _run(command, cwd, environment, stop, stream, stream)
            stream.seek(begin)
            lines = stream.read().decode(errors="replace").split("\n")
        last = next((line.strip() for line in reversed(lines) if line.strip()), "")
        reason = last.removeprefix("error: ") or f"{name} failed with status {status}"
        if status < 0:
            reason = f"{name} was killed by {signal.Signals(-status).name}"
    if status and stop is not None and stop.is_set():
        raise Stopped
    if status:
        raise UserError(reason)
    return Finished(printed, time.perf_counter() - started, peak)


def _run(
    command: list[str],
    cwd: Path,
    environment: dict[str, str] | None,
    stop: Event | None,
    stdout: Any,
    stderr: Any,
) -> tuple[int, float | None, str]:
    """Exit status (negative: a signal), peak memory in MiB and standard output of a command."""
    posix = os.name == "posix"
    ours, theirs = os.pipe()
    if posix:
        launcher = [sys.executable, "-IS", str(LAUNCHER), str(theirs), str(os.getpid())]
        command = [*launcher, *command]
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env=environment,
        stdout=stdout,
        stderr=stderr,
        text=True,
        pass_fds=[theirs] if posix else (),
        start_new_session=posix,  # a Ctrl-C reaches the caller alone, which then stops the script
    )
    os.close(theirs)
    with open(ours) as report, process:  # noqa: PTH123, it is a descriptor
        try:
            printed = _wait(process, stop)
        except BaseException:
            _end(process)
            raise
        status, _, peak = report.read().partition(" ")
    if not peak:
        return process.returncode, None, printed
    return int(status), int(peak) / 2**20, printed


def _wait(process: subprocess.Popen, stop: Event | None) -> str:
    """Wait until the process ends, by itself or because of the event; gives what it printed."""
    while True:
        try:
            return process.communicate(timeout=0.2)[0] or ""
        except subprocess.TimeoutExpired:
            if stop is not None and stop.is_set():
                return _end(process)


def _end(process: subprocess.Popen) -> str:
    """Stop a process and what it started, by force if it takes long; gives what it printed."""
    for number in (signal.SIGTERM, signal.SIGKILL) if os.name == "posix" else (signal.SIGTERM,):
        with suppress(ProcessLookupError):
            if os.name == "posix":
                os.killpg(process.pid, number)
            else:
                process.terminate()
        with suppress(subprocess.TimeoutExpired):
            return process.communicate(timeout=PATIENCE)[0] or ""
    return ""


def training_seconds(run: Path) -> float:
    """Seconds that the finished epochs of a run took."""
    with (run / "history.csv").open() as stream:
        return sum(float(row["seconds"]) for row in csv.DictReader(stream) if row.get("seconds"))


def read_metrics(output: Path) -> dict[str, Any]:
    """The metrics that eval.py wrote to its output folder; undefined ones are None."""
    return json.loads((output / "metrics.json").read_text())
