import pytest
from conftest import TINY, assert_one_line, run_script

from training import run

LOG = ["--set", "train.log=tensorboard"]


def test_curves_go_on_when_resumed_and_panels_follow(tmp_path, dataset):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    flags = ["--data-root", dataset, *TINY, *LOG, "--epochs", 1]
    assert run_script("train.py", *flags, cwd=tmp_path).returncode == 0
    (folder,) = (tmp_path / "checkpoints").iterdir()
    result = run_script("train.py", "--resume", folder, "--epochs", 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    events = EventAccumulator(str(folder / "tensorboard")).Reload()
    for name in ("loss", "lr", "seconds"):
        assert [event.step for event in events.Scalars(name)] == [1, 2]
    history = (folder / "history.csv").read_text().splitlines()[1:]
    losses = [float(line.split(",")[0]) for line in history]
    assert [event.value for event in events.Scalars("loss")] == pytest.approx(losses)
    panels = events.Tags()["images"]
    assert panels
    assert all(events.Images(name)[-1].width > 1000 for name in panels)


def test_what_cannot_be_logged_is_said_before_anything_is_learned(tmp_path, dataset, monkeypatch):
    flags = ["--data-root", dataset, *TINY, *LOG]
    monkeypatch.setattr(run, "find_spec", lambda package: None)
    assert_one_line(run_script("train.py", *flags, cwd=tmp_path), "pip install tensorboard")
    flags = ["--data-root", dataset, "--model", "patchcore", *LOG]
    assert_one_line(run_script("train.py", *flags, cwd=tmp_path), "train.log", "patchcore", "unet")
    assert not (tmp_path / "checkpoints").exists()
