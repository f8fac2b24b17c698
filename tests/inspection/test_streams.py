import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from brightness import SIZE, Brightness
from conftest import REPO, assert_one_line, run_script
from PIL import Image

import infer
import stream
from data.images import ImageError, read_image
from inspection import streams
from inspection.streams import Camera, Watch, video_frames
from utils.errors import UserError
from utils.extras import need
from utils.files import new_file


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs stream.py in tmp_path with `Brightness`; gives (status, lines, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(stream, "open_run", lambda *_: (Path("fake.onnx"), Brightness()))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["stream.py", "--output", "out", *map(str, arguments)])
        status = stream.main()
        printed = capsys.readouterr()
        newest = max(Path("out").glob("*.jsonl"), key=lambda path: path.stat().st_mtime_ns)
        return status, read_lines(newest), printed.out, printed.err

    return call


def read_lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def gray(value, shape=(SIZE, SIZE)):
    return np.full((*shape, 3), value, np.uint8)


def write_video(path, frames, code="FFV1", fps=10.0):
    """Without loss by default; frames are RGB."""
    cv2 = pytest.importorskip("cv2")
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame[..., ::-1].copy())
    writer.release()
    return path


def count_frames(path):
    """Frames that can be read, all of one size."""
    cv2 = pytest.importorskip("cv2")
    capture, shapes = cv2.VideoCapture(str(path)), []
    while (frame := capture.read())[0]:
        shapes.append(frame[1].shape)
    assert len(set(shapes)) == 1
    return len(shapes)


def save(path, value, written=None):
    """A gray image, as written at a time in seconds."""
    Image.fromarray(gray(value)).save(path)
    if written is not None:
        os.utime(path, (written, written))


def look(watch, times=2):
    """Names and images, or errors, of so many looks into a folder."""
    frames = [frame for _ in range(times) for frame in watch.look()]
    return [(Path(frame.about["path"]).name, frame.image) for frame in frames]


# Video files


