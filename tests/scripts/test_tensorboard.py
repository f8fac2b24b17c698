import sys
from unittest import mock

import pytest
from conftest import TINY, assert_one_line, run_script

LOG = ["--set", "train.log=tensorboard"]


def test_curves_go_on_when_resumed_and_panels_follow(tmp_path, dataset):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = ["--data-root", dataset, *TINY, *LOG, "--epochs", 1]
    assert run_script("train.py", *flags, cwd=tmp_path).returncode == 0
    (run,) = (tmp_path / "checkpoints").iterdir()
    result = run_script("train.py", "--resume", run, "--epochs", 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    for name in ("loss", "lr", "seconds"):
        assert [event.step for event in events.Scalars(name)] == [1, 2]
    history = (run / "history.csv").read_text().splitlines()[1:]
    losses = [float(line.split(",")[0]) for line in history]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)
    panels = events.Tags()["images"]
    assert panels
    assert all(events.Images(name)[-1].width > 1000 for name in panels)


def test_what_cannot_be_logged_is_said_before_anything_is_learned(tmp_path, dataset):
    flags = ["--data-root", dataset, *TINY, *LOG]
    with mock.patch.dict(sys.modules, {"torch.utils.tensorboard": None}):
        result = run_script("train.py", *flags, cwd=tmp_path)
    assert_one_line(result, "pip install tensorboard")
    flags = ["--data-root", dataset, "--model", "patchcore", *LOG]
    assert_one_line(run_script("train.py", *flags, cwd=tmp_path), "train.log", "patchcore", "unet")
    assert not (tmp_path / "checkpoints").exists()
