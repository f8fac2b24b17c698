"""Frames that OpenCV decodes: of cameras, of streams of the network, and of video files."""

import glob
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.images import ImageError
from data.listing import matching
from streams.source import FPS, Frame, Gap, Source, iso, now
from utils.addresses import masked
from utils.errors import UserError
from utils.optional_packages import opencv, opencv_name

PAUSES = 1.0, 30.0  # seconds before the first try to open a lost camera again, and at most


class Camera(Source):
    """A camera; after it broke off it is opened again, for as long as it takes.

    Args:
        address: number of a camera, its device file, or the address of a stream.
        resolution: (width, height) to ask for; None for what it gives by itself.
        fps: frames per second to ask for.
    """

    newest = True

    def __init__(
        self, address: str, resolution: tuple[int, int] | None = None, fps: float | None = None
    ) -> None:
        self.address, self.resolution, self.fps = address, resolution, fps
        self.name = f"camera {masked(address)}"

    def open(self) -> None:
        """Open the camera, and print the resolution and frame rate that it gives.

        Raises:
            UserError: if OpenCV is not installed or there is no such camera.
        """
        self.cv2 = opencv()
        if "://" not in self.address and Path(self.address).is_file():
            raise UserError(f"{self.address} is a file; name videos without --camera")
        self._capture = self._connect()
        if not self._capture.isOpened():
            raise UserError(f"cannot open {self.name}; is it connected, and used by no other?")
        cv2, get = self.cv2, self._capture.get
        size = f"{get(cv2.CAP_PROP_FRAME_WIDTH):.0f}x{get(cv2.CAP_PROP_FRAME_HEIGHT):.0f}"
        print(f"{self.name} gives {size} at {get(cv2.CAP_PROP_FPS):g} frames/s", file=sys.stderr)

    def frames(self, stopping: threading.Event) -> Iterator[Frame]:
        """Yield frames; where the camera breaks off an error, and a gap when it is back.

        Frames that are skipped, since only the newest is kept, are missing from the numbers.
        """
        number = 0
        try:
            there, pixels = _read(self._capture)
            while not stopping.is_set():
                if not there:
                    began = now()
                    error = ImageError(f"{self.name} gives no more frames; trying to open it again")
                    yield _numbered(self.name, None, iso(began), error)
                    pixels = self._reopen(stopping)
                    yield _numbered(self.name, None, iso(now()), Gap.since(began))
                    if pixels is None:
                        return
                yield _numbered(self.name, number, iso(now()), to_rgb(pixels, self.name))
                number += 1
                there, pixels = _read(self._capture)
        finally:
            self._capture.release()

    def _connect(self) -> Any:
        number = self.address.isdecimal()
        capture = self.cv2.VideoCapture(int(self.address) if number else opencv_name(self.address))
        # Else OpenCV opens most cameras at 640x480. Streams of the network ignore it.
        if self.resolution:
            capture.set(self.cv2.CAP_PROP_FRAME_WIDTH, self.resolution[0])
            capture.set(self.cv2.CAP_PROP_FRAME_HEIGHT, self.resolution[1])
        if self.fps:
            capture.set(self.cv2.CAP_PROP_FPS, self.fps)
        return capture

    def _reopen(self, stopping: threading.Event) -> np.ndarray | None:
        """Return the first frame, BGR, once the camera gives one again; None if stopped before."""
        pause, longest = PAUSES
        while True:
            self._capture.release()  # some cameras can be opened only once at a time
            if stopping.wait(pause):
                return None
            self._capture = self._connect()
            there, pixels = _read(self._capture)  # some open long before they give a frame
            if there:
                return pixels
            pause = min(2 * pause, longest)


class Videos(Source):
    """Every frame of video files, one file after the other.

    Args:
        arguments: files and glob patterns; a missing file becomes an error in its turn.

    Raises:
        UserError: if there is no file of a pattern.
    """

    def __init__(self, arguments: Iterable[str]) -> None:
        paths: list[Path] = []
        for argument in arguments:
            found = [Path(argument)]
            if not found[0].exists() and glob.has_magic(argument):
                found = matching(argument)
            if not found:
                raise UserError(f"no video matches {argument}")
            paths += found
        self.name, self.paths = "videos", list(dict.fromkeys(paths))

    def open(self) -> None:
        """Load OpenCV; raises `UserError` if it is not installed."""
        self.cv2 = opencv()

    def frames(self, stopping: threading.Event) -> Iterator[Frame]:
        """Yield frames; an error for a file that cannot be opened, or ends before it should."""
        for path in self.paths:
            for frame in self._video(path):
                if stopping.is_set():
                    return
                yield frame

    def _video(self, path: Path) -> Iterator[Frame]:
        cv2, name = self.cv2, str(path)
        try:
            if not path.is_file():
                raise ImageError(f"cannot read {path}: no such file")
            capture = cv2.VideoCapture(opencv_name(path))
            if not capture.isOpened():
                raise ImageError(f"cannot read {path}: no video, or a damaged one")
        except UserError as error:
            yield _numbered(name, None, None, ImageError(str(error)))
            return
        try:
            fps = capture.get(cv2.CAP_PROP_FPS)
            fps = fps if 1 <= fps <= 240 else FPS
            number, seconds = 0, 0.0
            while (read := _read(capture))[0]:
                seconds = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000 or number / fps
                yield _numbered(name, number, round(seconds, 3), to_rgb(read[1], name), fps)
                number += 1
            # OpenCV does not tell damage from the end. The length that a container gives may be
            # off by some frames: hence a tenth of tolerance.
            length = capture.get(cv2.CAP_PROP_FRAME_COUNT) / fps
            if number == 0 or seconds + 1 / fps < 0.9 * length:
                of = f" of {length:.1f}" if length > 0 else ""
                error = ImageError(f"{path} is damaged: it ends after {seconds:.1f}{of} seconds")
                yield _numbered(name, number, round(seconds, 3), error)
        finally:
            capture.release()


def to_rgb(pixels: np.ndarray, source: str) -> np.ndarray | ImageError:
    """Return a frame of OpenCV, uint8 of 1, 3 (BGR) or 4 channels, as RGB; an error for others."""
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    odd = pixels.ndim not in (2, 3) or channels not in (1, 3, 4) or 0 in pixels.shape
    if odd or pixels.dtype != np.uint8:
        shape = "x".join(map(str, pixels.shape))
        return ImageError(
            f"{source} gave a frame of {pixels.dtype} {shape}, but frames are inspected that have "
            "8 bits and 1, 3 or 4 channels"
        )
    if channels == 1:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)
    return np.ascontiguousarray(pixels[..., 2::-1])  # BGR or BGRA


def _read(capture: Any) -> tuple[bool, np.ndarray | None]:
    try:
        there, pixels = capture.read()
    except Exception:  # cv2.error, of a driver or a decoder
        return False, None
    return there and pixels is not None, pixels


def _numbered(
    source: str,
    number: int | None,
    time: str | float | None,
    image: np.ndarray | ImageError | Gap,
    fps: float = FPS,
) -> Frame:
    """Return a frame; without a number it is an error or a gap of the source."""
    name = source if number is None else f"{source} frame {number}"
    return Frame(name, {"source": source, "frame": number, "time": time}, image, fps)
