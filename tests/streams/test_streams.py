import errno
import io
import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from brightness import Brightness
from conftest import REPO, assert_one_line, run_script
from frames import gray, save
from PIL import Image

import stream
from data.images import ImageError, read_image
from inspection.open_run import open_inspector
from inspection.output import entry
from streams import alerts, loop, record
from streams.cameras import Videos
from streams.loop import Drift
from streams.record import Heartbeat, VerdictLog
from streams.source import Frame, Source
from utils.addresses import masked
from utils.errors import UserError
from utils.files import LineFile
from utils.optional_packages import need

GRAY = gray(0)
QUICK = ["stream.py", "--output", "out", "--settle", "0"]


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    """Runs stream.py in tmp_path with `Brightness`; gives (status, lines, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "open_run", lambda *_: (Path("fake.onnx"), Brightness()))

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", [*QUICK, *map(str, arguments)])
        status = stream.main()
        printed = capsys.readouterr()
        return status, read_lines(Path("out")), printed.out, printed.err

    return call


def read_lines(output):
    """Lines of the newest file of verdicts."""
    return [json.loads(line) for line in max(output.glob("*.jsonl")).read_text().splitlines()]


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


def test_images_unlike_the_good_ones_are_told_of_each_source(run, tmp_path, monkeypatch):
    good = replace(Brightness.calibrations["part"], profile={"brightness": (10.0, 12.0)})
    monkeypatch.setattr(Brightness, "calibrations", {"part": good})
    for name, value in {"like": 11, "unlike": 60}.items():
        (tmp_path / name).mkdir()
        for number in range(4):
            save(tmp_path / f"{name}/{number}.png", value)
    status, lines, _, err = run("--watch", "like", "--watch", "unlike", "--frames", 8)
    assert (status, len(lines)) == (0, 8)
    (said,) = [line for line in err.splitlines() if "unlike the good" in line]
    assert said.startswith("images of unlike are unlike the good ones of part: brightness 60 ")


# Video files


def test_scores_of_a_video_are_those_of_its_images(trained, dataset, tmp_path):
    folder, run_folder, _ = trained
    paths = sorted((dataset / "tile/test").rglob("*.png"))[:6]
    video = write_video(tmp_path / "line.avi", [read_image(path) for path in paths])
    flags = ["--checkpoint", run_folder, "--output", tmp_path / "video", video, "--panels"]
    result = run_script("stream.py", *flags, cwd=folder)
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 7
    lines = read_lines(tmp_path / "video")
    assert [line["frame"] for line in lines] == list(range(6))
    assert [line["time"] for line in lines] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    inspector = open_inspector(run_folder / "last.pt", "cpu")
    for line, path in zip(lines, paths, strict=True):
        expected = entry(
            inspector.inspect(read_image(path)), "tile", inspector.calibrations["tile"]
        )
        assert line["source"] == str(video)
        assert line["score"] == pytest.approx(expected["score"], rel=1e-6)
        assert line["verdict"] == expected["verdict"]
        assert line["milliseconds"] > 0
    panels = [Path(line["panel"]) for line in lines if line["verdict"] == "defect"]
    assert set(panels) == set((tmp_path / "video").rglob("*.png"))


def test_colours_of_a_video_are_not_swapped(tmp_path):
    red = gray(0)
    red[..., 0] = 200
    videos = Videos([str(write_video(tmp_path / "red.avi", [red]))])
    videos.open()
    (frame,) = videos.frames(threading.Event())
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
    (first,) = Path("out").glob("*.jsonl")
    text = first.read_text()
    _, (line,), _, _ = run(video, "--video", video, "--panels")
    assert video.read_bytes() == original
    assert first.read_text() == text
    assert line["panel"] == str(Path(f"out/verdicts-{date.today()}-0002/000001.png"))
    assert {path.name for path in tmp_path.glob("*.avi")} == {
        "line.avi", "line-2.avi", "line-3.avi"
    }  # fmt: skip


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
    assert [path.suffix for path in Path("out").iterdir()] == [".jsonl"]  # no defect, no panel


@pytest.mark.skipif(os.name != "posix", reason="makes names of odd bytes")
def test_a_video_whose_name_is_not_utf8_is_reported(run, tmp_path):
    write_video(tmp_path / "größe.avi", [gray(20)])
    (tmp_path / os.fsdecode(b"\xe9.avi")).write_text("no video")  # OpenCV would crash
    process = start(tmp_path, "*.avi", env=os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"})
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    verdicts = [line.get("verdict") for line in read_lines(tmp_path / "out")]
    assert sorted(map(str, verdicts)) == ["None", "good"]
    assert "rename" in err
    with pytest.raises(UserError, match="rename"):
        run("größe.avi", "--video", os.fsdecode(b"\xe8.avi"))


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
import SCRIPT
from brightness import Brightness
from streams import loop
from utils.errors import run_script

MODULE.open_run = lambda *_: (Path("fake.onnx"), Brightness())
"""

