"""Frames to inspect, in files and in memory."""

import os

import numpy as np
from brightness import SIZE
from PIL import Image


def gray(value, shape=(SIZE, SIZE)):
    return np.full((*shape, 3), value, np.uint8)


def save(path, value, written=None):
    """A gray image, as written at a time in seconds."""
    Image.fromarray(gray(value)).save(path)
    if written is not None:
        os.utime(path, (written, written))
