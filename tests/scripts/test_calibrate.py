import json
import shutil

import pytest
import yaml
from conftest import assert_one_line, run_script
from PIL import Image

from data.input_profile import MEASURES
from inspection.open_run import open_inspector
from training.checkpoint import load_checkpoint


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the finished run, in a working folder of its own."""
    run = tmp_path / "checkpoints/run"
    shutil.copytree(trained[1], run)
    return run


def calibration_of(file):
    inspector = open_inspector(file / "last.pt" if file.is_dir() else file, "cpu")
    return inspector.calibrations["tile"]


def test_a_threshold_by_hand_is_kept_and_so_is_the_former_one(run, tmp_path):
    before = calibration_of(run)
    result = run_script("calibrate.py", run, "--threshold", "123.5", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "before: threshold of tile" in result.stdout
    assert "after:  threshold of tile 123.5, set by hand" in result.stdout
    assert calibration_of(run).threshold == 123.5
    former = yaml.safe_load((run / "former-calibration.yaml").read_text())
    assert former["tile"]["threshold"] == before.threshold
    result = run_script("calibrate.py", run, cwd=tmp_path)  # without a flag it only tells
    assert "after" not in result.stdout
    assert len(list(run.glob("former-calibration*"))) == 1


@pytest.mark.parametrize("threshold", [123.5, 1e60])  # the latter leaves a share of exactly 0
def test_a_threshold_by_hand_stays_whatever_does_not_replace_it(run, dataset, threshold, tmp_path):
    run_script("calibrate.py", run, "--threshold", threshold, cwd=tmp_path)
    good, defects = dataset / "tile/test/good", dataset / "tile/test/oil"
    for flags in (("--good", good), ("--defects", defects), ("--set", "score.least_area=5")):
        result = run_script("calibrate.py", run, *flags, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
        assert calibration_of(run).threshold == threshold
        assert calibration_of(run).by_hand


def test_fewer_false_alarms_and_further_good_images(run, dataset, tmp_path):
    before = calibration_of(run)
    good = dataset / "tile/test/good"
    result = run_script(
        "calibrate.py", run, "--good", good, "--false-alarms", "0.005", cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr
    after = calibration_of(run)
    assert after.scores[: len(before.scores)] == before.scores
    assert len(after.scores) - len(before.scores) == len(list(good.iterdir())) == 3
    assert after.independent == before.independent + 3
    assert after.false_alarms == 0.005
    assert after.profile == before.profile and after.profile.keys() == MEASURES.keys()
    result = run_script("calibrate.py", run, "--false-alarms", "auto", cwd=tmp_path)
    assert result.returncode == 0 and calibration_of(run).auto, result.stderr


def test_good_images_count_once(run, dataset, tmp_path):
    before = calibration_of(run)
    known = dataset / "tile/train/good"
    result = run_script("calibrate.py", run, "--good", known, cwd=tmp_path)
    assert_one_line(result, "all 11 good images count already")
    assert calibration_of(run) == before
    # A copy in another format, beside images that are new, one of them twice.
    copies = tmp_path / "copies"
    shutil.copytree(dataset / "tile/test/good", copies)
    shutil.copy(copies / "000.png", copies / "again.png")
    Image.open(known / "000.png").save(copies / "learned.bmp")
    result = run_script("calibrate.py", run, "--good", copies, cwd=tmp_path)
    assert_one_line(result, "left out: 2 of 5 good images", status=0)
    after = calibration_of(run)
    assert len(after.scores) == len(after.digests) == len(before.scores) + 3
    result = run_script("calibrate.py", run, "--good", dataset / "tile/test/good", cwd=tmp_path)
    assert_one_line(result, "all 3 good images count already")
    assert calibration_of(run) == after


def test_known_defects_are_found_by_the_threshold_that_is_accepted(run, dataset, tmp_path):
    known = dataset / "tile/test/oil"
    result = run_script("calibrate.py", run, "--defects", known, cwd=tmp_path)
    assert "2% false alarms: threshold" in result.stdout
    assert "after" not in result.stdout
    result = run_script("calibrate.py", run, "--defects", known, "--accept", cwd=tmp_path)
    assert "after:" in result.stdout, result.stderr
    out = tmp_path / "out"
    run_script("infer.py", "--checkpoint", run, "--output", out, known, cwd=tmp_path)
    lines = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [line["verdict"] for line in lines] == ["defect"] * 2


def test_an_export_is_calibrated_as_its_run_is(run, dataset, tmp_path):
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    result = run_script("export.py", "--checkpoint", run, "--data-root", dataset, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (export,) = run.glob("*.onnx")
    before = calibration_of(export)
    for file in (run, export):
        result = run_script("calibrate.py", file, "--false-alarms", "0.1", cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    after = calibration_of(export)
    assert after == calibration_of(run)
    assert after.threshold < before.threshold
    result = run_script("calibrate.py", export, "--set", "score.reduce=max", cwd=tmp_path)
    assert_one_line(result, "export", "fixed")
    good = dataset / "tile/test/good"
    assert run_script("calibrate.py", export, "--good", good, cwd=tmp_path).returncode == 0
    more = calibration_of(export)
    assert len(more.scores) == len(more.digests) == len(after.scores) + 3
    for known in (good, dataset / "tile/train/good"):
        result = run_script("calibrate.py", export, "--good", known, cwd=tmp_path)
        assert_one_line(result, "good images count already")
    assert calibration_of(export) == more


def test_scores_can_be_made_in_another_way(run, dataset, tmp_path):
    before = calibration_of(run)
    flags = ["--data-root", dataset, "--set", "score.reduce=max"]
    result = run_script("calibrate.py", run, *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    after = calibration_of(run)
    assert after.scores == pytest.approx(before.peaks, rel=1e-4)
    shutil.copytree(dataset / "tile", tmp_path / "tile")
    swapped = tmp_path / "tile/train/good"
    (swapped / "000.png").rename(swapped / "zz.png")  # as many files as before
    flags = ["--data-root", tmp_path, "--set", "score.reduce=top1"]
    assert_one_line(run_script("calibrate.py", run, *flags, cwd=tmp_path), "000.png is gone")


def test_a_threshold_of_scores_made_in_another_way_is_said_to_go(run, dataset, tmp_path):
    run_script("calibrate.py", run, "--threshold", "123.5", cwd=tmp_path)
    flags = ["--data-root", dataset, "--set", "score.reduce=max"]
    result = run_script("calibrate.py", run, *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "threshold of tile 123.5, set by hand, is dropped" in result.stderr
    assert not calibration_of(run).by_hand


def test_larger_images_and_millimetres_without_training(run, tmp_path):
    before = calibration_of(run)
    flags = ["--set", "data.max_megapixels=400", "--set", "data.mm_per_pixel=0.05"]
    assert run_script("calibrate.py", run, *flags, cwd=tmp_path).returncode == 0
    data = load_checkpoint(run / "last.pt").config.data
    assert (data.max_megapixels, data.mm_per_pixel) == (400, 0.05)
    assert calibration_of(run) == before


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--accept"], "--defects"),
        (["--threshold", "1", "--false-alarms", "0.1"], "name one of"),
        (["--false-alarms", "2"], "--false-alarms"),
        (["--false-alarms", "1e-320"], "from 1e-06 to below 0.5"),
        (["--false-alarms", "nan"], "--false-alarms"),
        (["--false-alarms", "automatic"], "should be auto, or a share"),
        (["--set", "unet.width=3"], "unet.width is learned"),
        (["--good", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_is_one_line(run, tmp_path, flags, word):
    assert_one_line(run_script("calibrate.py", run, *flags, cwd=tmp_path), word)