ENDLESS = """
import numpy as np
from streams.source import Frame

class Endless(loop.Watch):
    def frames(self, stopping):
        for number in itertools.count():
            yield Frame("endless", {"frame": number}, np.full((64, 64, 3), number % 100, np.uint8))

loop.Watch = Endless
"""

LIGHT = """
say = MODULE.say

def say_and_tell(*arguments):
    verdict = say(*arguments)
    print([name for name in ("torch", "scipy", "matplotlib", "cv2") if name in sys.modules])
    return verdict

MODULE.say = say_and_tell
"""


def start(tmp_path, *arguments, changes="", script="stream", env=None):
    """Start stream.py, or another script, with `Brightness` and other changes."""
    text = (BRIGHT + changes + "run_script(SCRIPT.main)").replace("SCRIPT", script)
    text = text.replace("MODULE", "loop" if script == "stream" else script)
    quick = QUICK[1:] if script == "stream" else []
    return subprocess.Popen(
        [sys.executable, "-c", text, *quick, *map(str, arguments)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=env,
    )  # fmt: skip


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_stream_is_complete(tmp_path, number):
    pytest.importorskip("cv2")
    process = start(tmp_path, "--watch", ".", "--video", "seen.mp4", changes=ENDLESS)
    for _ in range(20):
        assert process.stdout.readline().startswith("good")
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    lines = read_lines(tmp_path / "out")
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
    lines = read_lines(tmp_path / "out")
    assert [Path(line["path"]).name for line in lines] == ["b.png", "a.png", "c.png"]
    assert all(line["source"] == str(folder) and line["time"].count(":") >= 2 for line in lines)
    assert Image.open(tmp_path / lines[1]["panel"]).size[0] > 500


# One clear line, and a quick start


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "one of these"),
        (["line.mp4", "--watch", "."], "one of these"),
        (["line.mp4", "part.png"], "part.png is no video"),
        (["rtsp://me:secret@cam/a.mp4"], r"^rtsp://me:\*\*\*@cam/a.mp4 is no file; .*--camera"),
        (["--watch", "smb://me:secret@nas/a"], r"no folder at smb:/me:\*\*\*@nas/a"),
        (["--watch", ""], "--watch: is empty"),
        (["--watch="], "--watch: is empty"),
        (["--watch", ".", "--data-root", ""], "data.root is .. but"),
        (["--watch", ".", "--video", ""], "--video: is empty"),
        ([""], "an empty name is no video"),
        (["nope*.mp4"], r"no video matches nope\*\.mp4"),
        (["--watch", ".", "--settle", "-1"], "--settle must be 0 or more"),
        (["--camera", "0", "--resolution", "1080p"], "such as 1920x1080"),
        (["--camera", "0", "--fps", "0"], "--fps above 0"),
        (["--watch", ".", "--checkpoint", "smb://me:secret@nas/a"], r"smb:/me:\*\*\*@nas/a"),
        (["--watch", ".", "--video", "smb://me:secret@nas/a"], r"smb:/me:\*\*\*@nas/a"),
        (["--camera", "line.mp4"], "is a file; name videos without --camera"),
        (["line.mp4", "--frames", "0"], "--frames"),
        (["--watch", "gone"], "no folder at gone"),
        (["--watch", ".", "--watch", "./"], "more than once"),
        (["--watch", ".", "--watch", "out", "--video", "seen.mp4"], "--video takes one source"),
        (["--watch", ".", "--threshold", "1", "--threshold", "2"], "once for all"),
        (["--watch", ".", "--threshold", "nan"], "should be a number"),
        (["--watch", ".", "--video", "seen.gif"], "name it .mp4 or .avi"),
        (["--watch", ".", "--webhook", "ftp://host/x"], "http://host/path"),
        (["--watch", ".", "--webhook", "http://a b/"], "http://host/path"),
        (["--watch", ".", "--webhook", "http://me:secret@a..b/"], r"http://me:\*\*\*@a..b/"),
        (["--watch", ".", "--mqtt", "mqtt://host"], "topic"),
        (["--watch", ".", "--mqtt", "mqtt://host/" + "t" * 70_000], "topic of --mqtt is longer"),
    ],
)
def test_what_cannot_be_is_one_line(run, arguments, words):
    Path("line.mp4").touch()
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
        need("nowhere")


