import os
import signal
import subprocess
import sys

import pytest
from conftest import REPO

SCRIPTS = ["train", "infer", "eval", "stream", "export", "app", "benchmark", "calibrate"]


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_while_a_script_still_imports_is_quiet(tmp_path, script):
    (tmp_path / "numpy.py").write_text("print('here', flush=True)\nimport time\ntime.sleep(60)\n")
    process = subprocess.Popen(
        [sys.executable, str(REPO / f"{script}.py")],
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err in ("", "interrupted\n")
