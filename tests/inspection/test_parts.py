"""One verdict for a part with several images, by each script."""

import argparse
import csv
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from brightness import SIZE, Brightness
from conftest import run_script
from PIL import Image

import infer
import stream
from data.good_images import GoodImages
from data.mvtec import TestImage
from data.parts import part_name
from demo.threshold import Result, verdicts
from evaluation.measure import Row, measure, part_rows
from evaluation.report import summary
from inspection.open_run import open_inspector
from inspection.threshold import calibrate
from models.drawn_defects.synthetic import PseudoImage
from streams import loop
from streams.cameras import Videos
from utils.config import load_config

PATTERN = r"part\d+"


class Views(Brightness):
    """`Brightness` of a run whose parts had two images, one of them three."""

    config = load_config(overrides={"data.size": SIZE, "calibration.group": PATTERN})
    views = calibrate([0.5] * 3, [0.5] * 3, level=0.0, false_alarms=0.02, views=[2, 2, 3])
    calibrations = {"part": views}


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIZE, SIZE, 3), value, np.uint8)).save(path)


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_part_is_told_by_folder_and_match():
    def name(path, pattern=PATTERN, category="tile"):
        return part_name(path, category, pattern)

    assert name("/d/tile/test/oil/left/part7_a.png") == "/d/tile/test/oil/part7"
    assert name("/d/tile/test/oil/right/part7_b.png") == "/d/tile/test/oil/part7"
    assert name("/d/tile/test/crack/part7_a.png") == "/d/tile/test/crack/part7"
    assert name("tile/train/Good/part7_a.png") == "tile/train/Good/part7"
    # Elsewhere the name of the file counts alone, and its own folder.
    assert name("/part1/left/part7_a.png") == "/part1/left/part7"
    assert name("/part1/7.png") == "/part1/7.png" and name("part7_a.png") == "part7"
    assert name("a/part7_x.png", r"part(\d+)_") == "a/7"
    assert name("/other/test/oil/left/part7.png") == "/other/test/oil/left/part7"
    assert name("a/part7_a.png", None) == "a/part7_a.png"


@pytest.mark.parametrize("start", ["tile", "tile/test", "tile/test/oil", "tile/test/oil/left"])
def test_views_in_subfolders_are_one_part_wherever_a_relative_path_starts(
    start, tmp_path, monkeypatch
):
    (tmp_path / "tile/test/oil/left").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / start)
    views = [tmp_path / f"tile/test/oil/{view}/part7.png" for view in ("left", "right")]
    names = {part_name(os.path.relpath(view), "tile", PATTERN) for view in views}
    assert len(names) == 1 and "left" not in names.pop()