def test_nothing_heavy_is_imported_before_the_first_verdict(tmp_path):
    save(tmp_path / "part.png", 200)
    for script, arguments in {
        "stream": ["--watch", ".", "--frames", 1],
        "infer": ["part.png", "--output", "new"],
    }.items():
        process = start(tmp_path, *arguments, changes=LIGHT, script=script)
        out, err = process.communicate(timeout=60)
        verdict, imported, _ = out.splitlines()
        assert verdict.startswith("DEFECT"), err
        assert imported == "[]"


# Several sources


def test_several_sources_have_their_own_lines_and_thresholds(run, tmp_path):
    for name in ("a", "b"):
        Path(name).mkdir()
        for number in range(2):
            save(tmp_path / name / f"{number}.png", 100)
    thresholds = ["--threshold", 0.3, "--threshold", 0.5]
    flags = ["--watch", "a", "--watch", "b", *thresholds, "--frames", 4, "--heartbeat", "beat.json"]
    status, lines, _, _ = run(*flags)
    assert status == 0
    found = sorted((line["path"], line["verdict"], line["threshold"]) for line in lines)
    assert found == [
        ("a/0.png", "defect", 0.3), ("a/1.png", "defect", 0.3),
        ("b/0.png", "good", 0.5), ("b/1.png", "good", 0.5),
    ]  # fmt: skip


class Made(Source):
    """Frames of a brightness each, with a pause before them; or an error in their place."""

    def __init__(self, name, values, pause=0.0):
        self.name, self.values, self.pause = name, values, pause

    def open(self):
        pass

    def frames(self, stopping):
        for value in self.values:
            stopping.wait(self.pause)
            yield Frame(self.name, {"source": self.name}, gray(value))


def test_a_source_that_hangs_does_not_stop_the_others_nor_the_heartbeat(run, monkeypatch):
    monkeypatch.setattr(Heartbeat.write, "__defaults__", (0.0,))
    hanging = Made("hanging", [0], pause=60)
    made = iter([Made("busy", [10, 200] * 4), hanging, Made("slow", [20] * 2, pause=0.2)])
    monkeypatch.setattr(loop, "Camera", lambda *_: next(made))
    cameras = ["--camera", 0, "--camera", 1, "--camera", 2]
    status, lines, _, _ = run(*cameras, "--frames", 10, "--heartbeat", "run/beat.json")
    assert status == 0
    sources = [line["source"] for line in lines]
    assert (sources.count("busy"), sources.count("slow")) == (8, 2)
    beat = json.loads(Path("run/beat.json").read_text())
    assert beat["sources"]["busy"] | {"last": None} == {
        "frames": 8, "defects": 4, "failures": 0, "last": None
    }  # fmt: skip
    assert beat["sources"]["hanging"]["frames"] == 0


