import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.mvtec import TestImage
from evaluation import measure as evaluation
from evaluation.evaluate import record_folders, refuse_foreign, replace_files
from evaluation.measure import Row, collect_pixels, measure
from evaluation.metrics import BinnedPixelScores, PixelScores
from evaluation.report import kinds_table, summary, tables
from inspection.threshold import Calibration
from utils.errors import UserError
from utils.files import printable

CALIBRATION = Calibration(
    threshold=2.0, median=1.0, pixel_threshold=2.0, low=0.0, high=4.0, false_alarms=0.02,
    scores=[1.0], peaks=[1.0], independent=1,
)  # fmt: skip


def rows_of(**scores):
    """Rows of no file, by kind."""
    return [
        Row(TestImage(Path(f"{kind}/{number}.png"), kind, None), score, 5.0)
        for kind, of_kind in scores.items()
        for number, score in enumerate(of_kind)
    ]


def test_false_alarms_and_finds_are_counted_at_the_threshold():
    rows = rows_of(good=[1, 2, 2.5, 1], oil=[3, 1.5], crack=[2.1])
    metrics = measure(rows, None, CALIBRATION, 1)
    assert (metrics["good_called_defective"], metrics["false_alarms"]) == (1, 1 / 4)
    assert (metrics["defects_found"], metrics["recall"]) == (2, 2 / 3)
    assert metrics["false_alarms_promised"] == 0.02
    text = summary(metrics, synthetic=False)
    assert "false alarms       25.0%   (1 of 4 good parts; promised 2%)" in text
    assert "defects found      66.7%   (2 of 3 defective parts)" in text
    assert "pixel" not in text and "nan" not in text
    table = kinds_table(rows, metrics, CALIBRATION)
    assert [(row["kind"], row["called defective"]) for row in table] == [
        ("crack", 1), ("oil", 1), ("good", 1),
    ]  # fmt: skip


@pytest.mark.parametrize("kind, missing", [("good", "defective"), ("oil", "good")])
def test_one_class_alone_tells_what_it_can(kind, missing):
    rows = rows_of(**{kind: [1, 3, 1, 1]})
    metrics = measure(rows, None, CALIBRATION, 1)
    share = metrics["false_alarms" if kind == "good" else "recall"]
    other = metrics["recall" if kind == "good" else "false_alarms"]
    assert share == 1 / 4 and np.isnan(other)
    text = summary(metrics, synthetic=False)
    assert f"no {missing} images" in text and "25.0%" in text and "nan" not in text
    (row,) = kinds_table(rows, metrics, CALIBRATION)
    assert (row["called defective"], row["AUROC"]) == (1, "")


def test_tables_hold_any_name_and_leave_out_what_is_undefined():
    name, defect = "\udcff.png", "\udcfe"  # as Python gives bytes that are not UTF-8
    rows = [
        Row(TestImage(Path("零件_ż.png"), "good", None), 1.0, 5.0),
        Row(TestImage(Path(name), defect, None), 3.0, 5.0),
    ]
    files = tables(rows, measure(rows, None, CALIBRATION, 1), CALIBRATION)
    metrics = json.loads(files["metrics.json"].decode())
    assert metrics["pixel_auroc"] is None and metrics[f"auroc_{printable(defect)}"] == 1
    named, line = csv.reader(io.StringIO(files["metrics.csv"].decode("utf-8-sig")))
    assert line[named.index("pixel_auroc")] == ""
    assert all(files[name].startswith(b"\xef\xbb\xbf") for name in ("metrics.csv", "scores.csv"))
    _, first, second = csv.reader(io.StringIO(files["scores.csv"].decode("utf-8-sig")))
    assert first == ["零件_ż.png", "good", "1.0", "good"]
    assert second == [printable(name), printable(defect), "3.0", "defect"]


