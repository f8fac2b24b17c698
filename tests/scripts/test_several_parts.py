"""One model for several categories, from training to its verdicts."""

import json
import shutil

import pytest
from conftest import TINY, assert_one_line, run_script

from data.sample.__main__ import write_sample
from inspection.open_run import open_inspector
from training.checkpoint import load_checkpoint

CATEGORIES = ["bolt", "tile"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """A root folder with two categories that look nothing alike."""
    root = tmp_path_factory.mktemp("parts")
    write_sample(root, "tile", size=80, train=12, good=2, defects=1, quiet=True)
    write_sample(root, "bolt", size=80, train=14, good=2, defects=1, quiet=True, kind="part")
    return root


@pytest.fixture(scope="module", params=["patchcore", "unet"])
def several(request, root, tmp_path_factory):
    """A working folder with a run that has learned from both; gives (folder, run, output)."""
    folder = tmp_path_factory.mktemp(request.param)
    flags = ["--size", "64"] if request.param == "patchcore" else [*TINY, "--epochs", 1]
    flags += ["--model", request.param, "--data-root", root, "--category", "all"]
    result = run_script("train.py", *flags, cwd=folder)
    assert result.returncode == 0, result.stderr
    (run,) = (folder / "checkpoints").iterdir()
    return folder, run, result.stdout


@pytest.fixture
def copy(several, tmp_path):
    """A copy of the run that may be changed."""
    shutil.copytree(several[1], tmp_path / "checkpoints/run")
    return tmp_path / "checkpoints/run"


def results(folder):
    return [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]


def test_each_category_has_a_verdict_from_its_own_good_images(several):
    _, run, output = several
    checkpoint = load_checkpoint(run / "last.pt")
    good, calibrations = checkpoint.good, checkpoint.calibrations
    assert run.name.startswith("all-") and "on bolt, tile: " in output
    assert [len(calibrations[category]["scores"]) for category in CATEGORIES] == [14, 12]
    assert [output.count(f"threshold of {category} ") for category in CATEGORIES] == [1, 1]
    assert calibrations["bolt"]["threshold"] != calibrations["tile"]["threshold"]
    for own in good.by_category().values():
        assert len({good.folds[place] for place in own}) >= 10
        assert any(good.held_out) == any(good.held_out[place] for place in own)


@pytest.mark.parametrize("flags", [[], ["--synthetic"]])
def test_eval_prints_each_category_and_their_mean(several, flags):
    folder, run, _ = several
    result = run_script("eval.py", "--category", "all", *flags, cwd=folder)
    assert result.returncode == 0, result.stderr
    output = folder / "outputs" / run.name / ("synthetic" if flags else "eval")
    aurocs = [
        json.loads((output / category / "metrics.json").read_text())["image_auroc"]
        for category in CATEGORIES
    ]
    mean = json.loads((output / "metrics.json").read_text())["image_auroc"]
    assert mean == pytest.approx(sum(aurocs) / 2)
    last = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert [float(last[name].split()[1]) for name in (*CATEGORIES, "MEAN")] == pytest.approx(
        [*aurocs, mean], abs=1e-4
    )
    if not flags:  # of one category, in the same folder
        result = run_script("eval.py", "--category", CATEGORIES[0], cwd=folder)
        assert result.returncode == 0, result.stderr
        assert json.loads((output / "metrics.json").read_text())["image_auroc"] == aurocs[0]
        assert not any(path.is_dir() for path in output.iterdir())


def test_an_image_is_of_the_category_that_its_folder_or_a_flag_names(several, root, tmp_path):
    folder, run, _ = several
    images = [root / category / "test/good/000.png" for category in CATEGORIES]
    flags = ["--checkpoint", run, "--save", "none", "--output"]
    assert run_script("infer.py", *flags, tmp_path / "a", *images, cwd=folder).returncode == 0
    calibrations = load_checkpoint(run / "last.pt").calibrations
    for line, category in zip(results(tmp_path / "a"), CATEGORIES, strict=True):
        assert (line["category"], line["threshold"]) == (
            category,
            calibrations[category]["threshold"],
        )
    stray = shutil.copy(images[0], tmp_path / "stray.png")
    told = run_script("infer.py", *flags, tmp_path / "b", "--category", "tile", stray, cwd=folder)
    assert told.returncode == 0, told.stderr
    assert results(tmp_path / "b")[0]["threshold"] == calibrations["tile"]["threshold"]
    untold = run_script("infer.py", *flags, tmp_path / "c", images[0], stray, cwd=folder)
    assert_one_line(untold, "stray.png", "bolt, tile", "--category")
    wrong = run_script("infer.py", *flags, tmp_path / "d", "--category", "tiles", stray, cwd=folder)
    assert_one_line(wrong, "bolt, tile", "did you mean tile?")


def test_calibrate_changes_the_category_that_is_named_alone(copy, root, tmp_path):
    def calibrations():
        return open_inspector(copy / "last.pt", "cpu").calibrations

    before = calibrations()
    flags = ["--category", "tile", "--threshold", "7"]
    result = run_script("calibrate.py", copy, *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert calibrations()["tile"].threshold == 7
    assert calibrations()["bolt"] == before["bolt"]
    good = [root / category / "test/good" for category in CATEGORIES]
    result = run_script("calibrate.py", copy, "--good", *good, cwd=tmp_path)  # each to its own
    assert result.returncode == 0, result.stderr
    assert [len(calibrations()[category].scores) for category in CATEGORIES] == [16, 14]


def test_an_export_knows_the_categories_too(copy, root, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    result = run_script("export.py", "--checkpoint", copy, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (export,) = copy.glob("*.onnx")
    stray = shutil.copy(root / "tile/test/oil/000.png", tmp_path / "stray.png")
    flags = ["--category", "tile", "--save", "none", stray, "--checkpoint"]
    for name, file in {"run": copy, "export": export}.items():
        result = run_script("infer.py", *flags, file, "--output", name, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    (ours,), (theirs,) = results(tmp_path / "run"), results(tmp_path / "export")
    assert ours["score"] == pytest.approx(theirs["score"], rel=1e-4)
    assert (ours["category"], ours["threshold"]) == (theirs["category"], theirs["threshold"])
    run_script("calibrate.py", export, "--category", "tile", "--threshold", "7", cwd=tmp_path)
    after = open_inspector(export, "cpu").calibrations
    assert after["tile"].threshold == 7
    assert after["bolt"] == open_inspector(copy / "last.pt", "cpu").calibrations["bolt"]
    monkeypatch.setattr(
        "inspection.onnx_export.write_onnx", lambda _, file: shutil.copy(export, file)
    )
    result = run_script("export.py", "--checkpoint", copy, "--half", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert [result.stdout.count(f"{category}: image AUROC") for category in CATEGORIES] == [1, 1]


def test_streams_are_told_their_category_by_the_folder_or_a_flag(copy, root, tmp_path):
    for name in ("bolt", "line"):
        shutil.copytree(root / "bolt/test/good", tmp_path / name)
    flags = ["--checkpoint", copy, "--frames", 4, "--output", "out", "--watch", tmp_path / "bolt"]
    untold = run_script("stream.py", *flags, "--watch", tmp_path / "line", cwd=tmp_path)
    assert_one_line(untold, "line lies in no folder", "bolt, tile", "--category")
    flags += ["--watch", tmp_path / "line", "--category", "bolt", "--category", "tile"]
    result = run_script("stream.py", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (log,) = (tmp_path / "out").glob("*.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert sorted(line["category"] for line in lines) == ["bolt", "bolt", "tile", "tile"]


def test_names_are_checked_one_by_one(root, tmp_path):
    flags = ["--data-root", root, "--category"]
    result = run_script("train.py", *flags, "tile,bold", cwd=tmp_path)
    assert_one_line(result, "no category bold", "did you mean bolt?")
    assert_one_line(run_script("train.py", *flags, "tile,../bolt", cwd=tmp_path), "data.category")
    assert_one_line(run_script("eval.py", "--category", "bolt,tile", cwd=tmp_path), "bolt,tile")