def test_a_heartbeat_takes_no_file_of_a_user(tmp_path):
    file = tmp_path / "beat.json"
    for _ in range(2):  # that of an earlier start is ours
        Heartbeat(file, ["camera"]).write()
    neighbour = tmp_path / "beat.json.tmp"
    neighbour.write_text("mine")
    Heartbeat(file, ["camera"]).write()
    assert neighbour.read_text() == "mine"
    for text in ("{}", '{"sources": 1}', "my sources", '"sources"', ""):
        file.write_text(text)
        with pytest.raises(UserError, match="beat.json is no file of --heartbeat"):
            Heartbeat(file, ["camera"])
        assert file.read_text() == text


def test_a_fault_in_a_source_is_not_swallowed(run, monkeypatch):
    monkeypatch.setattr(loop, "Camera", lambda *_: Made("faulty", [1, "a"]))
    monkeypatch.setattr(sys.modules[__name__], "gray", lambda value: np.full(4, value + 1))
    with pytest.raises(TypeError):
        run("--camera", 0)


def test_drift_is_told_once(run, monkeypatch):
    monkeypatch.setattr(loop, "drift", lambda _: Drift([n / 100 for n in range(100)], 100))
    monkeypatch.setattr(loop, "Camera", lambda *_: Made("camera", [120] * 600))
    _, lines, _, err = run("--camera", 0)
    (line,) = [line for line in lines if "drift" in line]
    assert line["source"] == "camera"
    assert line["drift"]["away"]
    assert len(err.splitlines()) == 1


# Files of verdicts


def test_files_of_verdicts_follow_size_and_day(tmp_path, monkeypatch):
    class Tomorrow(date):
        @classmethod
        def today(cls):
            return date(2999, 1, 1)

    with VerdictLog(tmp_path, mib=100 / 2**20) as log:
        for number in range(4):
            log.next_line()
            log.write({"number": number, "text": "." * 60})
        monkeypatch.setattr(record, "date", Tomorrow)
        log.next_line()
        log.write({"number": 4})
    with VerdictLog(tmp_path, mib=1) as log:
        log.write({"number": 5})
    files = sorted(tmp_path.iterdir())
    assert [path.name[-15:] for path in files[2:]] == [
        "01-01-0001.jsonl"[-15:],
        "01-01-0002.jsonl"[-15:],
    ]
    numbers = [[json.loads(x)["number"] for x in path.read_text().splitlines()] for path in files]
    assert numbers == [[0, 1], [2, 3], [4], [5]]


def test_a_full_disk_stops_nothing(run, tmp_path, monkeypatch):
    for number in range(4):
        save(tmp_path / f"{number}.png", 200)
    _, lines, _, _ = run("--watch", ".", "--frames", 4)
    limit = int(2.5 * len(json.dumps(lines[0])))  # bytes that the disk has space for
    write = LineFile.write

    class Full(io.FileIO):
        def write(self, data):
            fits = max(0, limit - self.tell())
            if not fits:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(data[:fits])

    def write_to_full(lines, text):
        if not isinstance(lines._file, Full):
            lines._file.close()
            lines._file = Full(lines.path, "r+b")
        write(lines, text)

    monkeypatch.setattr(LineFile, "write", write_to_full)
    status, lines, out, err = run("--watch", ".", "--frames", 4, "--again")
    assert status == 1
    assert len(lines) == 2  # read as JSON: whole ones
    assert "4 frames inspected, 4 defective, 0 failed" in out
    assert err.count("No space left on device") == 1