def test_scores_of_a_video_are_those_of_its_images(trained, dataset, tmp_path, monkeypatch):
    folder, run_folder, _ = trained
    paths = sorted((dataset / "tile/test").rglob("*.png"))[:6]
    video = write_video(tmp_path / "line.avi", [read_image(path) for path in paths])
    monkeypatch.chdir(tmp_path)
    flags = ["--checkpoint", run_folder, "--output"]
    monkeypatch.setattr(sys, "argv", ["infer.py", *map(str, [*flags, "images", *paths])])
    assert infer.main() == 0
    flags = [*flags, tmp_path / "video", video, "--panels"]
    result = run_script("stream.py", *flags, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 7
    expected = json.loads(Path("images/results.json").read_text())
    lines = read_lines(tmp_path / "video/verdicts.jsonl")
    assert [line["frame"] for line in lines] == list(range(6))
    assert [line["time"] for line in lines] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    for line, image in zip(lines, expected, strict=True):
        assert line["source"] == str(video)
        assert line["score"] == pytest.approx(image["score"], rel=1e-6)
        for key in ("verdict", "threshold", "box"):
            assert line[key] == image[key]
        assert line["milliseconds"] > 0
    panels = [Path(line["panel"]) for line in lines if line["verdict"] == "defect"]
    assert set(panels) == set((tmp_path / "video").rglob("*.png"))


def test_colours_of_a_video_are_not_swapped(tmp_path):
    red = gray(0)
    red[..., 0] = 200
    (frame,) = video_frames([write_video(tmp_path / "red.avi", [red])])
    assert np.abs(frame.image.astype(int) - red).max() <= 4


@pytest.mark.parametrize("name", ["seen.mp4", "seen.avi"])
def test_annotated_video_has_every_frame(run, tmp_path, name):
    values = [30, 200, 90]
    video = write_video(tmp_path / "odd.avi", [gray(value, (90, 130)) for value in values], fps=25)
    status, lines, out, _ = run(video, "--video", name)
    assert status == 0
    assert [line["verdict"] for line in lines] == ["good", "defect", "good"]
    assert "3 frames inspected, 1 defective, 0 failed" in out
    assert name in out.splitlines()[-1]
    assert count_frames(tmp_path / name) == 3
    cv2 = pytest.importorskip("cv2")
    assert cv2.VideoCapture(name).get(cv2.CAP_PROP_FPS) == 25


def test_earlier_files_stay(run, tmp_path):
    video = write_video(tmp_path / "line.avi", [gray(200)])
    run(video, "--video", video, "--panels")
    original = video.read_bytes()
    first = Path("out/verdicts.jsonl").read_text()
    _, (line,), _, _ = run(video, "--video", video, "--panels")
    assert video.read_bytes() == original
    assert Path("out/verdicts.jsonl").read_text() == first
    assert line["panel"] == str(Path("out/verdicts-2/000001.png"))
    assert {path.name for path in tmp_path.glob("*.avi")} == {
        "line.avi", "line-2.avi", "line-3.avi"
    }  # fmt: skip
    assert new_file(tmp_path / "out/verdicts.jsonl").name == "verdicts-3.jsonl"


def test_a_bad_video_is_reported_and_the_rest_go_on(run, tmp_path):
    whole = write_video(tmp_path / "whole.avi", [gray(20)] * 40, code="MJPG")
    (tmp_path / "torn.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (tmp_path / "text.mp4").write_text("no video")
    status, lines, _, err = run("text.mp4", "gone.mp4", "torn.avi", "whole.avi", "--panels")
    assert status == 1
    failed = [line for line in lines if "error" in line]
    assert [line["source"] for line in failed] == ["text.mp4", "gone.mp4", "torn.avi"]
    assert len(err.splitlines()) == 3
    assert "no such file" in err
    assert "torn.avi is damaged" in err
    assert sum(line["source"] == "whole.avi" for line in lines) == 40
    assert not Path("out/verdicts").exists()  # no defect, no panel


def test_quoted_patterns_of_videos(run, tmp_path):
    for name in ("b.avi", "a.avi"):
        write_video(tmp_path / name, [gray(20)] * 3)
    _, lines, out, _ = run("*.avi", "--frames", 4)
    assert [(line["source"], line["frame"]) for line in lines] == [
        ("a.avi", 0), ("a.avi", 1), ("a.avi", 2), ("b.avi", 0)
    ]  # fmt: skip
    assert out.splitlines()[-1].startswith("4 frames inspected")


# Stopping

BRIGHT = f"""
import itertools, sys
sys.path[:0] = [{str(REPO)!r}, {str(REPO / "tests")!r}]
from pathlib import Path
import stream
from brightness import Brightness

stream.open_run = lambda *_: (Path("fake.onnx"), Brightness())
"""

ENDLESS = """
import numpy as np
from inspection.streams import Frame

def frames(args, stop):
    for number in itertools.count():
        yield Frame("endless", {"frame": number}, np.full((64, 64, 3), number % 100, np.uint8))

stream.open_frames = frames
"""

LIGHT = """
say = stream.say

def say_and_tell(*arguments):
    verdict = say(*arguments)
    print([name for name in ("torch", "scipy", "matplotlib", "cv2") if name in sys.modules])
    return verdict

stream.say = say_and_tell
"""


def start(tmp_path, *arguments, changes="", script="stream"):
    """Start stream.py, or another script, with `Brightness` and other changes."""
    script = BRIGHT.replace("stream", script) + changes + f"{script}.run_script({script}.main)"
    return subprocess.Popen(
        [sys.executable, "-c", script, "--output", "out", *map(str, arguments)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_stream_is_complete(tmp_path, number):
    pytest.importorskip("cv2")
    process = start(tmp_path, "--camera", 0, "--video", "seen.mp4", changes=ENDLESS)
    for _ in range(20):
        assert process.stdout.readline().startswith("good")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    lines = read_lines(tmp_path / "out/verdicts.jsonl")
    assert [line["frame"] for line in lines] == list(range(len(lines)))
    assert len(lines) >= 20
    assert out.splitlines()[-1].startswith(f"{len(lines)} frames inspected")
    assert count_frames(tmp_path / "seen.mp4") == len(lines)


# Watched folders


def test_a_watched_folder_from_start_to_stop(tmp_path):
    folder = tmp_path / "arriving"
    folder.mkdir()
    save(folder / "b.png", 10, written=1000)
    save(folder / "a.png", 200, written=2000)
    process = start(tmp_path, "--watch", folder, "--panels")
    assert [process.stdout.readline().split("/")[-1] for _ in range(2)] == ["b.png\n", "a.png\n"]
    save(folder / "c.png", 20)
    assert process.stdout.readline().endswith("c.png\n")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert out.splitlines()[-1].startswith("3 frames inspected, 1 defective, 0 failed")
    lines = read_lines(tmp_path / "out/verdicts.jsonl")
    assert [Path(line["path"]).name for line in lines] == ["b.png", "a.png", "c.png"]
    assert all(line["source"] == str(folder) and line["time"].count(":") >= 2 for line in lines)
    assert Image.open(tmp_path / lines[1]["panel"]).size[0] > 500


def test_half_written_files_are_waited_for(tmp_path):
    save(tmp_path / "whole.png", 10)
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    source = tmp_path / "source.txt"
    Image.fromarray(noise).save(source, format="png")
    data = source.read_bytes()
    watch, late = Watch(tmp_path), tmp_path / "late.png"
    late.write_bytes(data[: len(data) // 2])
    assert [name for name, _ in look(watch, times=5)] == ["whole.png"]
    with late.open("ab") as stream:
        stream.write(data[len(data) // 2 :])
    assert look(watch, times=1) == []  # has just changed
    ((name, image),) = look(watch, times=5)
    assert name == "late.png"
    assert np.array_equal(image, noise)


def test_what_arrives_in_one_look_comes_in_order_of_writing(tmp_path):
    watch = Watch(tmp_path)
    for name, written in (("c", 1000), ("b", 3000), ("a", 3000), ("d", 2000)):
        save(tmp_path / f"{name}.png", 10, written)
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.png").touch()
    (tmp_path / "folder.png").mkdir()
    assert [name for name, _ in look(watch)] == ["c.png", "d.png", "a.png", "b.png"]
    save(tmp_path / "old.png", 10, written=1)
    assert [name for name, _ in look(watch)] == ["old.png"]


def test_a_bad_file_is_reported_once_and_the_rest_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "PATIENCE", 0.2)
    watch, bad = Watch(tmp_path), tmp_path / "bad.png"
    bad.write_text("no image")
    save(tmp_path / "good.png", 10)
    assert [name for name, _ in look(watch)] == ["good.png"]
    time.sleep(0.25)
    ((name, error),) = look(watch, times=4)
    assert name == "bad.png"
    assert isinstance(error, ImageError)
    save(bad, 20)  # mended
    ((name, image),) = look(watch, times=3)
    assert image[0, 0, 0] == 20


def test_deleted_files_are_forgotten(tmp_path):
    watch = Watch(tmp_path)
    for number in range(30):
        save(tmp_path / "now.png", number)
        (tmp_path / f"{number}.png").write_text("half")
        list(watch.look())
        list(watch.look())
        (tmp_path / f"{number}.png").unlink()
        (tmp_path / "now.png").rename(tmp_path / "last.png")
    assert set(watch.done) | set(watch.waiting) <= {"now.png", "last.png", "29.png"}
    (tmp_path / "last.png").unlink()
    assert look(watch, times=1) == []
    assert watch.done == watch.waiting == {}


def test_a_file_deleted_before_it_is_read_is_no_failure(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, 10)
    watch = Watch(tmp_path)
    assert look(watch, times=1) == []
    (tmp_path / "a.png").unlink()
    assert [name for name, _ in look(watch)] == ["b.png"]
    save(tmp_path / "b.png", 20)
    watch = Watch(tmp_path)
    list(watch.look())
    ready = watch._ready()
    (tmp_path / "b.png").unlink()  # between the look and the reading
    assert ready == ["b.png"]
    assert watch._read("b.png") is None


# Cameras


class FakeCapture:
    """A camera of 100 frames a second; gives a hundred, each as bright as its number."""

    released = threading.Event()

    def __init__(self, source):
        self.source, self.number = source, -1

    def isOpened(self):  # noqa: N802  (OpenCV's name)
        return self.source == 0

    def read(self):
        time.sleep(0.01)
        self.number += 1
        return self.number < 100, gray(self.number)

    def release(self):
        self.released.set()


def test_a_slow_detector_gets_the_newest_frame(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    camera = Camera("0")
    frames = camera.frames(lambda: False)
    numbers = []
    for frame in frames:
        if isinstance(frame.image, ImageError):
            break
        assert frame.image[0, 0, 0] == frame.about["frame"]
        assert camera._capture.number - frame.about["frame"] <= 2  # no lag
        numbers.append(frame.about["frame"])
        time.sleep(0.1)  # a detector ten times slower than the camera
    assert numbers == sorted(set(numbers))
    assert 5 <= len(numbers) <= 12
    assert numbers[-1] >= 85
    assert "no more frames" in str(frame.image)
    assert list(frames) == []


def test_a_camera_is_released_when_the_stream_is_closed(monkeypatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    FakeCapture.released.clear()
    frames = Camera("0").frames(lambda: False)
    next(frames)
    frames.close()
    assert FakeCapture.released.is_set()
    with pytest.raises(UserError, match="cannot open camera 7"):
        Camera("7")


# One clear line, and a quick start


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one of these"),
        (["--camera", "0", "--watch", "."], "one of these"),
        (["line.mp4", "--watch", "."], "one of these"),
        (["line.mp4", "part.png"], "part.png is no video"),
        (["line.mp4", "--frames", "0"], "--frames"),
        (["--watch", "gone"], "no folder at gone"),
        (["--watch", ".", "--video", "seen.gif"], "name it .mp4 or .avi"),
    ],
)
def test_what_cannot_be_is_one_line(run, arguments, words):
    with pytest.raises(UserError, match=words):
        run(*arguments)
    assert not Path("out").exists()


def test_a_video_that_cannot_be_written_is_said_before_work(run, monkeypatch):
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "VideoWriter_fourcc", lambda *_: 1)
    with pytest.raises(UserError, match="cannot write a video to seen.mp4"):
        run("--watch", ".", "--video", "seen.mp4")
    assert list(Path.cwd().iterdir()) == []


def test_without_opencv_there_is_one_line_and_watching_works(run, trained, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UserError, match="opencv-python-headless.*requirements-deploy.txt"):
        run("line.mp4")
    with pytest.raises(UserError, match="opencv-python-headless"):
        run("--camera", "0")
    save(tmp_path / "part.png", 200)
    status, (line,), _, _ = run("--watch", ".", "--frames", 1)
    assert (status, line["verdict"], line["path"]) == (0, "defect", "part.png")
    monkeypatch.undo()
    (tmp_path / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "cv2", raising=False)
    folder, run_folder, _ = trained
    result = run_script("stream.py", "--checkpoint", run_folder, "line.mp4", cwd=folder)
    assert_one_line(result, "opencv-python-headless does not load", "libGL.so.1")


def test_a_package_of_the_same_name_is_asked_for_by_it():
    with pytest.raises(UserError, match="the package nowhere;"):
        need("nowhere", "deploy")


def test_nothing_heavy_is_imported_before_the_first_verdict(tmp_path):
    save(tmp_path / "part.png", 200)
    for script, arguments in {
        "stream": ["--watch", ".", "--frames", 1],
        "infer": ["part.png"],
    }.items():
        changes = LIGHT.replace("stream", script)
        out, err = start(tmp_path, *arguments, changes=changes, script=script).communicate(
            timeout=60
        )
        verdict, imported, _ = out.splitlines()
        assert verdict.startswith("DEFECT"), err
        assert imported == "[]"
