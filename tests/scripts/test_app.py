"""The page as a browser shows it, and what it is made of.

SCREENSHOT=docs/app.jpg RUN=checkpoints/<run> IMAGE=part.png pytest tests/scripts -k screenshot
takes a picture of the page.
"""

import argparse
import csv
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zlib
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import torch
from brightness import Brightness
from conftest import REPO
from PIL import Image

pytest.importorskip("gradio", reason="gradio is not installed")

import app
from data.images import ImageError, read_image
from data.mvtec import Category, TestImage
from data.region import read_marked
from demo import detectors
from demo import server as demo_server
from demo.detectors import Detectors
from demo.page import NO_RUN, PICTURE, PROMPT, Page, Shot
from demo.server import OwnHosts, is_local, read_account
from demo.threshold import Result, Scale, describe, effect, histogram, verdicts
from inspection.threshold import Calibration
from inspection.torch_inspector import TorchInspector
from training.checkpoint import load_checkpoint
from training.folders import FINISHED
from utils.config import load_config, write_config
from utils.errors import UserError


def calibration(scores, threshold=None):
    return Calibration(
        threshold=max(scores) if threshold is None else threshold,
        median=sorted(scores)[len(scores) // 2],
        pixel_threshold=1.0,
        low=0.0,
        high=2.0,
        false_alarms=0.02,
        scores=scores,
        peaks=scores,
        independent=len(scores),
    )


CALIBRATION = calibration([1.0, 1.1, 1.2, 1.3, 2.9871])


# What the page is made of


@pytest.mark.parametrize(
    "scores", [[1.0, 1.5, 3.0], [2.0], [0.0], [-7.0, -6.5], [1e-6, 2e-6], [4e5, 9e5]]
)
def test_the_slider_holds_all_scores_and_room_on_both_sides(scores):
    scale = Scale(calibration(scores))
    slider = scale.slider()
    low, high = slider["minimum"], slider["maximum"]
    assert low < min(scores) <= max(scores) < high
    assert 100 < (high - low) / slider["step"] < 100_000
    for score in (low - 5 * abs(low) - 1, high + 5 * abs(high) + 1):
        wider = scale.slider([score])
        assert wider["minimum"] < score < wider["maximum"]
        assert wider["minimum"] <= low and wider["maximum"] >= high
    assert scale.slider(scores) == slider


def test_the_slider_starts_at_the_runs_threshold_to_the_bit():
    scale = Scale(CALIBRATION)
    assert scale.own == 2.99  # above the threshold, a score of which is good
    assert scale.at(scale.own) is CALIBRATION
    assert scale.at(2.98).threshold == 2.98
    assert scale.at(2.98).scores == CALIBRATION.scores


@pytest.mark.parametrize("threshold, called", [(2.99, 0), (1.2, 2), (0.5, 5), (9.0, 0)])
def test_a_threshold_says_and_shows_what_it_does_to_good_images(threshold, called):
    moved = Scale(CALIBRATION).at(threshold)
    words = f": {called} of 5 good images would be called defective"
    assert effect(moved, is_own=False).endswith(words)
    drawn = histogram(moved, 1.25).groupby("kind")["images"].sum()
    assert drawn.to_dict() == {
        "good": 5 - called,
        "good, called defective": called,
        "this image": 1,
    }


def test_a_threshold_says_where_it_comes_from():
    by_hand = CALIBRATION.with_threshold(2.0)
    assert effect(CALIBRATION, is_own=True).startswith("Calibrated threshold 2.987:")
    assert effect(by_hand, is_own=True).startswith("Threshold set by hand 2:")
    assert effect(by_hand, is_own=False).startswith("Threshold on trial 2:")


def test_the_verdict_gives_score_threshold_and_severity():
    good, defect = (
        describe(CALIBRATION.with_threshold(threshold), 2.0) for threshold in (2.0, 1.9)
    )
    assert good == "good: score 2, not above the threshold 2; severity 1"
    assert defect.startswith("defect: score 2, above the threshold 1.9; severity 1.1")


def test_the_table_of_many_images():
    results = [Result("a.png", 2.0), Result("b,c.png", 3.0), Result("d.txt", None, "no image")]
    moved = CALIBRATION.with_threshold(2.5)
    table = verdicts(results, moved)
    first, second = (str(moved.severity(score)) for score in (2.0, 3.0))
    assert list(csv.reader(io.StringIO(table.to_csv(index=False)))) == [
        ["name", "score", "severity", "verdict", "threshold", "error"],
        ["a.png", "2.0", first, "good", "2.5", ""],
        ["b,c.png", "3.0", second, "defect", "2.5", ""],
        ["d.txt", "", "", "", "2.5", "no image"],
    ]


def test_examples_are_of_each_kind():
    def images(**counts):
        return [
            TestImage(Path(kind, str(number)), kind, None)
            for kind, count in counts.items()
            for number in range(count)
        ]

    def picked(count, **counts):
        kinds = [image.defect for image in detectors.pick_examples(images(**counts), count)]
        return {kind: kinds.count(kind) for kind in kinds}

    assert picked(6, good=50, crack=3, oil=3) == {"good": 2, "crack": 2, "oil": 2}
    assert picked(6, good=50, crack=1, oil=3) == {"good": 2, "crack": 1, "oil": 2}
    assert picked(2, good=5, crack=1, oil=3) == {"good": 1, "crack": 1}
    assert picked(6) == {}


def test_damaged_examples_are_excluded(tmp_path):
    good = tmp_path / "tile" / "test" / "good"
    good.mkdir(parents=True)
    Image.new("RGB", (400, 200)).save(good / "a.png")
    (good / "b.png").write_text("no image")
    data = Brightness.config.data
    ((example, picture),) = detectors.thumbnails(
        data.model_copy(update={"root": str(tmp_path)}), "tile"
    )
    assert example.path == good / "a.png" and picture.size == (192, 96)
    assert not detectors.thumbnails(
        data.model_copy(update={"root": str(tmp_path / "none")}), "tile"
    )


def test_runs_to_choose_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(
        ("old/last.pt", "new/last.pt", "new/new.onnx", "new/.part.onnx", "none/last.pt")
    ):
        file = Path("checkpoints", name)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_config(load_config(), file.with_name("config.yaml"))
        file.touch()
        os.utime(file, (number, number))
    Path("checkpoints/none/config.yaml").write_text("no: setting")
    for name in ("gone.onnx", "last.pt"):  # of a disk that is not there
        link = Path("checkpoints", "gone", name)
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(tmp_path / "nowhere")
    (Path("checkpoints", "gone") / "config.yaml").touch()
    Path("checkpoints/none/config.yaml").write_text("no: setting")
    old, new = "checkpoints/old/last.pt", "checkpoints/new/last.pt"
    Path(old).with_name(FINISHED).touch()  # the page starts with a run that can be used
    export, others = ("new.onnx", "checkpoints/new/new.onnx"), [("old", old), ("new", new)]
    assert detectors.list_runs() == [export, *others]
    assert detectors.list_runs(Path(new).resolve()) == [("new", new), export, ("old", old)]


def test_the_error_of_an_upload_tells_no_path(tmp_path, monkeypatch):
    monkeypatch.setattr(detectors, "open_inspector", lambda *_: Brightness())
    for name in ("part.png", "a.onnx"):
        (tmp_path / name).write_text("no image")
    with pytest.raises(ImageError, match=r"^cannot read part\.png: no image, or a damaged one$"):
        Detectors("cpu").inspect(str(tmp_path / "a.onnx"), tmp_path / "part.png")


def test_a_detector_is_opened_once_and_again_if_its_file_changes(tmp_path, monkeypatch):
    opens = []
    monkeypatch.setattr(
        detectors, "open_inspector", lambda *args: opens.append(args) or Brightness()
    )
    files = [tmp_path / "a.onnx", tmp_path / "b.onnx"]
    for file in files:
        file.touch()
    opener = Detectors("cpu")
    image = tmp_path / "image.png"
    Image.new("RGB", (8, 8)).save(image)
    for _ in range(3):
        opener.open(str(files[0]))
        opener.inspect(str(files[0]), image)
    assert opens == [(files[0], "cpu")]
    os.utime(files[0], (1, 1))
    opener.inspect(str(files[0]), image)
    opener.inspect(str(files[1]), image)
    assert [file for file, _ in opens] == [files[0], files[0], files[1]]
    with pytest.raises(UserError, match="no checkpoint at"):
        opener.open(str(tmp_path / "none"))


def test_a_run_of_several_categories_is_opened_for_one_of_them(tmp_path, monkeypatch):
    class Both(Brightness):
        calibrations = {"bolt": calibration([1.0, 2.0]), "tile": calibration([3.0, 4.0])}

    monkeypatch.setattr(detectors, "open_inspector", lambda *_: Both())
    (tmp_path / "a.onnx").touch()
    run = str(tmp_path / "a.onnx")
    page = Page(Detectors("cpu"), tmp_path / "a.onnx", tmp_path, lambda _: True)
    for named, category in {None: "bolt", "tile": "tile", "gone": "bolt"}.items():
        shown = page.open_run(run, named, Shot())
        assert shown[page.opened].scale.calibration is Both.calibrations[category]
        list_of_them = shown[page.category]
        assert (list_of_them["value"], list_of_them["visible"]) == (category, True)


def test_one_image_at_a_time(tmp_path, monkeypatch):
    class Slow(Brightness):
        inside = most = 0

        def predict(self, images):
            Slow.inside += 1
            Slow.most = max(Slow.most, Slow.inside)
            time.sleep(0.02)
            Slow.inside -= 1
            return super().predict(images)

    monkeypatch.setattr(detectors, "open_inspector", lambda *_: Slow())
    (tmp_path / "a.onnx").touch()
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    opener = Detectors("cpu")
    threads = [
        threading.Thread(
            target=opener.inspect,
            args=(str(tmp_path / "a.onnx"), tmp_path / "image.png"),
        )
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Slow.most == 1


def test_uploads_of_a_killed_server_go_at_the_next_start(tmp_path):
    code = (
        "from demo.server import upload_folder\n"
        "with upload_folder() as folder:\n"
        "    (folder / 'upload').touch()\n"
        "    print(flush=True); input()"
    )

    @contextmanager
    def started():
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=REPO,
            env=os.environ | {"TMPDIR": str(tmp_path)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with process:
            process.stdout.readline()
            yield process

    def folders():
        return set(tmp_path.iterdir())

    with started() as killed:
        killed.kill()
    (left,) = folders()
    with started() as living:
        assert left not in folders() and len(folders()) == 1
        with started() as second:
            assert len(folders()) == 2  # that of a living process stays
            second.communicate(b"\n")
        living.communicate(b"\n")
    assert not folders()


# Who may use it


@pytest.mark.parametrize(
    "host, public, called, origin, admitted",
    [
        ("127.0.0.1", "", "127.0.0.1:7860", None, True),
        ("127.0.0.1", "", "LOCALHOST:7860", "http://localhost:7860", True),
        ("::1", "", "[::1]:7860", "http://[::1]:7860", True),
        ("127.0.0.1", "", "evil.example:7860", None, False),
        ("127.0.0.1", "", "192.0.2.1:7860", None, False),
        ("127.0.0.1", "", "[", None, False),
        ("127.0.0.1", "", "", None, False),
        ("127.0.0.1", "", "127.0.0.1:7860", "http://evil.example", False),
        ("127.0.0.1", "", "127.0.0.1:7860", "http://127.0.0.1:3000", False),  # another server
        ("127.0.0.1", "", "127.0.0.1:7860", "null", False),
        ("line4", "", "line4:7860", "http://line4:7860", True),
        ("line4", "", "line5:7860", None, False),
        ("0.0.0.0", "", "192.0.2.1:7860", "http://192.0.2.1:7860", True),
        ("0.0.0.0", "", f"{socket.gethostname()}:7860", None, True),
        ("0.0.0.0", "", "evil.example:7860", None, False),
        ("0.0.0.0", "", "192.0.2.1:7860", "http://192.0.2.2", False),
        ("127.0.0.1", "https://parts.example/demo", "parts.example", None, True),
        ("127.0.0.1", "https://parts.example/demo", "localhost", "https://parts.example", True),
        ("127.0.0.1", "https://parts.example/demo", "localhost", "https://evil.example", False),
    ],
)
def test_only_its_own_hosts_and_pages_are_answered(host, public, called, origin, admitted):
    headers = {"host": called} | ({} if origin is None else {"origin": origin})
    assert OwnHosts(None, host, public).admits(headers) == admitted


def test_what_is_local():
    assert is_local({"host": "localhost:7860"}, "127.0.0.1")
    assert is_local({"host": "[::1]:7860"}, "::1")
    assert not is_local({"host": "192.0.2.1:7860"}, "192.0.2.7")
    assert not is_local({"host": "parts.example"}, "127.0.0.1")
    assert not is_local({"host": "localhost", "x-forwarded-for": "192.0.2.7"}, "127.0.0.1")


def test_an_account(tmp_path):
    file = tmp_path / "password"
    file.write_text("secret:1\nmore\n")
    assert read_account(f"bob:{file}") == ("bob", "secret:1")
    file.write_text("\n")
    for text, words in (
        ("bob", "USER:FILE"),
        ("", "USER:FILE"),
        (f"bob:{file}", "no password"),
        (f"bob:{tmp_path}", "cannot read"),
        ("bob:S3cret", "USER:FILE"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            read_account(text)
        assert "S3cret" not in str(caught.value)


# The command line


def arguments(monkeypatch, *flags):
    monkeypatch.setattr(sys, "argv", ["app.py", *map(str, flags)])
    return app.parse_args()


@pytest.mark.parametrize("flag", [("--max-upload-mb", 0), ("--port", 0), ("--port", 70000)])
def test_flags_out_of_range(flag, monkeypatch):
    with pytest.raises(UserError, match=f"^{flag[0]} must be"):
        arguments(monkeypatch, *flag)


def test_no_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["app.py"])
    with pytest.raises(UserError, match="no run in .* train.py"):
        app.main()


def test_gradio_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gradio", None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    with pytest.raises(UserError, match="gradio.*pip install -r requirements-deploy.txt"):
        demo_server.application(argparse.Namespace(), None, tmp_path)


def test_where_it_cannot_listen():
    with demo_server.listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"--port {port}: Address already in use"):
            demo_server.listen("127.0.0.1", port)
    for host in ("a..b", "192.0.2.1"):
        with pytest.raises(UserError, match=f"--host {host} "):
            demo_server.listen(host, port)


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
            stderr=subprocess.PIPE,
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
            process.stderr.close()


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


class Visit:
    """What a user does on the page, and sees."""

    def __init__(self, chrome, address, downloads):
        self.chrome, self.address, self.downloads = chrome, address, downloads

    def open(self):
        self.chrome.get(self.address)
        return self.wait_for("effect", "good images")

    def find(self, selector):
        return self.chrome.find_elements("css selector", selector)

    def text(self, name):
        return " ".join(" ".join(element.text for element in self.find(f"#{name}")).split())

    def wait(self, condition, seconds=60):
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
    for name in ("damaged", "unfinished"):
        (runs / name).mkdir()
        shutil.copy(trained[1] / "config.yaml", runs / name)
    (runs / "damaged" / "last.pt").write_bytes((trained[1] / "last.pt").read_bytes()[:5000])
    content = torch.load(trained[1] / "last.pt", weights_only=True)
    content["calibrations"] = {}
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
    page = Visit(chrome[0], server[0], chrome[1])
    page.open()
    page.wait_for("verdict", PROMPT)
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
    page.wait_for("verdict", f"score {expected(parts[-1]):.4g}", "severity", parts[-1].name)
    captions = ["input", "reconstruction", "heatmap", "overlay"]  # the U-Net reconstructs
    page.wait(lambda: [e.text for e in page.find("#pictures .caption-label")] == captions)
    for picture in page.find("#pictures img"):
        page.wait(lambda shown=picture: shown.get_property("naturalWidth") == PICTURE)
    page.wait(lambda: not page.find("#upload a"))  # there is room for the next one


def test_the_slider_changes_the_verdict(page, parts):
    page.upload(parts[0])
    page.wait_for("verdict", "score")
    page.slide("HOME")
    page.wait_for("verdict", "defect", "above the threshold")
    page.wait_for("effect", "11 of 11 good images would be called defective")
    page.slide("END")
    page.wait_for("verdict", "good", "not above the threshold")
    page.wait_for("effect", "0 of 11 good images would be called defective")
    page.wait(lambda: page.find("#reset")[0].is_enabled())
    page.find("#reset")[0].click()
    page.wait_for("effect", "Calibrated threshold")


LATE_END = """
const asked = window.fetch;
window.fetch = async (...request) => {
    const answer = await asked(...request);
    if (!answer.url.includes("/queue/data")) return answer;
    const late = new TransformStream({async transform(part, to) {
        const text = new TextDecoder().decode(part);
        const [before, ...end] = text.split(/(?=data: {"msg":"close_stream")/);
        to.enqueue(new TextEncoder().encode(before));
        if (end.length) await new Promise(done => setTimeout(done, 2000));
        to.enqueue(new TextEncoder().encode(end.join("")));
    }});
    return new Response(answer.body.pipeThrough(late), answer);
};
"""
"""What the queue last says of an answer, that it is the last one, comes two seconds late."""


def test_the_threshold_is_heard_while_an_answer_arrives(page, parts):
    script = {"source": LATE_END}
    added = page.chrome.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", script)
    try:
        page.open()
        time.sleep(2.5)
        page.upload(parts[0])
        page.wait_for("verdict", "score")
        for key, words in (("HOME", "11 of 11 good"), ("END", " 0 of 11 good")):
            page.slide(key)
            page.wait_for("effect", words)
        page.find("#reset")[0].click()
        page.wait_for("effect", "Calibrated threshold")
    finally:
        page.chrome.execute_cdp_cmd("Page.removeScriptToEvaluateOnNewDocument", added)


def test_a_threshold_is_kept_in_the_run(page, work):
    file = work / "checkpoints" / "finished" / "last.pt"
    before = file.read_bytes()
    page.slide("END")
    page.wait_for("effect", "Threshold on trial")
    page.find("#keep")[0].click()
    page.wait_for("effect", "Threshold set by hand")
    try:
        threshold = load_checkpoint(file).calibrations["tile"]["threshold"]
        page.open()
        assert f"Threshold set by hand {threshold:.4g}:" in page.text("effect")
        file.unlink()
        page.slide("HOME")
        page.wait_for("effect", "Threshold on trial")
        page.find("#keep")[0].click()
        page.wait(lambda: "no checkpoint at" in "".join(e.text for e in page.find(".toast-body")))
        page.wait_for("effect", "Threshold on trial")
    finally:
        file.write_bytes(before)


def test_what_is_no_image_gives_a_message_and_the_page_lives_on(page, parts, tmp_path):
    text = tmp_path / "notes.txt"
    text.write_text("no image")
    damaged = tmp_path / "damaged.png"
    damaged.write_bytes(parts[0].read_bytes()[:3000])
    bomb = claims_pixels(tmp_path / "bomb.png", 15_000, 15_000)
    for file, reason in ((text, "no image"), (damaged, ""), (bomb, "225 megapixels")):
        page.upload(file)
        shown = page.wait_for("verdict", f"cannot read {file.name}", reason)
        assert str(tempfile.gettempdir()) not in shown
        page.wait(lambda: not page.find("#pictures img"))
        page.upload(parts[0])
        page.wait_for("verdict", "score", parts[0].name)
        page.wait(lambda: page.find("#pictures img"))


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
        page.slide(key)
        page.wait_for("summary", words)
        time.sleep(1)  # the table and the file come together with the summary
        threshold = float(page.text("summary").split()[-1])
        file = page.downloads / "verdicts.csv"
        file.unlink(missing_ok=True)
        page.find("#csv")[0].click()
        page.wait(file.exists)
        with file.open(newline="", encoding="utf-8-sig") as stream:
            lines = list(csv.DictReader(stream))
        assert [line["name"] for line in lines] == [path.name for path in [*parts[:3], text]]
        for path, line in zip(parts, lines[:3], strict=False):
            assert float(line["score"]) == pytest.approx(expected(path), rel=1e-6)
            assert line["verdict"] == ("defect" if key == "HOME" else "good")
            assert float(line["threshold"]) == pytest.approx(threshold, rel=1e-3)
            assert not line["error"]
        assert lines[3]["error"] == "cannot read notes.txt: no image, or a damaged one"
        assert not lines[3]["verdict"] and not lines[3]["score"]


def test_a_region_is_painted(page, tmp_path):
    from selenium.webdriver.common.action_chains import ActionChains

    Image.new("RGB", (400, 300), "white").save(tmp_path / "part.png")
    page.tab("Region")
    page.find("#make")[0].click()
    page.wait_for("region", "Paint over 1%")
    page.upload(tmp_path / "part.png", to="canvas")
    canvas = page.wait(lambda: page.find("#canvas canvas"))[0]
    time.sleep(1)  # until the image lies on it
    hand = ActionChains(page.chrome).move_to_element(canvas).click_and_hold()
    for step in ((60, 0), (0, 60), (-60, 0), (0, -60)):
        hand.move_by_offset(*step)
    hand.release().perform()
    time.sleep(1)  # until the page has the stroke
    page.find("#make")[0].click()
    page.wait_for("region", "%", "data.region=region.png")
    page.wait(lambda: page.find("#mask"))[0].click()
    file = page.downloads / "region.png"
    page.wait(file.exists)
    mask = read_marked(file)
    assert mask.shape == (300, 400)
    assert 0.05 < mask.mean() < 0.2
    assert mask[180, 230]  # within the outline


def test_runs_that_do_not_open_give_a_message(page, parts):
    page.upload(parts[0])
    before = page.wait_for("verdict", "score")
    for run, words in (("damaged", "damaged"), ("unfinished", "--resume")):
        page.choose(run)
        page.wait_for("effect", words)
        page.wait_for("verdict", NO_RUN)
    page.choose("finished", keyboard=True)  # the image is still there
    page.wait_for("effect", "good images")
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


@pytest.mark.parametrize(
    "headers, status",
    [
        ({}, 200),
        ({"Host": "evil.example"}, 403),
        ({"Origin": "http://evil.example"}, 403),
    ],
)
def test_a_foreign_page_reads_nothing(server, headers, status):
    request = urllib.request.Request(f"{server[0]}/config", headers=headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        found = opener.open(request, timeout=20).status
    except urllib.error.HTTPError as error:
        found = error.code
    assert found == status


def test_a_password(work, tmp_path, monkeypatch):
    from starlette.testclient import TestClient

    (tmp_path / "password").write_text("secret")
    monkeypatch.chdir(work)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    args = arguments(monkeypatch, "--auth", f"bob:{tmp_path / 'password'}")
    with TestClient(demo_server.application(args, None, tmp_path), "http://localhost") as client:
        assert client.get("/config").status_code == 401
        account = {"username": "bob", "password": "wrong"}
        assert client.post("/login", data=account).status_code == 400
        assert client.post("/login", data=account | {"password": "secret"}).status_code == 200
        assert client.get("/config").status_code == 200


@pytest.mark.skipif("SCREENSHOT" not in os.environ, reason="SCREENSHOT names no file")
def test_screenshot(trained, parts, tmp_path):
    run = Path(os.environ.get("RUN", trained[1])).resolve()
    image = Path(os.environ.get("IMAGE", parts[-1])).resolve()
    width = int(os.environ.get("WIDTH", 1280))
    with (
        serving(run.parent.parent, "--checkpoint", run) as (address, *_),
        browsing(tmp_path, width) as chrome,
    ):
        page = Visit(chrome, address, tmp_path)
        page.open()
        page.upload(image)
        page.wait_for("verdict", "score")
        page.wait(lambda: page.find("#pictures img"))
        time.sleep(2)  # animations
        height = chrome.execute_script("return document.documentElement.scrollHeight")
        resize(chrome, width, height)
        time.sleep(1)
        picture = Image.open(io.BytesIO(chrome.get_screenshot_as_png())).convert("RGB")
    picture.save(os.environ["SCREENSHOT"], quality=85)


def test_who_leaves_in_mid_upload_is_no_fault(server):
    """Else the next test finds a traceback among what the server says."""
    host, port = urlsplit(server[0]).netloc.split(":")
    with socket.create_connection((host, int(port))) as visitor:
        visitor.sendall(
            f"POST /gradio_api/upload HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 900\r\n"
            "Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode()
        )
        time.sleep(0.5)


def test_the_end_takes_the_uploads_with_it(page, server, parts):
    """The last one: it ends the server that all share, while a page is open."""
    _, process, _, temporary = server
    page.upload(parts[0])
    page.wait_for("verdict", "score")
    assert list(temporary.glob("defects-*"))
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 0
    assert not list(temporary.glob("defects-*"))
    assert not process.stderr.read()