def test_undelivered_alerts_are_an_exit_status(run, tmp_path, monkeypatch):
    monkeypatch.setattr(alerts, "END", 0.2)
    save(tmp_path / "a.png", 200)
    flags = ["--watch", ".", "--frames", 1, "--webhook", "http://me:secret@127.0.0.1:9/x"]
    status, _, _, err = run(*flags)
    assert status == 1
    assert "1 messages not delivered" in err and "secret" not in err


def test_an_odd_frame_is_one_failure(run, monkeypatch):
    odd = ImageError("camera gave a frame of uint16 4x4x3")
    monkeypatch.setattr(sys.modules[__name__], "gray", lambda value: odd if value == 1 else GRAY)
    monkeypatch.setattr(loop, "Camera", lambda *_: Made("camera", [0, 1, 0]))
    status, lines, _, err = run("--camera", 0)
    assert status == 1
    assert ["error" in line for line in lines] == [False, True, False]
    assert err == "FAILED  camera gave a frame of uint16 4x4x3\n"


def test_cameras_that_differ_in_a_password_are_told_apart(run, monkeypatch):
    made = (Made("camera http://h/?token=***", [0]) for _ in range(2))
    monkeypatch.setattr(loop, "Camera", lambda *_: next(made))
    addresses = ["--camera", "http://h/?token=a", "--camera", "http://h/?token=b"]
    run(*addresses, "--heartbeat", "beat.json")
    assert len(json.loads(Path("beat.json").read_text())["sources"]) == 2


@pytest.mark.skipif(os.name != "posix", reason="makes names of odd bytes")
def test_names_of_any_bytes_are_inspected_in_any_locale(tmp_path):
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    for name in (os.fsdecode(b"\xe9.png"), "größe.png"):
        save(folder / name, 200)
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0"}
    flags = ["--watch", folder, "--frames", 2, "--panels", "--heartbeat", "beat.json"]
    process = start(tmp_path, *flags, env=environment)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert "2 frames inspected, 2 defective" in out
    assert len(read_lines(tmp_path / "out")) == 2


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://user:secret@host/live", "rtsp://user:***@host/live"),
        ("cannot open rtsp://user:se/cr@et@host:554/a", "cannot open rtsp://user:***@host:554/a"),
        ("rtsp://host:554/live@2", "rtsp://host:554/live@2"),
        (
            "http://host/x?user=a&password=secret&channel=1",
            "http://host/x?user=a&password=***&channel=1",
        ),
        ("rtsp://user%3Asecret@h", "rtsp://user%3A***@h"),
        ("user:secret@host/x", "user:***@host/x"),
        ("no checkpoint at rtsp:/u:secret@h/x", "no checkpoint at rtsp:/u:***@h/x"),
        *(
            (f"http://h/x?{name}=secret", f"http://h/x?{name}=***")
            for name in ("access_token", "api_key", "auth", "loginpas", "PWD", "odd")
        ),
        ("C:/parts@2/a.png", "C:/parts@2/a.png"),
        ("KEY=VALUE, such as train.lr=3e-4", "KEY=VALUE, such as train.lr=3e-4"),
        ("rtsp://user:123/secret@host/live", "rtsp://user:***@host/live"),
        ("rtsp://user:my secret@host/live", "rtsp://user:***@host/live"),
        ("http://secret@host/x", "http://***@host/x"),
        ("http://h/x?a=1#auth=secret", "http://h/x?a=***#auth=***"),
        ("h/x?api_key=secret&width=3", "h/x?api_key=***&width=3"),
        ("http://h/x?secret", "http://h/x?***"),
        ("location=rtsp://h user-pw=secret ! x", "location=rtsp://h user-pw=*** ! x"),
        (
            "rtsp://h/user=admin_password=secret_channel=1_stream=0.sdp",
            "rtsp://h/user=admin_password=***_channel=1_stream=0.sdp",
        ),
        ("/dev/video0", "/dev/video0"),
        ("no image at photos/line@2?.png", "no image at photos/line@2?.png"),
    ],
)
def test_passwords_are_masked(address, shown):
    assert masked(address) == shown
