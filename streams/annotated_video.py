"""A video of inspected frames: each under its heatmap, below its verdict."""

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from inspection.inspector import Inspection, scaled_to
from inspection.panel import BACKGROUND, HEADER, draw_verdict, whole_overlay
from inspection.threshold import Calibration
from utils.errors import UserError
from utils.files import new_file
from utils.optional_packages import opencv, opencv_name

# Formats that every build of OpenCV writes and every player reads.
CODECS = {".mp4": "mp4v", ".avi": "MJPG"}

SIDES = 480, 1280  # limits of a picture's longer side, pixels: from below for the text


class AnnotatedVideo:
    """A video file that is written frame by frame; a context manager that closes it.

    Args:
        path: an .mp4 or .avi file; where it exists another is written beside it, see `path`.

    Attributes:
        path: the file that is written.

    Raises:
        UserError: if it cannot be written, before any frame is there.
    """

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() not in CODECS:
            raise UserError(f"cannot write a video to {path}: name it .mp4 or .avi")
        opencv_name(path)
        self.cv2 = opencv()
        self.path = new_file(path)
        self._size: tuple[int, int] | None = None  # of the first frame
        self._writer = self._open(10.0, (64, 64))  # fails now rather than at the first frame

    def __enter__(self) -> "AnnotatedVideo":
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.release()  # writes the index, without which an .mp4 does not play
        if self._size is None:
            self.path.unlink(missing_ok=True)

    def write(self, picture: Image.Image, fps: float) -> None:
        """Add a frame; the first one sets size and speed, others are padded to it.

        Args:
            picture: RGB, with even sides.
            fps: frames per second.
        """
        if self._size is None:
            self._writer.release()
            self._writer = self._open(fps, picture.size)
            self._size = picture.size
        if picture.size != self._size:
            picture = ImageOps.pad(picture, self._size, color=BACKGROUND)
        self._writer.write(self.cv2.cvtColor(np.asarray(picture), self.cv2.COLOR_RGB2BGR))

    def _open(self, fps: float, size: tuple[int, int]) -> Any:
        code = self.cv2.VideoWriter_fourcc(*CODECS[self.path.suffix.lower()])
        writer = self.cv2.VideoWriter(opencv_name(self.path), code, fps, size)
        if not writer.isOpened():
            self.path.unlink(missing_ok=True)
            raise UserError(f"cannot write a video to {self.path}; try the other of .mp4 and .avi")
        return writer


def annotate(
    image: np.ndarray, inspection: Inspection, calibration: Calibration, name: str
) -> Image.Image:
    """Draw an image under its heatmap and the rings of its regions, below its verdict."""
    longer = min(max(*image.shape[:2], SIDES[0]), SIDES[1])
    height, width = scaled_to(longer, image.shape[:2])
    picture = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    tinted = whole_overlay(np.asarray(picture), inspection, calibration)

    def even(side: int) -> int:  # codecs take even sides: they halve the resolution of colours
        return (side + 1) // 2 * 2

    canvas = Image.new("RGB", (even(max(width, SIDES[0])), HEADER + even(height)), BACKGROUND)
    canvas.paste(Image.fromarray(tinted), ((canvas.width - width) // 2, HEADER))
    draw_verdict(canvas, inspection.score, calibration, name)
    return canvas
