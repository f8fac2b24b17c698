import csv
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import REPO, TINY, assert_one_line, run_script
from PIL import Image
from sklearn.metrics import roc_auc_score


def read_csv(path):
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_train_writes_a_run(trained):
    _, run, output = trained
    names = {"last.pt", "config.yaml", "history.csv", "calibration.yaml", "fit.json"}
    assert {path.name for path in run.iterdir()} == names
    assert [row["epoch"] for row in read_csv(run / "history.csv")] == ["1", "2"]
    assert "threshold" in output
    assert run.name in output


def test_equal_runs_give_equal_weights(trained, dataset, tmp_path):
    _, run, _ = trained
    flags = ["--data-root", dataset, *TINY, "--epochs", 2, "--lr", "1e-2"]
    assert run_script("train.py", *flags, cwd=tmp_path).returncode == 0
    assert run_script("train.py", *flags, "--seed", 1, cwd=tmp_path).returncode == 0
    first, other_seed = sorted((tmp_path / "checkpoints").iterdir())
    models = [torch.load(folder / "last.pt")["model"] for folder in (run, first, other_seed)]
    assert all(torch.equal(models[0][key], models[1][key]) for key in models[0])
    assert not all(torch.equal(models[0][key], models[2][key]) for key in models[0])


def test_eval_measures_and_draws(trained):
    folder, run, _ = trained
    result = run_script("eval.py", cwd=folder)
    assert result.returncode == 0, result.stderr
    output = folder / "outputs" / run.name / "eval"
    for name in ("roc.png", "histogram.png", "highest_good.png", "lowest_defective.png"):
        assert Image.open(output / name).size[0] > 100
    metrics = json.loads((output / "metrics.json").read_text())
    rows = read_csv(output / "scores.csv")
    labels = [row["defect"] != "good" for row in rows]
    expected = roc_auc_score(labels, [float(row["score"]) for row in rows])
    assert metrics["image_auroc"] == pytest.approx(expected)
    assert (len(rows), sum(labels)) == (13, 10)
    assert 0 <= metrics["aupro_0.3"] <= 1
    (table,) = read_csv(output / "metrics.csv")
    assert float(table["pixel_auroc"]) == pytest.approx(metrics["pixel_auroc"])
    alarms = sum(row["verdict"] == "defect" for row in rows if row["defect"] == "good")
    assert metrics["good_called_defective"] == alarms
    assert f"({alarms} of 3 good parts; promised" in result.stdout
    first_metric = result.stdout.split("\n\n")[1]
    assert first_metric.startswith(f"IMAGE AUROC  {metrics['image_auroc']:.4f}")
    for row in rows:
        is_defect = float(row["score"]) > metrics["threshold"]
        assert row["verdict"] == ("defect" if is_defect else "good")


def test_infer_runs_on_the_test_folder_by_itself(trained, dataset):
    folder, run, _ = trained
    result = run_script("infer.py", cwd=folder)
    assert (result.returncode, result.stderr) == (0, "")  # they are like the good ones
    output = folder / "outputs" / run.name / "infer"
    results = read_lines(output / "results.jsonl")
    assert len(results) == 13
    assert len(result.stdout.splitlines()) == 14
    for entry, row in zip(results, read_csv(output / "results.csv"), strict=True):
        assert Image.open(folder / entry["panel"]).size[0] > 1000
        above = entry["score"] > entry["threshold"]
        assert entry["verdict"] == row["verdict"] == ("defect" if above else "good")
        assert float(row["score"]) == entry["score"]
        assert (float(row["severity"]) > 1) == above
        assert int(row["regions"]) == len(entry["regions"])
        assert bool(entry["regions"]) == above
        assert (row["x"], row["peak"]) == ("", "") or above
        for region in entry["regions"]:
            x, y, width, height = region["box"]
            assert x + width <= 80
            assert y + height <= 80
        if above:
            box = [int(row[name]) for name in ("x", "y", "width", "height")]
            assert box == entry["regions"][0]["box"]
    assert len({entry["panel"] for entry in results}) == 13


