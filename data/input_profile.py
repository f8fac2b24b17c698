"""Is an image like the good ones in what a person can check: size, light, colour, focus, JPEG?

The profile of a category holds the range of each measure over its good images. It is about single
images against fixed limits; whether scores drift is tested by `streams.loop`.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

LINES = 128  # rows, and columns, of an image that are measured: a large one costs little more
FAR = 4  # pixels; at the distance 1 differences are a quarter of those where all is out of focus
PERIOD = 8  # pixels of a JPEG block
IN_A_ROW = 3  # images that are off before a line says so: one may be an odd part
SPARE = 5.0  # of the range / n good images: few of them show little of how parts vary
TAIL = 0.01  # share of good images on each side of the range
GREY = 1.0  # of `colour`: below it an image is called grey

Measures = Mapping[str, float]  # of an image, by the names in `MEASURES`; none where not measured
Profile = dict[str, tuple[float, float]]  # range over good images


class Margin(NamedTuple):
    """How far a measure may leave its range: v + offset within a factor of that."""

    name: str
    factor: float
    offset: float = 0.0

    def limits(self, low: float, high: float, count: int) -> tuple[float, float]:
        """Return the limits for single images by the range over so many good ones."""
        spare = SPARE * (high - low) / count
        at_least = (low - spare + self.offset) / self.factor - self.offset
        return at_least, (high + spare + self.offset) * self.factor - self.offset


# Chosen on good images and changed copies of these; docs/deployment.md has the figures.
MEASURES = {
    "size": Margin("longer side", 1.1),
    "ratio": Margin("width / height", 1.1),
    "brightness": Margin("brightness", 1.15, 10.0),
    # Wide: a stain may colour a whole part. Grey is 0, and so is off where good images have 1.5.
    "colour": Margin("colour", 2.5, 1.0),
    "sharpness": Margin("sharpness", 1.5, 0.01),
    "blocks": Margin("JPEG blocks", 1.5),
}


def measure(image: np.ndarray) -> dict[str, float]:
    """Measure an image, uint8 [H, W, 3 or more], as it was read.

    Returns:
        By name: `size`, the longer side in pixels; `ratio`, width / height; `brightness`, mean
        of all channels in [0, 255]; `colour`, mean difference between the highest and the lowest
        channel; `sharpness`, from 0 (a smooth blur) to 1 (white noise), whatever the contrast;
        `blocks`, third differences across the lines of a grid of 8 pixels, wherever it begins,
        over those elsewhere: about 1 without JPEG, 1.2 to 1.9 at quality 90, 3 and more at 50.
    """
    height, width = image.shape[:2]
    down, right = (-(-side // LINES) for side in (height, width))
    pixels = image[::down, ::right, :3].astype(np.int16)
    # Of green alone, which is the most of what JPEG and the eye take for brightness.
    rows, columns = image[::down, :, 1].astype(np.int16), image[:, ::right, 1].T.astype(np.int16)
    near, far, blocks = 0.0, 0.0, 1.0
    for lines in (rows, columns):
        if lines.shape[1] < 2 * PERIOD + FAR:
            continue  # too short to have a grid
        near += np.abs(np.diff(lines)).mean()
        far += np.abs(lines[:, FAR:] - lines[:, :-FAR]).mean()
        third = np.abs(np.diff(lines, n=3)).mean(axis=0)
        phases = third[: len(third) // PERIOD * PERIOD].reshape(-1, PERIOD).mean(axis=0)
        blocks = max(blocks, float(phases.max() / max(np.median(phases), 0.1)))
    # near / far is 1 for white noise, and 1 / FAR where values rise evenly from one to the other.
    sharpness = max(0.0, near / far - 1 / FAR) / (1 - 1 / FAR) if far else 0.0
    return {
        "size": float(max(height, width)),
        "ratio": width / height,
        "brightness": float(pixels.mean()),
        "colour": float((pixels.max(axis=2) - pixels.min(axis=2)).mean()),
        "sharpness": float(sharpness),
        "blocks": blocks,
    }


def profile_of(images: Sequence[Measures]) -> Profile:
    """Return the range of each measure over good images, one at least, but for their tails."""
    ranges = {
        name: np.quantile([image[name] for image in images], [TAIL, 1 - TAIL]) for name in MEASURES
    }
    return {name: (float(low), float(high)) for name, (low, high) in ranges.items()}


def widened(profile: Profile, images: Sequence[Measures]) -> Profile:
    """Return a profile with further good images in its ranges; one of an old run stays empty."""
    ends = {name: [*ends, *(image[name] for image in images)] for name, ends in profile.items()}
    return {name: (min(values), max(values)) for name, values in ends.items()}


class InputCheck:
    """Says once of each measure that `IN_A_ROW` images in a row are off.

    Args:
        category: of the images.
        profile: of its good ones; an empty one, as of an old run, leaves nothing to check.
        good: number of these.
    """

    def __init__(self, category: str, profile: Profile, good: int) -> None:
        self.category, self.profile = category, profile
        known = profile.keys() & MEASURES  # a later version may have written others
        self.limits = {name: MEASURES[name].limits(*profile[name], good) for name in known}
        self.in_a_row = dict.fromkeys(known, 0)
        self.count = 0
        self.last: Measures = {}

    def add(self, image: Measures) -> str | None:
        """Add an image; returns a line if it is the one that completes a row."""
        self.count, self.last = self.count + 1, image
        for name, before in self.in_a_row.items():
            low, high = self.limits[name]
            is_like = low <= image[name] <= high
            # A row that was complete stays so: it is said once.
            self.in_a_row[name] = 0 if is_like and before < IN_A_ROW else before + 1
        return self._line(IN_A_ROW)

    def end(self) -> str | None:
        """Return a line if there were fewer images than make a row, and all of them are off."""
        return self._line(self.count) if 0 < self.count < IN_A_ROW else None

    def _line(self, length: int) -> str | None:
        """Return a line about the measures that are off in a row of just this length."""
        off = [name for name in MEASURES if self.in_a_row.get(name) == length]
        if not off:
            return None
        found = ", ".join(_described(name, self.last[name], *self.profile[name]) for name in off)
        return (
            f"these images are unlike the good ones of {self.category}: {found}; scores may not "
            "hold: set camera and light as for training, or train again"
        )


def _described(name: str, value: float, low: float, high: float) -> str:
    if name == "colour" and (value < GREY <= low or high < GREY <= value):
        return "grey (good: colour)" if value < GREY else "colour (good: grey)"
    ends = dict.fromkeys(f"{end:.3g}" for end in (low, high))  # one, where both are the same
    return f"{MEASURES[name].name} {value:.3g} (good: {' to '.join(ends)})"