def test_images_to_examine_with_are_of_whole_parts():
    names = [f"tile/{number}" for number in range(90)]
    good = GoodImages(names, [n // 3 for n in range(90)], [0] * 90, [False] * 90)
    assert good.examined.tolist() == [n for n in range(90) if n // 3 % 10 == 0]
    alone = GoodImages(names, list(range(90)), [0] * 90, [False] * 90)
    assert alone.examined.tolist() == list(range(0, 90, 10))


@pytest.fixture
def start(monkeypatch, tmp_path, capsys):
    """Runs a script in tmp_path with `Views`; gives its lines on stdout and stderr."""
    monkeypatch.chdir(tmp_path)
    for module in (infer, loop):
        monkeypatch.setattr(module, "open_run", lambda *_: (Path("fake.onnx"), Views()))

    def call(script, *arguments):
        monkeypatch.setattr(sys, "argv", ["", *map(str, arguments)])
        script.main()
        printed = capsys.readouterr()
        return printed.out.splitlines(), printed.err.splitlines()

    return call


def test_infer_gives_a_verdict_on_each_part(start, tmp_path):
    # One camera after the other: images of a part are not neighbours in the list.
    for name, value in {"a/part1": 10, "a/part2": 20, "b/part1": 200, "b/part2": 30}.items():
        save(tmp_path / f"part/test/good/{name}.png", value)
    (tmp_path / "part/test/good/b/part2.png").write_bytes(b"damaged")
    save(tmp_path / "part/test/good/spare.png", 40)
    out, err = start(infer, "part", "--output", "out", "--save", "none")
    kinds = [" part " in line for line in out[:-1]]
    assert kinds == [False, False, True, False, True, False, True]  # after the last of its images
    assert out[-1].startswith("3 parts, 1 defective; images: 1 defective, 3 good, 1 failed;")
    assert "part part/test/good/part2 has 1 of 2 views" in err
    first, *_ = parts = read_lines(tmp_path / "out/parts.jsonl")
    assert first["score"] == pytest.approx(200 / 255)
    assert first["views"] == first["usual_views"] == 2
    assert [part["verdict"] for part in parts] == ["defect", "good", "good"]
    with (tmp_path / "out/parts.csv").open(encoding="utf-8-sig", newline="") as file:
        assert [row["part"] for row in csv.DictReader(file)] == [part["part"] for part in parts]
    images = read_lines(tmp_path / "out/results.jsonl")
    assert [image["part"] for image in images[:2]] == ["part/test/good/part1"] * 2


def test_a_stream_gives_a_verdict_as_soon_as_a_part_ends(start, tmp_path, monkeypatch):
    posted = []

    class Posts:
        dropped = 0
        __enter__ = __exit__ = lambda self, *_: None

        def post(self, text):
            posted.append(json.loads(text))

    monkeypatch.setattr(loop, "Webhook", lambda _: Posts())
    values = {"part1_a": 10, "part1_b": 200, "part1_c": 210, "part2_a": 20, "part3_a": 30}
    for name, value in values.items():
        save(tmp_path / f"in/{name}.png", value)
    flags = ["--watch", "in", "--output", "out", "--settle", 0, "--frames", 5, "--webhook", "x"]
    out, err = start(stream, *flags)
    # part1 has as many as any had; part2 ends as the next begins, part3 with the stream.
    assert [" part " in line for line in out[:-1]] == [False] * 3 + [True, False, True, False, True]
    lines = read_lines(next((tmp_path / "out").glob("*.jsonl")))
    parts = [line for line in lines if "views" in line]
    assert [part["verdict"] for part in parts] == ["defect", "good", "good"]
    assert [part["views"] for part in parts] == [3, 1, 1]
    assert "part in/part2 has 1 of 2 views" in err
    (alert,) = posted  # at the first defective image, and not again
    assert alert["path"].endswith("part1_b.png") and alert["part"] == "in/part1"


def test_frames_without_names_are_no_parts(capsys):
    args = argparse.Namespace(categories=[], thresholds=[])
    calibrated = loop.calibrations(args, [Videos(["line.mp4"])], Views())
    assert (
        "videos: a verdict on each frame, none on parts; calibration.group"
        in capsys.readouterr().err
    )
    (_, calibration), *_ = calibrated.values()
    assert calibration.threshold == Views.views.threshold
    assert calibration.most_views == 1 and loop.drift(calibration).independent == 0


def test_the_page_counts_parts():
    results = [Result("part1_a", 0.1, "", "part1"), Result("part1_b", 0.9, "", "part1")]
    results += [Result("part2_a", None, "damaged", "part2")]
    assert verdicts(results, Views.views)["part verdict"].tolist() == ["defect", "defect", ""]
    assert "part" not in verdicts(results, Brightness.calibrations["part"])


def test_metrics_are_of_parts():
    def row(path, kind, score):
        return Row(TestImage(Path(path), kind, None), score, 5.0)

    rows = [row(f"tile/test/good/part{n}_{v}.png", "good", n + v) for n in (0, 1) for v in (0, 1)]
    rows += [row(f"tile/test/oil/part1_{v}.png", "oil", 5 * v) for v in (0, 1)]
    parts = part_rows(rows, PATTERN, "tile")
    assert [part.score for part in parts] == [1, 2, 5]
    assert part_rows(rows, None, "tile") == rows
    text = summary(measure(parts, None, Views.views, 1), False)
    assert "PART AUROC  1.0" in text and "2 good, 1 defective parts" in text


def test_a_drawn_defect_is_on_one_image_of_a_part():
    def row(view, kind, score):
        return Row(PseudoImage(Path(f"tile/part0_{view}.png"), kind, None, ()), score, 5.0)

    rows = [row(0, "good", 3), row(1, "good", 1), row(0, "spot", 2), row(1, "spot", 4)]
    found = [(part.kind, part.score) for part in part_rows(rows, PATTERN, "tile")]
    assert found == [("good", 3), ("spot", 2), ("spot", 4)]
    rows[2:] = [row(1, "spot", 2)]  # the other image of the part scores higher
    assert [part.score for part in part_rows(rows, PATTERN, "tile")] == [3, 3]


# A run


@pytest.fixture(scope="module")
def run(tmp_path_factory, dataset):
    """A working folder with a finished run on parts of two images: (folder, output of train.py)."""
    folder = tmp_path_factory.mktemp("parts")
    for split in ("train/good", "test/good", "test/oil"):
        for number, path in enumerate(sorted((dataset / "tile" / split).glob("*.png"))):
            copy = folder / "data/tile" / split / f"part{number // 2}_{number % 2}.png"
            copy.parent.mkdir(parents=True, exist_ok=True)
            Image.open(path).save(copy)
    flags = ["--model", "patchcore", "--size", 64, "--set", "patchcore.coreset=0.05"]
    flags += ["--data-root", folder / "data", "--set", f"calibration.group={PATTERN}"]
    result = run_script("train.py", *flags, cwd=folder)
    assert result.returncode == 0, result.stderr
    (run,) = (folder / "checkpoints").iterdir()
    return folder, run, result.stdout


def test_thresholds_are_of_parts(run):
    folder, path, out = run
    assert "from 6 parts, 11 good images" in out
    (calibration,) = open_inspector(path / "last.pt", "cpu").calibrations.values()
    assert calibration.views == [2, 2, 2, 2, 2, 1] and len(calibration.digests) == 11
    assert len(calibration.scores) == len(calibration.peaks) == calibration.independent == 6
    result = run_script("calibrate.py", path, cwd=folder)  # reads it and changes nothing
    assert "from 6 parts, 11 good images" in result.stdout and "after" not in result.stdout


def test_further_good_images_count_as_parts(run):
    folder, path, _ = run
    before = open_inspector(path / "last.pt", "cpu").calibrations["tile"]
    good = folder / "data/tile/test/good"
    flags = ["--good", good, "--defects", folder / "data/tile/test/oil"]
    result = run_script("calibrate.py", path, *flags, cwd=folder)
    assert "from 8 parts, 14 good images" in result.stdout, result.stderr
    assert "1 of 1 known defects" in result.stdout
    inspector = open_inspector(path / "last.pt", "cpu")
    after = inspector.calibrations["tile"]
    paths = sorted(good.glob("*.png"))
    scores = [inspector.inspect(inspector.read(image)).score for image in paths]
    assert after.scores[:-2] == before.scores
    assert after.scores[-2:] == pytest.approx([max(scores[:2]), scores[2]], rel=1e-5)
    assert after.with_false_alarms(0.1).views == after.views == [*before.views, 2, 1]


def test_eval_measures_parts(run):
    folder, path, _ = run
    result = run_script("eval.py", "--checkpoint", path, cwd=folder)
    assert result.returncode == 0 and "2 good, 1 defective parts" in result.stdout, result.stderr
    output = folder / "outputs" / path.name / "eval"
    metrics = json.loads((output / "metrics.json").read_text())
    assert (metrics["good_parts"], metrics["defective_parts"]) == (2, 1)
    assert "good_images" not in metrics
    result = run_script("eval.py", "--checkpoint", path, "--synthetic", cwd=folder)
    assert "PSEUDO PART AUROC" in result.stdout, result.stderr


def test_a_run_whose_threshold_is_of_images_gives_no_verdicts_on_parts():
    class Former(Views):
        calibrations = Brightness.calibrations

    assert Views().group == PATTERN and Former().group is None
