import threading
import time

import pytest
from frames import gray

from data.images import ImageError
from streams import camera as camera_module
from streams.camera import Camera
from streams.source import Gap, in_turn
from utils.errors import UserError


class FakeCapture:
    """A camera of 100 frames a second, each as bright as its number; it breaks off after `life`."""

    life = 100
    opened: list["FakeCapture"] = []

    def __init__(self, source):
        self.source, self.number, self.released = source, -1, False
        self.opened.append(self)

    def isOpened(self):  # noqa: N802  (OpenCV's name)
        return self.source == 0

    def read(self):
        time.sleep(0.01)
        self.number += 1
        return self.number < self.life and not self.released, gray(self.number % 256)

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
    monkeypatch.setattr(camera_module, "PAUSES", (0.1, 0.2))
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