def test_infer_does_the_rest_when_a_file_is_damaged(trained, dataset, tmp_path):
    folder, run, _ = trained
    parts = tmp_path / "parts"
    shutil.copytree(dataset / "tile/test/oil", parts)
    (parts / "0_damaged.png").write_text("no image")
    grey = np.full((90, 40), 40000, np.uint16)
    Image.fromarray(grey).save(parts / "sixteen_bits.png")
    Image.fromarray((grey // 257).astype(np.uint8)).save(parts / "001.jpg")
    result = run_script("infer.py", "--checkpoint", run, "--output", tmp_path / "out",
                        parts, parts / "gone.png", cwd=folder)  # fmt: skip
    assert result.returncode == 1
    assert "0_damaged.png" in result.stderr
    assert "gone.png" in result.stderr
    assert "Traceback" not in result.stderr
    results = read_lines(tmp_path / "out/results.jsonl")
    assert len(results) == len({entry["panel"] for entry in results}) == 4
    assert_one_line(run_script("infer.py", tmp_path / "none*", cwd=folder), "none*")


def test_eval_reports_what_it_had_to_leave_out(trained, dataset, tmp_path):
    folder, run, _ = trained
    shutil.copytree(dataset / "tile", tmp_path / "tile")
    masks = tmp_path / "tile/ground_truth"
    (masks / "oil/000_mask.png").unlink()
    (masks / "oil/001_mask.png").unlink()
    (tmp_path / "tile/test/crack/001.png").write_text("damaged")
    Image.new("L", (7, 7), 255).save(masks / "rough/000_mask.png")
    Image.new("L", (80, 80), 0).save(masks / "rough/001_mask.png")
    result = run_script("eval.py", "--data-root", tmp_path, "--output", "part", cwd=folder)
    assert result.returncode == 1
    assert "IMAGE AUROC" in result.stdout
    said = result.stderr.replace("\\", "/")
    for name in ("2 of 10", "crack/001.png", "rough/000_mask.png", "rough/001_mask.png"):
        assert name in said
    assert len(said.strip().splitlines()) == 4
    metrics = json.loads((folder / "part/metrics.json").read_text())
    assert metrics["defective_images"] == 9
    assert 0 <= metrics["pixel_auroc"] <= 1


def test_eval_without_masks_measures_images(trained, dataset, tmp_path):
    folder, run, _ = trained
    shutil.copytree(dataset / "tile", tmp_path / "tile")
    shutil.rmtree(tmp_path / "tile/ground_truth")
    result = run_script("eval.py", "--data-root", tmp_path, "--output", "bare", cwd=folder)
    assert_one_line(result, "no pixel metrics", "10 defective images", status=0)
    metrics = json.loads((folder / "bare/metrics.json").read_text())
    assert 0 <= metrics["image_auroc"] <= 1
    assert metrics["pixel_auroc"] is None and metrics["aupro_0.3"] is None


def test_eval_of_a_single_class_leaves_nothing_of_the_last_one(trained, dataset, tmp_path):
    folder, run, _ = trained
    shutil.copytree(dataset / "tile", tmp_path / "tile")
    (tmp_path / "tile/test/good").rename(tmp_path / "good")
    (tmp_path / "tile/test/good").mkdir()
    flags = ["--data-root", tmp_path, "--output", "one"]
    result = run_script("eval.py", *flags, "--html", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert json.loads((folder / "one/metrics.json").read_text())["image_auroc"] is None
    shutil.rmtree(tmp_path / "tile/test")
    assert_one_line(run_script("eval.py", *flags, cwd=folder), "no images in", "test/good")
    assert (folder / "one/report.html").exists()  # of the last one that came to an end
    (tmp_path / "tile/test").mkdir()
    (tmp_path / "good").rename(tmp_path / "tile/test/good")
    result = run_script("eval.py", *flags, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "false alarms" in result.stdout and "nan" not in result.stdout
    assert json.loads((folder / "one/metrics.json").read_text())["good_images"] == 3
    assert {path.name for path in (folder / "one").iterdir()} == {
        "metrics.json", "metrics.csv", "scores.csv", "histogram.png", "highest_good.png",
        "eval_files.txt",
    }  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="closes streams")
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_closed_stream_stops_nothing(trained, dataset, tmp_path, closed):
    flags = f"--checkpoint '{trained[1]}' '{dataset}/tile/test/good' --output out"
    line = f"'{sys.executable}' '{REPO / 'infer.py'}' {flags} {closed}"
    result = subprocess.run(["bash", "-c", line], cwd=tmp_path, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")
    assert len(read_csv(tmp_path / "out/results.csv")) == 3
    assert len(result.stdout.splitlines()) == (4 if closed == "2>&-" else 0)


@pytest.mark.parametrize("script", ["infer.py", "app.py", "train.py"])
def test_another_file_is_no_checkpoint(script, tmp_path):
    (tmp_path / "passwd").write_text("root:x:0:0")
    flag = "--resume" if script == "train.py" else "--checkpoint"
    result = run_script(script, flag, tmp_path / "passwd", cwd=tmp_path)
    assert_one_line(result, "no checkpoint at", "passwd")


def test_what_a_user_can_mend_is_one_line(trained, dataset, tmp_path):
    folder, run, _ = trained
    assert_one_line(run_script("train.py", cwd=tmp_path), "mvtec.com", "python -m data.sample")
    assert_one_line(run_script("eval.py", cwd=tmp_path), "train.py")
    result = run_script("infer.py", "--checkpoint", run / "config.yaml", cwd=folder)
    assert_one_line(result, "config.yaml", "no checkpoint")
    result = run_script("train.py", "--data-root", dataset, "--model", "unett", cwd=tmp_path)
    assert_one_line(result, "did you mean unet?")
    assert not list(tmp_path.glob("checkpoints/*"))
    result = run_script("infer.py", "--output", run / "last.pt", cwd=folder)
    assert_one_line(result, "last.pt")
    for rate in ("1e9", "1e6"):  # of the latter the loss stays finite
        flags = ["--data-root", dataset, *TINY, "--epochs", 2, "--lr", rate]
        result = run_script("train.py", *flags, cwd=tmp_path)
        assert_one_line(result, "training diverged", "lower train.lr")


@pytest.mark.skipif(torch.cuda.is_available(), reason="has CUDA")
def test_absent_device_is_one_line(trained, dataset, tmp_path):
    folder, _, _ = trained
    result = run_script("train.py", "--data-root", dataset, "--device", "cuda", cwd=tmp_path)
    assert_one_line(result, "cuda is not available", "cpu")
    assert_one_line(run_script("eval.py", "--device", "cuda", cwd=folder), "cuda", "cpu")


def test_copies_are_learned_and_counted_once_and_said_in_the_test_split(dataset, tmp_path):
    category = tmp_path / "data/tile"
    shutil.copytree(dataset / "tile", category)
    for path in sorted((category / "train/good").iterdir())[:5]:
        with Image.open(path) as image:  # the same pixels in another file format
            image.save(path.with_suffix(".bmp"))
    shutil.copy(category / "train/good/003.png", category / "test/good/learned.png")
    flags = ["--data-root", category.parent, "--model", "padim", "--size", "64"]
    result = run_script("train.py", *flags, "--set", "padim.channels=8", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "left out: 5 of 16 images, copies of others" in result.stderr
    assert "padim on tile: 11 good images" in result.stdout
    assert "from 11 good images" in result.stdout
    result = run_script("eval.py", "--html", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "1 of 14 test images are copies" in result.stderr
    assert "learned.png" in result.stderr
    (page,) = tmp_path.glob("outputs/*/eval/report.html")
    assert "1 of 14 test images are copies" in page.read_text("utf-8")
