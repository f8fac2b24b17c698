"""infer.py and the files of its user, with a detector that needs no training."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path, PureWindowsPath

import numpy as np
import pytest
from brightness import SIZE, Brightness
from conftest import REPO
from PIL import Image

import infer
import stream
from inspection import open_run
from inspection.output import panel_names
from utils.config import changed
from utils.errors import UserError
from utils.files import LineFile

POSIX = pytest.mark.skipif(os.name != "posix", reason="of POSIX")

BRIGHT = f"""
import sys, time
sys.path[:0] = [{str(REPO)!r}, {str(REPO / "tests")!r}]
from pathlib import Path
import infer
from brightness import Brightness

infer.open_run = lambda *_: (Path("fake.onnx"), Brightness())
"""


def save(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((SIZE, SIZE, 3), value, np.uint8)).save(path)


def read_lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def read_csv(path):
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def files(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs infer.py in an empty folder; gives its status."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(infer, "open_run", lambda _: (Path("fake.onnx"), Brightness()))

    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["infer.py", *map(str, arguments)])
        return infer.main()

    return start


def start(tmp_path, *arguments, changes="", **environment):
    """infer.py as a process of its own."""
    script = BRIGHT + changes + "infer.run_script(infer.main)"
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        cwd=tmp_path, env=os.environ | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


# What is there stays


def test_each_start_has_a_folder_of_its_own(run, tmp_path):
    save(tmp_path / "a.png", 10)
    assert run("a.png") == 0
    first = (tmp_path / "outputs/fake.onnx/infer/results.csv").read_bytes()
    assert first.startswith(b"\xef\xbb\xbf")  # by which Excel knows UTF-8
    save(tmp_path / "a.png", 200)
    assert run("a.png") == 0
    assert files(tmp_path / "outputs/fake.onnx") == {
        f"{folder}/{name}" for folder in ("infer", "infer-2")
        for name in ("a.png", "results.csv", "results.jsonl")
    }  # fmt: skip
    assert (tmp_path / "outputs/fake.onnx/infer/results.csv").read_bytes() == first
    (row,) = read_csv(tmp_path / "outputs/fake.onnx/infer-2/results.csv")
    assert row["panel"] == str(Path("outputs/fake.onnx/infer-2/a.png"))
    assert row["verdict"] == "defect"


@pytest.mark.parametrize("output", ["parts", "notes", "notes/text"])
def test_a_folder_in_use_is_refused(run, tmp_path, output):
    save(tmp_path / "parts/a.png", 10)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/text").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="is no empty folder, and nothing is overwritten"):
        run("parts", "--output", output)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}


def test_a_new_or_empty_folder_is_taken_by_its_name(run, tmp_path):
    save(tmp_path / "parts/a.png", 10)
    (tmp_path / "empty").mkdir()
    for output in ("empty", "new/er"):
        assert run("parts", "--output", output) == 0
        assert files(tmp_path / output) == {"a.png", "results.csv", "results.jsonl"}


# Kills


@POSIX
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_was_printed_is_written_whatever_ends_it(tmp_path, number):
    for name in range(40):
        save(tmp_path / f"parts/{name:02d}.png", 10 if name % 2 else 200)
    slowly = "say = infer.say\ninfer.say = lambda *a: (time.sleep(0.05), say(*a))[1]\n"
    process = start(tmp_path, "parts", "--output", "out", changes=slowly)
    printed = [process.stdout.readline() for _ in range(5)]
    process.send_signal(number)
    printed += process.communicate(timeout=30)[0].splitlines()
    results = read_lines(tmp_path / "out/results.jsonl")
    rows = read_csv(tmp_path / "out/results.csv")
    assert len(printed) - 1 <= len(results) < 40  # all but the one at hand
    assert [row["path"] for row in rows] == [result["path"] for result in results]
    for result in results:
        assert Path(result["panel"]).name == Path(result["path"]).name
        assert Image.open(tmp_path / result["panel"]).size[0] > 500


# Names


def test_panels_lie_as_the_images_and_never_share_a_name(run, tmp_path):
    names = ["a.jpg", "a.png", "a-2.png", "b/a.png", "a.bmp"]
    for number, name in enumerate(names):
        save(tmp_path / "parts" / name, 10 * number)
    assert run(*(tmp_path / "parts" / name for name in names), "--output", "out") == 0
    panels = [Path(one["panel"]).as_posix() for one in read_lines(Path("out/results.jsonl"))]
    assert panels == ["out/a.png", "out/a-2.png", "out/a-2-2.png", "out/b/a.png", "out/a-3.png"]
    assert files(tmp_path) >= set(panels)


def test_images_on_two_drives_have_panels_inside_the_folder():
    paths = [PureWindowsPath(path) for path in (r"C:\parts\a.jpg", r"D:\b.png", r"\\pc\disk\c.png")]
    assert [name.as_posix() for name in panel_names(paths)] == [
        "C/parts/a.png", "D/b.png", "pcdisk/c.png"
    ]  # fmt: skip


@POSIX
def test_names_as_long_as_a_disk_takes(run, tmp_path):
    for number, name in enumerate(("x" * 251 + ".png", "x" * 251 + ".bmp", "ż" * 125 + ".png")):
        save(tmp_path / "parts" / name, 10 * number)
    assert run("parts", "--output", "out") == 0
    panels = [Path(one["panel"]) for one in read_lines(Path("out/results.jsonl"))]
    assert len({panel.name for panel in panels}) == 3
    assert all(panel.is_file() for panel in panels)


@POSIX
@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_any_name_is_printed_and_written(tmp_path, encoding):
    save(tmp_path / "parts/零件_ż.png", 10)
    save(tmp_path / "parts/plain.png", 10)
    os.rename(  # noqa: PTH104  (a name that is not UTF-8)
        os.fsencode(tmp_path / "parts/plain.png"), os.fsencode(tmp_path / "parts") + b"/b\xe9.png"
    )
    process = start(tmp_path, "parts", "--output", "out", PYTHONIOENCODING=f"{encoding}:strict")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert len(out.splitlines()) == 3
    assert b"\\udce9.png" in out
    assert ("零件_ż.png" if encoding == "utf-8" else r"\u96f6\u4ef6_").encode() in out
    rows = read_csv(tmp_path / "out/results.csv")
    assert {Path(row["path"]).name for row in rows} == {"零件_ż.png", r"b\udce9.png"}
    assert {Path(row["panel"]).name for row in rows} == {"零件_ż.png", "budce9.png"}
    lines = read_lines(tmp_path / "out/results.jsonl")
    assert all((tmp_path / line[key]).is_file() for line in lines for key in ("path", "panel"))


# What gives no image


def test_an_empty_name_is_not_the_whole_folder(run, tmp_path):
    save(tmp_path / "a.png", 10)
    with pytest.raises(UserError, match=r"is empty; this folder is named '\.'"):
        run("a.png", "")
    assert run(".") == 0


def test_what_matches_nothing_is_reported_beside_the_rest(run, tmp_path, capsys):
    save(tmp_path / "parts/a.png", 10)
    (tmp_path / "nothing").mkdir()
    assert run("parts", "none*.png", "nothing", "--output", "out") == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines() == [
        "FAILED  cannot read none*.png: no such file",
        "FAILED  cannot read nothing: a folder without images",
    ]
    assert printed.out.splitlines()[-1].startswith("0 defective, 1 good, 2 failed")
    with pytest.raises(UserError, match=r"no images at none\*, nothing"):
        run("none*", "nothing")


@POSIX
def test_a_pipe_is_reported_and_not_waited_for(tmp_path):
    save(tmp_path / "parts/b.png", 10)
    os.mkfifo(tmp_path / "parts/a.png")
    process = start(tmp_path, "parts")
    try:
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert err.decode().startswith("passed over in parts: 1 no regular file")
    assert b"1 good, 0 failed" in out


# What is written of an image


def test_maps_masks_and_overlays_have_the_size_of_the_original(run, tmp_path):
    image = np.zeros((100, 200, 3), np.uint8)
    image[:, 80:] = 255
    (tmp_path / "parts").mkdir()
    Image.fromarray(image).save(tmp_path / "parts/a.png")
    save(tmp_path / "parts/a_mask.png", 10)
    assert run("parts", "--save", "panel,map,mask,overlay") == 0
    folder = tmp_path / "outputs/fake.onnx/infer"
    line, other = read_lines(folder / "results.jsonl")
    row, _ = read_csv(folder / "results.csv")
    endings = {"panel": ".png", "map": "_map.tif", "map_npy": "_map.npy", "mask": "_mask.png",
               "overlay": "_overlay.png"}  # fmt: skip
    for name, ending in endings.items():
        assert line[name] == row[name] == str(Path("outputs/fake.onnx/infer") / f"a{ending}")
    assert other["panel"].endswith("a_mask-2.png")
    values = np.load(line["map_npy"])
    assert values.dtype == np.float32
    assert np.array_equal(np.asarray(Image.open(line["map"])), values)
    assert values.shape == (100, 200)
    assert (values[50, 150], values[50, 20]) == (pytest.approx(1), 0)
    marked = np.asarray(Image.open(line["mask"]))
    assert marked.shape == (100, 200)
    assert set(np.unique(marked)) == {0, 255}
    assert (marked[50, 150], marked[50, 20]) == (255, 0)
    shown = np.asarray(Image.open(line["overlay"]))
    assert shown.shape == (100, 200, 3)
    assert (shown[50, 20] == 0).all()


def test_no_pictures_or_some(run, tmp_path):
    save(tmp_path / "a.png", 10)
    assert run("a.png", "--save", "none", "--output", "none") == 0
    assert files(tmp_path / "none") == {"results.csv", "results.jsonl"}
    (row,) = read_csv(tmp_path / "none/results.csv")
    assert (row["panel"], row["mask"]) == ("", "")
    assert run("a.png", "--save", "mask", "--output", "some") == 0
    assert files(tmp_path / "some") == {"a_mask.png", "results.csv", "results.jsonl"}
    for wrong in ("maps", "none,map", ""):
        with pytest.raises(UserError, match=r"--save is .* but should be none, or some of"):
            run("a.png", "--save", wrong)


def test_millimetres_stand_in_both_files(run, tmp_path, monkeypatch):
    config = changed(Brightness.config, {"data.mm_per_pixel": 0.5})
    monkeypatch.setattr(Brightness, "config", config)
    save(tmp_path / "a.png", 10)
    save(tmp_path / "b.png", 200)
    assert run("a.png", "b.png", "--save", "none", "--output", "out") == 0
    good, defect = read_csv(tmp_path / "out/results.csv")
    (region,) = read_lines(tmp_path / "out/results.jsonl")[1]["regions"]
    assert region["box_mm"] == [0.5 * side for side in region["box"]] == [0, 0, SIZE / 2, SIZE / 2]
    columns = ["x_mm", "y_mm", "width_mm", "height_mm"]
    assert [float(defect[name]) for name in columns] == region["box_mm"]
    assert float(defect["area_mm2"]) == region["area_mm2"] == (SIZE / 2) ** 2
    assert {good[name] for name in columns} == {""}


def test_images_unlike_the_good_ones_are_told_once(run, tmp_path, monkeypatch, capsys):
    good = replace(Brightness.calibrations["part"], profile={"brightness": (10.0, 12.0)})
    monkeypatch.setattr(Brightness, "calibrations", {"part": good})
    for number in range(5):
        save(tmp_path / f"good/{number}.png", 10 + number % 2)
        save(tmp_path / f"bright/{number}.png", 60)
    assert run("good", "--save", "none") == 0
    assert capsys.readouterr().err == ""
    line = "these images are unlike the good ones of part: brightness 60 (good: 10 to 12); scores"
    for several in (["bright"], ["bright/0.png"]):
        assert run(*several, "--save", "none") == 0
        (said,) = capsys.readouterr().err.splitlines()
        assert said.startswith(line)


# The threshold


def test_a_threshold_for_one_start(monkeypatch, tmp_path):
    monkeypatch.setattr(open_run, "named_run", lambda _: Path("fake.onnx"))
    monkeypatch.setattr(open_run, "open_inspector", lambda *_: Brightness())
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", 102)  # a score of 0.4
    for threshold, verdict in ((None, "good"), (0.35, "defect"), (0.45, "good")):
        flags = [] if threshold is None else ["--threshold", str(threshold)]
        monkeypatch.setattr(sys, "argv", ["infer.py", "a.png", "--output", f"{threshold}", *flags])
        assert infer.main() == 0
        (line,) = read_lines(Path(f"{threshold}/results.jsonl"))
        assert (line["verdict"], line["threshold"]) == (verdict, threshold or 0.5)
    assert Brightness.calibrations["part"].threshold == 0.5


@pytest.mark.parametrize("script", [infer, stream])
@pytest.mark.parametrize("value", ["nan", "inf", "high", ""])
def test_a_threshold_that_is_no_number_is_one_line(script, value, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["script.py", "a.mp4", "--threshold", value])
    with pytest.raises(UserError, match="--threshold is .* should be a number"):
        script.main()


def test_a_full_disk_leaves_each_image_in_both_files_or_in_none(run, tmp_path, monkeypatch, capsys):
    for name in "abc":
        save(tmp_path / f"{name}.png", 200)
    write, written = LineFile.write, []

    def full(lines, text):
        written.append(text)
        if len(written) in (3, 4):  # the csv of a.png, the jsonl of b.png
            raise OSError(errno.ENOSPC, "No space left on device")
        write(lines, text)

    monkeypatch.setattr(LineFile, "write", full)
    assert run(".", "--save", "none", "--output", "out") == 1
    rows = read_csv(tmp_path / "out/results.csv")
    lines = read_lines(tmp_path / "out/results.jsonl")
    assert [row["path"] for row in rows] == [line["path"] for line in lines] == ["c.png"]
    assert capsys.readouterr().err.count("No space left on device") == 1
