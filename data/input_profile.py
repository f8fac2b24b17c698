"""Compare images with the good ones in what a person can set: size, light, colour, focus, JPEG.

The profile of a category holds the range of each measure over its good images. Each image is
compared with limits that follow from it; `streams.loop` tests whether scores drift.
"""

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from data.region import valid_pixels

LINES = 128  # rows, and columns, of an image that are measured: a large one costs little more
STEP = 4  # pixels: sharpness compares differences of neighbours with those of pixels so far apart
BLACK = 10.0  # added to values, so that the darkest do not rule their geometric mean
PERIOD = 8  # pixels of a JPEG block
TAIL = 0.01  # share of good images on each side of the range
MARGIN = 5.0  # in units of range / n, beyond both ends: n good images show little if n is small
IN_A_ROW = 3  # images that are off before a line says so: one may be an odd part

Measures = Mapping[str, float]  # of an image, by the names in `MEASURES`
Profile = dict[str, tuple[float, float]]  # range of each over good images


# How far an image may leave the range: factor, offset; v + offset has to lie within the factor.
# Chosen on train/good: images of it against the ranges of others, and changed copies of these.
MEASURES = {
    "longer side": (1.1, 0.0),
    "width / height": (1.1, 0.0),
    "brightness": (1.1, BLACK),
    # Wide: a stain may colour a whole part. Grey, which is 0, is off where good images have 1.5.
    "colour": (2.5, 1.0),
    "sharpness": (1.5, 0.01),
    "JPEG blocks": (1.5, 0.0),
}


def measure(image: np.ndarray) -> dict[str, float]:
    """Measure an image as it was read, uint8 [H, W, 3], or [H, W, 4] inside of its region.

    Returns:
        By name: the longer side in pixels; width / height; brightness, the geometric mean in
        [0, 255]; colour, the mean difference between the highest and the lowest channel;
        sharpness, from 0 (a smooth blur) to 1 (white noise), whatever the contrast; JPEG blocks,
        third differences across the lines of a grid of 8 pixels, wherever it begins, over those
        elsewhere: about 1 without JPEG, below 2 at quality 90, about 3 and more at 50.
    """
    height, width = image.shape[:2]
    down, right = (-(-side // LINES) for side in (height, width))
    valid = valid_pixels(image)
    if not valid[::down, ::right].any():  # the region lies between the lines
        valid[:] = True
    pixels = image[::down, ::right, :3][valid[::down, ::right]].astype(np.int16)
    # Without what is outside of the region: its black would hide a change of light, and its edge
    # looks like the edge of JPEG blocks. Of green alone, which is the most of what JPEG and the eye
    # take for brightness.
    green = np.ma.masked_array(image[..., 1], np.ma.nomask if valid.all() else ~valid)
    near, far, blocks = 0.0, 0.0, 1.0
    for lines in (green[::down], green[:, ::right].T):
        if lines.shape[1] < 2 * PERIOD + STEP:
            continue  # too short to have a grid
        lines = lines.astype(np.int16)
        steps, third = (np.abs(np.ma.diff(lines, n)) for n in (1, 3))
        apart = np.abs(lines[:, STEP:] - lines[:, :-STEP])
        if not min(steps.count(), third.count(), apart.count()):
            continue  # the region is too narrow
        near, far = near + float(steps.mean()), far + float(apart.mean())
        third = third.mean(axis=0)
        phases = third[: len(third) // PERIOD * PERIOD].reshape(-1, PERIOD).mean(axis=0)
        if len(phases := np.ma.compressed(phases)):
            blocks = max(blocks, float(phases.max() / max(np.median(phases), 0.1)))
    # near / far is 1 for white noise, and 1 / STEP where values rise evenly from one to the other.
    sharpness = max(0.0, near / far - 1 / STEP) / (1 - 1 / STEP) if far else 0.0
    # Geometric: a white ground, which is clipped, would hide in a mean that all else is brighter.
    brightness = np.exp(np.log(pixels + BLACK).mean()) - BLACK
    colour = (pixels.max(axis=1) - pixels.min(axis=1)).mean()
    found = (max(height, width), width / height, brightness, colour, sharpness, blocks)
    return dict(zip(MEASURES, map(float, found), strict=True))


def profile_of(images: Sequence[Measures], light: float = 0.0) -> Profile:
    """Return the range of each measure over good images, one at least, but for their tails.

    Args:
        images: measures of each.
        light: `data.light`; the range of brightness is wider by this factor at both ends.
    """
    values = {name: [image[name] for image in images] for name in MEASURES}
    found = {name: tuple(np.quantile(v, [TAIL, 1 - TAIL]).tolist()) for name, v in values.items()}
    low, high = found["brightness"]
    return found | {"brightness": (low * (1 - light), high * (1 + light))}


class InputCheck:
    """Prints to stderr, once for each measure, that `IN_A_ROW` images in a row are off.

    Args:
        category: of the images.
        profile: of its good ones; an empty one, as runs without it have, leaves nothing to check.
        good: number of these.
        images: what the line calls those that are checked.
    """

    def __init__(
        self, category: str, profile: Profile, good: int, images: str = "these images"
    ) -> None:
        self.category, self.profile, self.images, self.count = category, profile, images, 0
        known = [name for name in MEASURES if name in profile]  # others may be of a later version
        self.limits = {}
        for name in known:
            (low, high), (factor, offset) = profile[name], MEASURES[name]
            margin = MARGIN * (high - low) / good
            least = (low - margin + offset) / factor - offset
            self.limits[name] = least, (high + margin + offset) * factor - offset
        self.in_a_row = dict.fromkeys(known, 0)
        self.last: Measures = {}

    def add(self, image: Measures) -> None:
        """Add an image; prints a line if it completes a row."""
        self.count, self.last = self.count + 1, image
        for name, (low, high) in self.limits.items():
            before = self.in_a_row[name]
            # A complete row never ends, so that its line is printed once.
            is_like = low <= image[name] <= high and before < IN_A_ROW
            self.in_a_row[name] = 0 if is_like else before + 1
        self._print(IN_A_ROW)

    def end(self) -> None:
        """Print a line if there were fewer images than make a row, and all of them are off."""
        if 0 < self.count < IN_A_ROW:
            self._print(self.count)

    def _print(self, length: int) -> None:
        """Print a line about the measures that are off in a row of just this length."""
        if off := [self._described(name) for name, row in self.in_a_row.items() if row == length]:
            print(
                f"{self.images} are unlike the good ones of {self.category}: {', '.join(off)}; "
                "scores may not hold: set camera and light as for training, or train again",
                file=sys.stderr,
            )

    def _described(self, name: str) -> str:
        value, (low, high) = self.last[name], self.profile[name]
        if name == "colour" and min(value, high) < 1:  # one of the two is grey
            return "grey (good: colour)" if value < high else "colour (good: grey)"
        ends = dict.fromkeys(f"{end:.3g}" for end in (low, high))  # one, where both are the same
        return f"{name} {value:.3g} (good: {' to '.join(ends)})"
