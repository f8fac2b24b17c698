"""train.py --add: further good images for a finished run."""

import shutil

import pytest
import torch
from conftest import assert_one_line, run_script

from data.sample.__main__ import write_sample
from inspection import calibration
from training import loop
from training.checkpoint import load_checkpoint

PADIM = ["--model", "padim", "--size", "64", "--set", "padim.channels=8"]


@pytest.fixture(scope="module")
def more(tmp_path_factory):
    """A folder of five other good images, and one that is damaged."""
    root = tmp_path_factory.mktemp("more")
    write_sample(root, "tile", size=80, train=5, good=1, defects=1, seed=7, quiet=True)
    (root / "tile/train/good/damaged.png").write_bytes(b"no image")
    return root / "tile/train/good"


@pytest.fixture
def fitted(dataset, tmp_path):
    """A working folder with a data set of its own and a finished fit; gives (folder, run)."""
    shutil.copytree(dataset / "tile", tmp_path / "data/mvtec/tile")
    result = run_script("train.py", *PADIM, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "checkpoints").iterdir()
    return tmp_path, run


def contents(run):
    return {path.name: path.read_bytes() for path in run.iterdir()}


def test_a_fit_takes_them_in_and_is_calibrated_on_all(fitted, more):
    folder, run = fitted
    known = folder / "data/mvtec/tile/train/good"
    shutil.copy(known / "000.png", folder / "copy.png")
    result = run_script("train.py", "--add", more, "copy.png", known / "001.png", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "left out: 2 of 8 images" in result.stderr
    assert "damaged.png" in result.stderr
    assert "good images: 11 known, 5 added" in result.stdout
    checkpoint = load_checkpoint(run / "last.pt")
    assert checkpoint.good.names[11:] == [str(more / f"{number:03}.png") for number in range(5)]
    assert len(checkpoint.calibrations["tile"]["scores"]) == int(checkpoint.model["count"]) == 16
    result = run_script("calibrate.py", run, "--set", "score.reduce=max", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "from 16 good images" in result.stdout
    result = run_script("train.py", "--add", more / "000.png", cwd=folder)
    assert result.returncode == 2
    assert "nothing is added: the run has these images" in result.stderr


def test_what_an_addition_replaces_or_ignores_is_said(fitted, more):
    folder, run = fitted
    assert_one_line(
        run_script("train.py", "--add", more, "--epochs", 3, cwd=folder),
        "train.epochs is not used by padim",
    )
    run_script("calibrate.py", run, "--threshold", "123.5", cwd=folder)
    result = run_script("train.py", "--add", more, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "threshold of tile 123.5, set by hand, is dropped" in result.stderr
    assert not load_checkpoint(run / "last.pt").calibrations["tile"]["by_hand"]


def test_known_images_that_are_gone_are_named(fitted, more):
    folder, run = fitted
    before = contents(run)
    (folder / "data/mvtec/tile/train/good/003.png").unlink()
    result = run_script("train.py", "--add", more, "--resume", run, cwd=folder)
    assert_one_line(result, "003.png is gone")
    assert contents(run) == before


def test_an_interrupted_addition_leaves_a_fit_as_it_was(fitted, more, monkeypatch):
    folder, run = fitted
    before = contents(run)

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(calibration, "calibrate_detector", interrupted)
    assert run_script("train.py", "--add", more, cwd=folder).returncode == 130
    monkeypatch.undo()
    monkeypatch.setattr(loop.StepBar, "stopped", lambda *arguments: True)
    result = run_script("train.py", "--add", more, cwd=folder)
    assert result.returncode == 130
    assert f"stopped; {run.relative_to(folder)} is as it was" in result.stdout
    assert contents(run) == before


def test_a_network_goes_on_with_all_images(trained, more, tmp_path, monkeypatch):
    runs = [tmp_path / name / "checkpoints" / trained[1].name for name in ("broken", "unbroken")]
    monkeypatch.setattr(loop.StepBar, "stopped", lambda *arguments: True)
    for run in runs:
        shutil.copytree(trained[1], run)
        where = {"cwd": run.parent.parent}
        result = run_script("train.py", "--add", more, **where)
        if run is runs[0]:  # stopped after a step
            assert result.returncode == 130
            assert "not finished" in run_script("eval.py", **where).stderr
            monkeypatch.undo()
            result = run_script("train.py", "--resume", **where)
        assert result.returncode == 0, result.stderr
    broken, unbroken = (load_checkpoint(run / "last.pt") for run in runs)
    assert len(broken.good.names) == len(broken.calibrations["tile"]["scores"]) == 16
    assert broken.progress.epoch == broken.config.train.epochs == 3  # a quarter more, rounded up
    for key, value in unbroken.model.items():
        assert torch.equal(value, broken.model[key]), key


def test_what_cannot_be_added_is_one_line(trained, dataset, tmp_path):
    folder, run, _ = trained
    result = run_script("train.py", "--add", tmp_path, "--resume", run, cwd=folder)
    assert_one_line(result, "finds no images", str(tmp_path))
    result = run_script("train.py", "--add", dataset / "tile/test/good", cwd=folder)
    assert_one_line(result, "tile/test", "test split")
    (tmp_path / "run.onnx").touch()
    result = run_script("train.py", "--add", ".", "--resume", tmp_path / "run.onnx", cwd=folder)
    assert_one_line(result, "export")
    shutil.copytree(run, tmp_path / "open")
    checkpoint = torch.load(tmp_path / "open/last.pt")
    torch.save(checkpoint | {"calibrations": {}}, tmp_path / "open/last.pt")
    result = run_script("train.py", "--add", ".", "--resume", tmp_path / "open", cwd=folder)
    assert_one_line(result, "is not finished", "--resume")
