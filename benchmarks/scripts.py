"""Running train.py and eval.py as processes of their own, for benchmarks."""

import ctypes
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from utils.errors import UserError

REPO = Path(__file__).resolve().parent.parent
PATIENCE = 10  # seconds for a script to save and stop, before it is killed
PR_SET_PDEATHSIG = 1


def die_with_parent() -> None:
    """Have Linux kill this process as soon as the one that started it is gone.

    Otherwise it would live on and write into folders that the next start of the same command uses.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def script(name: str, *flags: object, cwd: Path, environment: dict[str, str] | None = None) -> None:
    """Run the script <name>.py in a folder; what it prints is added to <name>.log there.

    Raises:
        UserError: if it fails, with the last line that it printed.
        KeyboardInterrupt: on Ctrl-C, once the script has saved and stopped.
    """
    command = [sys.executable, str(REPO / f"{name}.py"), *map(str, flags)]
    log = cwd / f"{name}.log"
    with (
        log.open("a") as stream,
        subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # a Ctrl-C reaches the caller alone, which then stops it
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
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
        lines = log.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "it printed nothing")
        raise UserError(last.removeprefix("error: "))
