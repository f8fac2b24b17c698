"""Runs that learn from known defects, from train.py to eval.py."""

import shutil

import pytest
from conftest import TINY, assert_one_line, run_script

from training import loop
from training.checkpoint import load_checkpoint

PATCHCORE = ["--model", "patchcore", "--size", "128"]


@pytest.fixture
def known(dataset, tmp_path):
    """A folder with one of the two images of each of two kinds, and their masks."""
    for kind in ("crack", "oil"):
        for part, name in (("test", "000.png"), ("ground_truth", "000_mask.png")):
            target = tmp_path / "known" / part / kind
            target.mkdir(parents=True)
            shutil.copy(dataset / "tile" / part / kind / name, target)
    return tmp_path / "known"


def test_they_are_excluded_from_the_test_split_and_not_needed_afterwards(dataset, known, tmp_path):
    where = {"cwd": tmp_path}
    flags = ["--data-root", dataset, "--set", "data.defects=known"]
    result = run_script("train.py", *PATCHCORE, *flags, **where)
    assert result.returncode == 0, result.stderr
    assert "2 known defects, 128x128" in result.stdout
    (run,) = (tmp_path / "checkpoints").iterdir()
    before = load_checkpoint(run / "last.pt")
    assert len(before.known_defects) == 2
    assert sum(len(before.model[name]) for name in before.model if "defects" in name) > 0

    result = run_script("calibrate.py", run, "--defects", known, **where)
    assert "2 of the known defects were learned" in result.stderr
    known.rename(tmp_path / "away")
    result = run_script("eval.py", **where)
    assert result.returncode == 0, result.stderr
    assert "left out: 2 of 13 test images, learned as known defects" in result.stderr
    assert len((tmp_path / "outputs" / run.name / "eval/scores.csv").read_text().splitlines()) == 12
    assert run_script("train.py", "--resume", **where).returncode == 0  # finished
    more = tmp_path / "tile/more.png"
    more.parent.mkdir()
    shutil.copy(dataset / "tile/test/good/000.png", more)
    assert_one_line(
        run_script("train.py", "--add", more, **where), "data.defects is known, which is no folder"
    )


def test_a_network_stopped_halfway_needs_the_same_images(dataset, known, tmp_path, monkeypatch):
    where = {"cwd": tmp_path}
    flags = ["--data-root", dataset, "--set", "data.defects=known", "--epochs", 1]
    monkeypatch.setattr(loop.StepBar, "stopped", lambda *arguments: True)
    assert run_script("train.py", *TINY, *flags, **where).returncode == 130
    monkeypatch.undo()
    image = known / "test/oil/000.png"
    shutil.move(image, tmp_path / "000.png")
    result = run_script("train.py", "--resume", **where)
    assert_one_line(result, "data.defects holds other images than when the run began")
    shutil.move(tmp_path / "000.png", image)
    result = run_script("train.py", "--resume", **where)
    assert result.returncode == 0, result.stderr


def test_what_cannot_learn_from_them_says_so_and_leaves_no_run(dataset, known, tmp_path):
    where = {"cwd": tmp_path}
    flags = ["--data-root", dataset, "--set", "data.defects=known"]
    result = run_script("train.py", "--model", "padim", *flags, **where)
    users = "unet, draem, patchcore, patch_memory"
    assert_one_line(result, f"data.defects is not used by padim; it is used by: {users}")
    shutil.rmtree(known / "ground_truth")
    result = run_script("train.py", *TINY, *flags, **where)
    assert_one_line(result, "000.png of data.defects has no mask")
    result = run_script("train.py", *PATCHCORE, *flags[:2], "--set", "data.defects=gone", **where)
    assert_one_line(result, "data.defects is gone, which is no folder")
    assert not (tmp_path / "checkpoints").exists()
