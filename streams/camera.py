"""Frames of a camera, or of a stream of the network."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data.images import ImageError
from streams.source import Frame, Gap, Source, iso, now, numbered
from utils.errors import UserError, masked
from utils.optional_packages import opencv

PAUSES = 1.0, 30.0  # seconds before the first try to open a lost camera again, and at most


class Camera(Source):
    """A camera, of which the newest frame counts; one that breaks off is opened again.

    Args:
        address: number of a camera, its device file, or the address of a stream.
    """

    newest = True

    def __init__(self, address: str) -> None:
        self.address = address
        self.name = f"camera {masked(address)}"

    def open(self) -> None:
        """See `Source.open`.

        Raises:
            UserError: if OpenCV is not installed or there is no such camera.
        """
        self.cv2 = opencv()
        if "://" not in self.address and Path(self.address).is_file():
            raise UserError(f"{self.address} is a file; name videos without --camera")
        self._capture = self._connect()
        if not self._capture.isOpened():
            raise UserError(f"cannot open {self.name}; is it connected, and used by no other?")

    def frames(self, stopping: threading.Event) -> Iterator[Frame]:
        """Frames, and where the camera breaks off an error, and a gap when it is back.

        What waits for the detector is the newest frame: gaps in their numbers are frames skipped.
        """
        number = 0
        try:
            there, pixels = self._capture.read()
            while not stopping.is_set():
                if not there:
                    began = now()
                    error = ImageError(f"{self.name} gives no more frames; trying to open it again")
                    yield numbered(self.name, None, iso(began), error)
                    pixels = self._reopen(stopping)
                    yield numbered(self.name, None, iso(now()), Gap.since(began))
                    if pixels is None:
                        return
                image = self.cv2.cvtColor(pixels, self.cv2.COLOR_BGR2RGB)
                yield numbered(self.name, number, iso(now()), image)
                number += 1
                there, pixels = self._capture.read()
        finally:
            self._capture.release()

    def _connect(self) -> Any:
        number = self.address.isdecimal()
        return self.cv2.VideoCapture(int(self.address) if number else self.address)

    def _reopen(self, stopping: threading.Event) -> np.ndarray | None:
        """The first frame once there is one again, in BGR; None if stopped before."""
        pause, longest = PAUSES
        while True:
            self._capture.release()  # some cameras open for one at a time
            if stopping.wait(pause):
                return None
            self._capture = self._connect()
            there, pixels = self._capture.read()  # some open long before they give anything
            if there:
                return pixels
            pause = min(2 * pause, longest)
