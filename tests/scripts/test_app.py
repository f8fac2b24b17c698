"""The page as a browser shows it, and what it is made of.

SCREENSHOT=docs/app.jpg RUN=checkpoints/<run> IMAGE=part.png pytest tests/test_app.py -k screenshot
takes a picture of the page.
"""

import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from brightness import Brightness
from conftest import REPO, assert_one_line, run_script
from PIL import Image

import app
from app import Axis, Detectors, Opened, Result, Shot
from data.images import ImageError, read_image
from data.mvtec import Category, TestImage
from inspection.torch_inspector import TorchInspector
from utils.calibration import calibrate
from utils.errors import UserError

SCORES = [1.0, 1.1, 1.2, 1.3, 2.9871]
CALIBRATION = replace(calibrate(SCORES, SCORES, 0.0, 0.02), threshold=2.9871)


def opened(calibration=CALIBRATION):
    return Opened.of("run", calibration)


# What the page is made of


@pytest.mark.parametrize(
    "scores", [[1.0, 1.5, 3.0], [2.0], [0.0], [-7.0, -6.5], [1e-6, 2e-6], [4e5, 9e5]]
)
def test_the_axis_holds_all_scores_and_room_on_both_sides(scores):
    axis = Axis.around(calibrate(scores, scores, 0.0, 0.02))
    assert axis.low < min(scores) <= max(scores) < axis.high
    assert 100 < (axis.high - axis.low) / axis.slider()["step"] < 100_000
    for score in (axis.low - 5 * abs(axis.low) - 1, axis.high + 5 * abs(axis.high) + 1):
        wider = axis.widened([score])
        assert wider.low < score < wider.high
        assert wider.low <= axis.low and wider.high >= axis.high
    assert axis.widened(scores) == axis
    assert (axis.percent(axis.low), axis.percent(axis.high)) == (0, 100)


def test_the_slider_starts_at_the_calibrated_threshold_to_the_bit():
    run = opened()
    assert run.calibrated == 2.99  # above the threshold, a score of which is good
    assert run.at(run.calibrated) is CALIBRATION
    assert run.at(2.98).threshold == 2.98
    assert run.at(2.98).scores == CALIBRATION.scores


@pytest.mark.parametrize("threshold, called", [(2.9871, 0), (1.2, 2), (0.5, 5), (9.0, 0)])
def test_a_threshold_says_what_it_does_to_good_images(threshold, called):
    moved = opened().at(threshold)
    assert app.effect(moved) == f"{called} of 5 held-out good images would be called defective"
    drawn = app.chart(opened(), threshold)
    heights = {
        kind: sum(map(float, re.findall(rf'<rect class="{kind}"[^>]* height="([\d.]+)"', drawn)))
        for kind in ("above", "below")
    }
    assert heights["above"] / sum(heights.values()) == pytest.approx(called / 5, abs=0.01)


def test_the_chart_marks_threshold_and_image():
    run = opened()
    place = run.axis.percent(1.3)
    for value, kind in ((1.2, "above"), (1.4, "below")):
        drawn = app.chart(run, value, score=1.3)
        assert f'<circle class="score {kind}" cx="{place}%"' in drawn
        assert f">threshold {value}<" in drawn
    assert ">calibrated threshold 2.987<" in app.chart(run, run.calibrated)
    assert "<circle" not in app.chart(run, run.calibrated)


def test_the_verdict_names_the_image_and_runs_nothing_of_its_name():
    shot = Shot("x", "<img onerror=alert(1)>", 2.0)
    assert "<b>good</b>" in app.verdict(opened().at(2.0), shot)
    assert "<b>defect</b>" in app.verdict(opened().at(1.99), shot)
    assert "<img" not in app.verdict(CALIBRATION, shot)
    assert "<img" not in app.message("cannot read <img>")
    assert app.PROMPT in app.verdict(CALIBRATION, Shot())


def test_the_table_of_many_images(tmp_path):
    results = [Result("a.png", 2.0), Result("b,c.png", 3.0), Result("d.txt", None, "no image")]
    table = app.rows(results, opened().at(2.5))
    file = app.write_csv(table, tmp_path)
    assert file != app.write_csv(table, tmp_path)
    with file.open(newline="", encoding="utf-8") as stream:
        assert list(csv.reader(stream)) == [
            ["name", "score", "verdict", "threshold", "error"],
            ["a.png", "2.0", "good", "2.5", ""],
            ["b,c.png", "3.0", "defect", "2.5", ""],
            ["d.txt", "", "", "2.5", "no image"],
        ]
    assert "1 defective, 1 good" in app.summary(table) and "1 failed" in app.summary(table)
    assert 'class="banner error"' in app.summary(table[2:])