def test_files_of_an_earlier_evaluation_go_and_those_of_a_user_stay(tmp_path):
    page = {"report.html": b"of ours"}
    (tmp_path / "report.html").write_text("of a user")
    replace_files(tmp_path, {"metrics.json": b"1", "roc.png": b"1"})
    (tmp_path / "notes.txt").touch()
    replace_files(tmp_path, {"metrics.json": b"2"})
    assert {path.name for path in tmp_path.iterdir()} == {
        "metrics.json", "report.html", "notes.txt", "eval_files.txt",
    }  # fmt: skip
    assert (tmp_path / "metrics.json").read_text() == "2"
    for refuse in (lambda: refuse_foreign(tmp_path), lambda: replace_files(tmp_path, page)):
        with pytest.raises(UserError, match="report.html is none of eval.py"):
            refuse()
    assert (tmp_path / "report.html").read_text() == "of a user"


def test_a_list_of_files_that_no_evaluation_wrote_deletes_nothing(tmp_path):
    (tmp_path / "photo.png").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/metrics.json").touch()
    inside = tmp_path / "inside"
    inside.mkdir()
    (inside / "eval_files.txt").write_text("../photo.png\n../sub/\n../\n./\n/\n")
    (tmp_path / "eval_files.txt").write_text("photo.png\nsub/\nroc.png\n")
    (tmp_path / "roc.png").touch()
    replace_files(inside, {})
    assert (tmp_path / "roc.png").exists()
    replace_files(tmp_path, {})
    assert (tmp_path / "photo.png").exists() and (tmp_path / "sub/metrics.json").exists()
    assert not (tmp_path / "roc.png").exists()


def test_an_evaluation_leaves_nothing_of_the_last_one_in_its_folder(tmp_path):
    def paths():
        return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}

    names = ["bolt", "nut", "ring"]
    record_folders(tmp_path, names)
    for name in names:
        (tmp_path / name).mkdir()
        replace_files(tmp_path / name, {"metrics.json": b"1", "report.html": b"1"})
    (tmp_path / "nut/notes.txt").touch()
    (tmp_path / "other").mkdir()
    replace_files(tmp_path / "other", {"metrics.json": b"1"})  # an evaluation of its own
    replace_files(tmp_path, {"metrics.json": b"1"}, keep=names)
    assert {"metrics.json", "bolt/report.html", "ring/metrics.json"} <= paths()
    record_folders(tmp_path, names[:2])
    replace_files(tmp_path, {"metrics.json": b"2"}, keep=names[:2])
    assert "bolt/report.html" in paths() and not (tmp_path / "ring").exists()
    replace_files(tmp_path, {"metrics.json": b"3", "roc.png": b"3"})  # of one category
    assert paths() == {
        "metrics.json", "roc.png", "eval_files.txt", "nut/notes.txt", "other/metrics.json",
        "other/eval_files.txt",
    }  # fmt: skip
    assert not (tmp_path / "bolt").exists()


def test_pixels_are_collected_as_masks_and_memory_allow(tmp_path, monkeypatch):
    Image.new("L", (20, 10)).save(tmp_path / "a.png")
    image = tmp_path / "a.png"
    good = TestImage(image, "good", None)
    masked, bare = TestImage(image, "oil", image), TestImage(image, "oil", None)
    damaged = TestImage(tmp_path / "gone.png", "oil", image)
    assert collect_pixels([good]) == (None, [])
    pixels, (notice,) = collect_pixels([good, bare, bare])
    assert pixels is None and "2 defective images" in notice
    pixels, (notice,) = collect_pixels([good, masked, bare, damaged])
    assert type(pixels) is PixelScores and "1 of 3 defective images" in notice
    monkeypatch.setattr(evaluation, "MAX_EXACT_PIXELS", 400)
    assert collect_pixels([good, masked, damaged])[1] == []
    pixels, (notice,) = collect_pixels([good, masked, masked])
    assert type(pixels) is BinnedPixelScores and "GiB" in notice


def test_the_error_of_bins_is_printed():
    rows = rows_of(good=[1], oil=[3])
    pixels = BinnedPixelScores()
    rng = np.random.default_rng(0)
    mask = rng.random((200, 200)) < 0.2
    pixels.add(rng.normal(mask, 1), mask)
    metrics = measure(rows, pixels, CALIBRATION, 1)
    assert 0 < metrics["pixel_error"] < 1e-3
    said = re.search(r"off by at most (\S+)", summary(metrics, synthetic=False))[1]
    assert metrics["pixel_error"] <= float(said) <= metrics["pixel_error"] + 1e-5
