import os
import signal
import subprocess
import sys

import pytest
from conftest import REPO

SLOW = "print('here', flush=True)\nimport time\ntime.sleep(60)\n"
SCRIPTS = {
    "train.py": [],
    "infer.py": ["--checkpoint", "last.pt"],
    "eval.py": ["--checkpoint", "last.pt"],
    "stream.py": ["--watch", ".", "--checkpoint", "last.pt"],
    "export.py": ["--checkpoint", "last.pt"],
    "calibrate.py": ["last.pt"],
}


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize(("script", "flags"), SCRIPTS.items())
def test_ctrl_c_while_a_script_still_imports_is_quiet(tmp_path, script, flags):
    for name in ("torch.py", "gradio.py"):
        (tmp_path / name).write_text(SLOW)
    (tmp_path / "last.pt").touch()
    process = subprocess.Popen(
        [sys.executable, str(REPO / script), *flags],
        env=os.environ | {"PYTHONPATH": str(tmp_path)}, cwd=tmp_path,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err in ("", "interrupted\n")
