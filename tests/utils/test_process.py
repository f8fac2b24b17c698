import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.process import allowed_cores, set_up

REPO = Path(__file__).parents[2]


@pytest.fixture
def untouched(monkeypatch):
    """No setting of a user; what `set_up` adds goes with the test."""
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("200000 100000", 2), ("150000 100000", 2), ("800000 100000", None), ("max 100000", None)],
)
def test_a_container_allows_the_cores_of_its_quota(tmp_path, monkeypatch, quota, cores):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    (tmp_path / "cpu.max").write_text(quota)
    assert allowed_cores(tmp_path / "cpu.max") == cores
    assert allowed_cores(tmp_path / "absent") is None


def test_threads_wait_hardly_spinning_and_no_more_than_there_are_cores(untouched, monkeypatch):
    monkeypatch.setattr("utils.process.allowed_cores", lambda: 3)
    set_up()
    assert int(os.environ["GOMP_SPINCOUNT"]) < 10_000
    assert os.environ["OMP_NUM_THREADS"] == "3"


def test_what_the_user_has_set_stays(untouched, monkeypatch):
    monkeypatch.setattr("utils.process.allowed_cores", lambda: 3)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    set_up()
    assert "GOMP_SPINCOUNT" not in os.environ
    assert os.environ["OMP_NUM_THREADS"] == "1"


def test_the_process_is_set_up_before_torch_is_imported():
    scripts = "train, infer, eval, calibrate, export, stream, app, benchmark, pretrain"
    code = f"import sys, {scripts}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=REPO).returncode == 0