def test_examples_are_of_each_kind():
    def images(**counts):
        return [
            TestImage(Path(kind, str(number)), kind, None)
            for kind, count in counts.items()
            for number in range(count)
        ]

    def picked(count, **counts):
        kinds = [image.defect for image in app.pick_examples(images(**counts), count)]
        return {kind: kinds.count(kind) for kind in kinds}

    assert picked(6, good=50, crack=3, oil=3) == {"good": 2, "crack": 2, "oil": 2}
    assert picked(6, good=50, crack=1, oil=3) == {"good": 3, "crack": 1, "oil": 2}
    assert picked(6, good=2) == {"good": 2}


def test_damaged_examples_are_left_out(tmp_path):
    Image.new("RGB", (400, 200)).save(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("no image")
    images = [TestImage(tmp_path / name, "good", None) for name in ("a.png", "b.png")]
    ((example, picture),) = app.thumbnails(images)
    assert example is images[0] and picture.size == (192, 96)


def test_runs_to_choose_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("old/last.pt", "new/last.pt", "new/new.onnx", "new/.part.onnx")):
        file = Path("checkpoints", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
        os.utime(file, (number, number))
    assert app.list_runs(Path("checkpoints/old/last.pt").resolve()) == [
        ("old", "checkpoints/old/last.pt"),
        ("new.onnx", "checkpoints/new/new.onnx"),
        ("new", "checkpoints/new/last.pt"),
    ]


def test_the_error_of_an_upload_tells_no_path(tmp_path):
    file = tmp_path / "part.png"
    file.write_text("no image")
    with pytest.raises(ImageError, match=r"^cannot read part\.png: no image, or a damaged one$"):
        app.read_upload(file)


def test_a_detector_is_opened_once_and_again_if_its_file_changes(tmp_path, monkeypatch):
    opens = []
    monkeypatch.setattr(app, "open_inspector", lambda *args: opens.append(args) or Brightness())
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file in files:
        file.touch()
    detectors = Detectors("cpu")
    image = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(image)
    for _ in range(3):
        detectors.open(str(files[0]))
        detectors.inspect(str(files[0]), image)
    assert opens == [(files[0], "cpu")]
    os.utime(files[0], (1, 1))
    detectors.inspect(str(files[0]), image)
    detectors.inspect(str(files[1]), image)
    assert [file for file, _ in opens] == [files[0], files[0], files[1]]
    with pytest.raises(UserError, match="no checkpoint at"):
        detectors.open(str(tmp_path / "none"))


def test_one_image_at_a_time(tmp_path, monkeypatch):
    class Slow(Brightness):
        inside = most = 0

        def predict(self, images):
            Slow.inside += 1
            Slow.most = max(Slow.most, Slow.inside)
            time.sleep(0.02)
            Slow.inside -= 1
            return super().predict(images)

    monkeypatch.setattr(app, "open_inspector", lambda *_: Slow())
    (tmp_path / "a.onnx").touch()
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    detectors = Detectors("cpu")
    threads = [
        threading.Thread(
            target=detectors.inspect,
            args=(str(tmp_path / "a.onnx"), tmp_path / "image.png"),
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Slow.most == 1


# The command line


@pytest.mark.parametrize("flag", [("--max-upload-mb", 0), ("--port", 0), ("--port", 70000)])
def test_flags_out_of_range(flag, tmp_path):
    result = run_script("app.py", *flag, cwd=tmp_path)
    assert result.returncode == 2 and flag[0] in result.stderr.splitlines()[-1]


def test_no_run(tmp_path):
    assert_one_line(run_script("app.py", cwd=tmp_path), "no run in", "python train.py")


def test_gradio_is_not_installed(trained, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Hidden:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'gradio':\n"
        "            raise ModuleNotFoundError(name=name)\n"
        "sys.meta_path.insert(0, Hidden())\n"
    )
    result = subprocess.run(
        [sys.executable, str(REPO / "app.py")],
        cwd=trained[0],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert_one_line(result, "gradio", "pip install -r requirements-deploy.txt")


# The page in a browser

WATCH = """
import os, sys
def watch(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple):
        print(args[1][0], file=log)
    if event == "socket.getaddrinfo" and args[0]:
        print(args[0] if isinstance(args[0], str) else args[0].decode(), file=log)
log = open(os.environ["WATCH"], "a", buffering=1)
sys.addaudithook(watch)
"""
"""A sitecustomize.py that notes which hosts the process looks up or connects to."""


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(folder, *flags):
    """Runs app.py there until the end of the block; gives (address, process, hosts, temporary).

    hosts: file with the hosts that the server turned to. temporary: folder for temporary files.
    """
    pytest.importorskip("gradio", reason="gradio is not installed")
    with tempfile.TemporaryDirectory() as scratch:
        hosts, temporary = Path(scratch, "hosts"), Path(scratch, "temporary")
        temporary.mkdir()
        Path(scratch, "sitecustomize.py").write_text(WATCH)
        process = subprocess.Popen(
            [sys.executable, str(REPO / "app.py"), "--port", str(free_port()), *map(str, flags)],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": scratch, "WATCH": str(hosts), "TMPDIR": str(temporary)},
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            line = process.stdout.readline()  # none if it ends
            assert line.startswith("http://"), line
            yield line.split()[0], process, hosts, temporary
        finally:
            process.terminate()
            process.wait(20)
            process.stdout.close()


@contextmanager
def browsing(downloads, width=1280, height=950):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    names = ("chromium", "chromium-browser", "google-chrome")
    browser = next(filter(None, map(shutil.which, names)), None)
    driver = shutil.which("chromedriver")
    if not browser or not driver:
        pytest.skip("chromium or chromedriver is not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--hide-scrollbars",
        "--no-proxy-server",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
    ):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    try:
        resize(chrome, width, height)
        yield chrome
    finally:
        chrome.quit()


def resize(chrome, width, height):
    chrome.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
    )


class Page:
    """What a user does on the page, and sees."""

    def __init__(self, chrome, address, downloads):
        self.chrome, self.address, self.downloads = chrome, address, downloads

    def open(self):
        self.chrome.get(self.address)
        return self.wait_for("scores", "held-out good images")

    def find(self, selector):
        return self.chrome.find_elements("css selector", selector)

    def text(self, name):
        return " ".join(" ".join(element.text for element in self.find(f"#{name}")).split())

    def wait(self, condition, seconds=20):
        """Until the condition holds; gives its value."""
        from selenium.webdriver.support.wait import WebDriverWait

        return WebDriverWait(self.chrome, seconds, 0.05).until(lambda _: condition())

    def wait_for(self, name, *words):
        """Until an element shows all the words; gives its text."""
        try:
            self.wait(lambda: all(word in self.text(name) for word in words))
        except Exception:
            pytest.fail(f"#{name} shows {self.text(name)!r} and not {words}")
        return self.text(name)

    def upload(self, *files, to="upload"):
        box = self.wait(lambda: self.find(f"#{to} input[type=file]"))[0]
        box.send_keys("\n".join(map(str, files)))

    def tab(self, name):
        for button in self.find("button[role=tab]"):
            if button.text == name:
                return button.click()
        raise AssertionError(f"no tab {name}")

    def slide(self, key):
        from selenium.webdriver.common.keys import Keys

        self.find("#threshold input[type=range]")[0].send_keys(getattr(Keys, key))

    def choose(self, run, keyboard=False):
        box = self.find("#run input")[0]
        box.click()
        options = self.wait(lambda: self.find("[role=option]"))
        if keyboard:
            from selenium.webdriver.common.keys import Keys

            while self.find("[role=option].active")[0].get_attribute("aria-label") != run:
                box.send_keys(Keys.ARROW_UP)
                time.sleep(0.1)
            box.send_keys(Keys.ENTER)
        else:
            next(option for option in options if option.get_attribute("aria-label") == run).click()

    def hosts(self):
        """Hosts that the page turned to."""
        urls = [
            message["params"]["request"]["url"]
            for entry in self.chrome.get_log("performance")
            if (message := json.loads(entry["message"])["message"])["method"]
            == "Network.requestWillBeSent"
        ]
        return {urlsplit(url).hostname for url in urls if url.startswith(("http", "ws"))}


@pytest.fixture(scope="module")
def work(trained, tmp_path_factory):
    """A working folder with a finished run, a damaged one and one that is not finished."""
    folder = tmp_path_factory.mktemp("app")
    runs = folder / "checkpoints"
    shutil.copytree(trained[1], runs / "finished")
    (runs / "damaged").mkdir()
    (runs / "damaged" / "last.pt").write_bytes((trained[1] / "last.pt").read_bytes()[:5000])
    content = torch.load(trained[1] / "last.pt", weights_only=True)
    content["calibration"] = None
    (runs / "unfinished").mkdir()
    torch.save(content, runs / "unfinished" / "last.pt")
    return folder


@pytest.fixture(scope="module")
def server(work):
    with serving(work, "--checkpoint", "checkpoints/finished", "--max-upload-mb", 1) as started:
        yield started


@pytest.fixture(scope="module")
def chrome(tmp_path_factory):
    downloads = tmp_path_factory.mktemp("downloads")
    with browsing(downloads) as chrome:
        yield chrome, downloads


@pytest.fixture
def page(server, chrome):
    page = Page(chrome[0], server[0], chrome[1])
    page.open()
    page.wait_for("verdict", app.PROMPT)
    return page


@pytest.fixture(scope="module")
def expected(work):
    """The score of an image file, without the page."""
    inspector = TorchInspector(work / "checkpoints" / "finished" / "last.pt", "cpu")
    return lambda file: inspector.inspect(read_image(file)).score


@pytest.fixture(scope="module")
def parts(dataset):
    """Good and defective images of the test split."""
    images = Category(dataset, "tile").test_images()
    return [image.path for image in images]


def claims_pixels(path, width, height):
    """A small png whose header claims any number of pixels."""
    stream = io.BytesIO()
    Image.new("1", (8, 8)).save(stream, "png")
    data = bytearray(stream.getvalue())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)
    return path


def test_an_image_gets_its_verdict(page, parts, expected):
    page.upload(parts[-1])
    score = f"{expected(parts[-1]):.4g}"
    page.wait_for("verdict", f"score {score}", parts[-1].name)
    page.wait_for("scores", f"this image {score}")
    for caption in app.CAPTIONS:  # the U-Net reconstructs
        picture = page.wait(lambda name=caption: page.find(f"#{name} img"))[0]
        page.wait(lambda shown=picture: shown.get_property("naturalWidth") == app.PICTURE)
    page.wait(lambda: not page.find("#upload a"))  # there is room for the next one


def test_the_slider_changes_the_verdict_without_the_detector(page, parts, work):
    page.upload(parts[0])
    page.wait_for("verdict", "score")
    file = work / "checkpoints" / "finished" / "last.pt"
    content, stat = file.read_bytes(), file.stat()
    file.unlink()  # whatever would open the run or check on it fails
    try:
        page.slide("HOME")
        page.wait_for("verdict", "defect", "above the threshold")
        page.wait_for("scores", "1 of 1 held-out good images would be called defective")
        page.slide("END")
        page.wait_for("verdict", "good", "not above the threshold")
        page.wait_for("scores", "0 of 1 held-out good images would be called defective")
        page.find("#reset")[0].click()
        page.wait_for("scores", "calibrated threshold")
    finally:
        file.write_bytes(content)
        os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def test_what_is_no_image_gives_a_message_and_the_page_lives_on(page, parts, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(parts[0].read_bytes()[:3000])
    bomb = claims_pixels(tmp_path / "bomb.png", 15_000, 15_000)
    for file, reason in ((text, "no image"), (damaged, ""), (bomb, "178 million pixels")):
        page.upload(file)
        shown = page.wait_for("verdict", f"cannot read {file.name}", reason)
        assert str(tempfile.gettempdir()) not in shown
        assert not page.find("#overlay img")
        page.upload(parts[0])
        page.wait_for("verdict", "score", parts[0].name)
        page.wait(lambda: page.find("#overlay img"))


def test_a_file_beyond_the_limit_gives_a_message(page, parts, tmp_path):
    large = tmp_path / "large.png"
    large.write_bytes(os.urandom(1_100_000))
    page.upload(large)
    page.wait(lambda: "exceed the maximum allowed size of 1" in page.find("body")[0].text)
    page.open()
    page.upload(parts[0])
    page.wait_for("verdict", "score", parts[0].name)


def test_an_example_is_inspected(page, expected, parts):
    kinds = [element.text for element in page.wait(lambda: page.find("#examples .caption-label"))]
    assert set(kinds) == {"good", "crack", "glue_strip", "gray_stroke", "oil", "rough"}
    page.find("#examples button.thumbnail-item")[kinds.index("oil")].click()
    (first, _) = (path for path in parts if path.parent.name == "oil")
    page.wait_for("verdict", f"score {expected(first):.4g}", f"oil/{first.name}")


def test_the_webcam_takes_an_image(page):
    page.tab("Webcam")
    page.wait(lambda: [b for b in page.find("#webcam button") if "Access" in b.text])[0].click()
    video = page.wait(lambda: page.find("#webcam video"))[0]
    page.wait(lambda: video.get_property("readyState") >= 2 and video.get_property("videoWidth"))
    page.wait(lambda: page.find("#webcam button.capture-button"))[0].click()
    page.wait_for("verdict", "score", "webcam")


def test_many_images_give_a_table_and_a_csv(page, parts, expected, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    page.tab("Many images")
    page.upload(*parts[:3], text, to="files")
    page.wait_for("summary", "1 failed")
    for words, key in (("3 defective, 0 good", "HOME"), ("0 defective, 3 good", "END")):
        # The axis may still grow to hold the scores, which moves its ends.
        page.wait(lambda key=key, words=words: page.slide(key) or words in page.text("summary"))
        time.sleep(1)  # the table and the file come together with the summary
        threshold = float(page.text("summary").split()[-1])
        file = page.downloads / "verdicts.csv"
        file.unlink(missing_ok=True)
        page.find("#csv")[0].click()
        page.wait(file.exists)
        with file.open(newline="") as stream:
            lines = list(csv.DictReader(stream))
        assert [line["name"] for line in lines] == [path.name for path in [*parts[:3], text]]
        for path, line in zip(parts, lines[:3], strict=False):
            assert float(line["score"]) == pytest.approx(expected(path), rel=1e-6)
            assert line["verdict"] == ("defect" if key == "HOME" else "good")
            assert float(line["threshold"]) == pytest.approx(threshold, rel=1e-3)
            assert not line["error"]
        assert lines[3]["error"] == "cannot read notes.txt: no image, or a damaged one"
        assert not lines[3]["verdict"] and not lines[3]["score"]


def test_runs_that_do_not_open_give_a_message(page, parts):
    page.upload(parts[0])
    before = page.wait_for("verdict", "score")
    for run, words in (("damaged", "damaged"), ("unfinished", "--resume")):
        page.choose(run)
        page.wait_for("scores", words)
        page.wait_for("verdict", app.NO_RUN)
    page.choose("finished", keyboard=True)  # the image is still there
    page.wait_for("scores", "held-out good images")
    assert page.wait_for("verdict", "score") == before


def test_a_phone_shows_the_page_without_scrolling_sideways(page, parts):
    page.upload(parts[0])
    page.wait_for("verdict", "score")
    try:
        resize(page.chrome, 390, 844)
        width = page.wait(
            lambda: page.chrome.execute_script("return document.documentElement.scrollWidth")
        )
        assert width <= 390
    finally:
        resize(page.chrome, 1280, 950)


def test_nothing_leaves_this_machine(page, server, parts):
    page.chrome.get_log("performance")  # that of other tests
    page.open()
    page.upload(parts[0])
    page.wait_for("verdict", "score")
    time.sleep(2)
    assert page.hosts() == {"127.0.0.1"}
    loaded = page.chrome.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert {urlsplit(url).hostname for url in loaded if url.startswith("http")} == {"127.0.0.1"}
    turned_to = set(server[2].read_text().split())  # Gradio asks itself whether it runs
    assert turned_to == {"127.0.0.1"}


def test_only_loopback_listens(server):
    port = urlsplit(server[0]).port
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing; tells which address would be used
        except OSError:
            pytest.skip("this machine has no other address")
        address = probe.getsockname()[0]
    with pytest.raises(OSError):
        socket.create_connection((address, port), timeout=5).close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_end_takes_the_uploads_with_it(work, number):
    with serving(work) as (address, process, _, temporary):
        assert list(temporary.iterdir())
        process.send_signal(number)
        assert process.wait(20) == 0
        assert not list(temporary.glob("defects-*"))


def test_a_port_that_is_taken(work, server):
    result = run_script("app.py", "--port", urlsplit(server[0]).port, cwd=work)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    # Above it stands which of the runs there were passed over.
    assert str(urlsplit(server[0]).port) in result.stderr.splitlines()[-1]


@pytest.mark.skipif("SCREENSHOT" not in os.environ, reason="SCREENSHOT names no file")
def test_screenshot(trained, parts, tmp_path):
    run = Path(os.environ.get("RUN", trained[1])).resolve()
    image = Path(os.environ.get("IMAGE", parts[-1])).resolve()
    width = int(os.environ.get("WIDTH", 1280))
    with (
        serving(run.parent.parent, "--checkpoint", run) as (address, *_),
        browsing(tmp_path, width) as chrome,
    ):
        page = Page(chrome, address, tmp_path)
        page.open()
        page.upload(image)
        page.wait_for("verdict", "score")
        page.wait(lambda: page.find("#overlay img"))
        time.sleep(2)  # animations
        height = chrome.execute_script("return document.documentElement.scrollHeight")
        resize(chrome, width, height)
        time.sleep(1)
        picture = Image.open(io.BytesIO(chrome.get_screenshot_as_png())).convert("RGB")
    picture.save(os.environ["SCREENSHOT"], quality=85)
