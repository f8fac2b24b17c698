import contextlib
import importlib
import io
import signal
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest

from data.sample.__main__ import write_sample
from utils import errors

REPO = Path(__file__).resolve().parent.parent
# Tests send Ctrl-C to scripts, which would ignore it where the tests run in a shell's background.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):  # ignored under nohup
    signal.signal(signal.SIGHUP, signal.SIG_DFL)

TINY = ["--size", "64", "--batch", "4", "--set", "unet.width=4"]


def run_script(name, *arguments, cwd):
    """Run one of the scripts as a user does, but in this process: imports take most of the time.

    Nothing is checked. Gives what subprocess.run would; what is no `UserError` is raised.
    """
    streams = [io.TextIOWrapper(io.BytesIO(), encoding="utf-8") for _ in range(2)]
    command = [str(REPO / name), *map(str, arguments)]
    script = importlib.import_module(Path(name).stem)
    with (
        contextlib.chdir(cwd),
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
        mock.patch.object(sys, "argv", command),
        pytest.raises(SystemExit) as end,
    ):
        errors.run_script(script.main)
    texts = []
    for stream in streams:
        stream.seek(0)
        texts.append(stream.read())
    return subprocess.CompletedProcess(command, end.value.code, *texts)


def assert_one_line(result, *words, status=2):
    """The script ended in a single line on stderr that holds all the words."""
    assert result.returncode == status, result.stderr
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """A root folder that holds the sample category."""
    root = tmp_path_factory.mktemp("dataset")
    write_sample(root, "tile", size=80, train=11, good=3, defects=2, quiet=True)
    return root


@pytest.fixture(scope="session")
def trained(tmp_path_factory, dataset):
    """A working folder with one finished run of two epochs; gives (folder, run, output)."""
    folder = tmp_path_factory.mktemp("work")
    result = run_script(
        "train.py", "--data-root", dataset, *TINY, "--epochs", 2, "--lr", "1e-2", cwd=folder
    )
    assert result.returncode == 0, result.stderr
    (run,) = (folder / "checkpoints").iterdir()
    return folder, run, result.stdout
