import threading
import time

import numpy as np
import pytest
from frames import gray

from data.images import ImageError
from streams import cameras
from streams.cameras import Camera, to_rgb
from streams.source import Gap, in_turn
from utils.errors import UserError


class FakeCapture:
    """A camera of 100 frames a second, each as bright as its number; it breaks off after `life`."""

    life = 100
    opened: list["FakeCapture"] = []

    def __init__(self, source):
        self.source, self.number, self.released, self.settings = source, -1, False, {}
        self.opened.append(self)

    def isOpened(self):  # noqa: N802  (OpenCV's name)
        return self.source == 0

    def read(self):
        time.sleep(0.01)
        self.number += 1
        return self.number < self.life and not self.released, gray(self.number % 256)

    def set(self, key, value):
        self.settings[key] = value

    def get(self, key):
        return self.settings.get(key, 0)

    def release(self):
        self.released = True


@pytest.fixture
def captures(monkeypatch):
    """Cameras that were opened, all fakes."""
    cv2 = pytest.importorskip("cv2")
    monkeypatch.setattr(cv2, "VideoCapture", FakeCapture)
    monkeypatch.setattr(FakeCapture, "opened", [])
    return FakeCapture.opened


def frames_of(camera):
    camera.open()
    return (frame for _, frame in in_turn([camera], lambda: False, lambda: None))


def test_a_slow_detector_gets_the_newest_frame(captures):
    numbers = []
    for frame in frames_of(Camera("0")):
        if isinstance(frame.image, ImageError):
            break
        assert frame.image[0, 0, 0] == frame.about["frame"]
        assert captures[0].number - frame.about["frame"] <= 2  # no lag
        numbers.append(frame.about["frame"])
        time.sleep(0.1)  # a detector ten times slower than the camera
    assert numbers == sorted(set(numbers))
    assert 5 <= len(numbers) <= 12


def test_a_camera_that_breaks_off_is_opened_again_with_growing_pauses(captures, monkeypatch):
    monkeypatch.setattr(cameras, "PAUSES", (0.1, 0.2))
    monkeypatch.setattr(FakeCapture, "life", 3)
    frames, seen = frames_of(Camera("0")), []
    monkeypatch.setattr(Camera, "_connect", refusing(Camera._connect, times=2))
    while not any(isinstance(frame.image, Gap) for frame in seen):
        seen.append(next(frames))
    after = next(frames)
    frames.close()
    *images, lost, gap = [frame.image for frame in seen]
    assert isinstance(lost, ImageError) and "camera 0 gives no more frames" in str(lost)
    assert 0.5 <= gap.seconds < 2  # 0.1, 0.2 and 0.2 seconds of pauses
    assert after.about["frame"] >= 3  # frames are counted on
    assert all(capture.released for capture in captures)


def refusing(connect, times):
    """A camera's `_connect` that first finds a dead camera so many times."""
    calls = []

    def call(camera):
        capture = connect(camera)
        calls.append(capture)
        if len(calls) <= times:
            capture.number = 1000
        return capture

    return call


def test_a_camera_that_is_not_there_at_the_start_is_an_error(captures):
    with pytest.raises(UserError, match="cannot open camera 7"):
        Camera("7").open()
    with pytest.raises(UserError) as error:
        Camera("rtsp://me:secret@host/live").open()
    assert "secret" not in str(error.value)


def test_a_camera_that_stays_away_ends_with_its_gap(captures, monkeypatch):
    monkeypatch.setattr(FakeCapture, "life", 1)
    camera, stop = Camera("0"), threading.Event()
    camera.open()
    seen = []
    for _, frame in in_turn([camera], stop.is_set, lambda: None):
        seen.append(frame)
        if isinstance(frame.image, ImageError):
            stop.set()
    assert isinstance(seen[-1].image, Gap)
    assert all(capture.released for capture in captures)


def test_what_a_camera_gives_is_printed_and_asked_for_again(captures, monkeypatch, capsys):
    import cv2

    monkeypatch.setattr(cameras, "PAUSES", (0.01, 0.01))
    monkeypatch.setattr(FakeCapture, "life", 1)
    frames = frames_of(Camera("0", (1920, 1080), 25.0))
    while not isinstance(next(frames).image, Gap):
        pass
    frames.close()
    assert capsys.readouterr().err == "camera 0 gives 1920x1080 at 25 frames/s\n"
    asked = {
        cv2.CAP_PROP_FRAME_WIDTH: 1920,
        cv2.CAP_PROP_FRAME_HEIGHT: 1080,
        cv2.CAP_PROP_FPS: 25.0,
    }
    assert len(captures) >= 2 and all(capture.settings == asked for capture in captures)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((4, 5, 3), np.uint16), "camera 0 gave a frame of uint16 4x5x3"),
        (np.zeros((4, 5, 2), np.uint8), "4x5x2"),
        (np.zeros((0, 5, 3), np.uint8), "0x5x3"),
        (np.zeros((0, 0), np.uint8), "0x0"),
        (np.zeros((4, 5, 3), np.float32), "float32"),
        (np.zeros(3, np.uint8), "uint8 3,"),
        (np.zeros((), np.uint8), "uint8 "),
        (np.zeros((2, 4, 5, 3), np.uint8), "2x4x5x3"),
    ],
)
def test_an_odd_frame_is_an_error(pixels, words):
    error = to_rgb(pixels, "camera 0")
    assert isinstance(error, ImageError) and words in str(error)


def test_frames_of_one_and_four_channels_are_read():
    gray = np.arange(20, dtype=np.uint8).reshape(4, 5)
    for pixels in (gray, gray[..., None]):
        assert np.array_equal(to_rgb(pixels, ""), np.stack([gray] * 3, axis=2))
    colour = np.arange(80, dtype=np.uint8).reshape(4, 5, 4)
    assert np.array_equal(to_rgb(colour, ""), colour[..., [2, 1, 0]])


def fail(capture):
    raise OSError("driver")


@pytest.mark.parametrize("read", [fail, lambda capture: (True, None)])
def test_a_camera_whose_driver_fails_is_opened_again(captures, monkeypatch, read):
    monkeypatch.setattr(FakeCapture, "read", read)
    frames = frames_of(Camera("0"))
    assert "gives no more frames" in str(next(frames).image)
    frames.close()
