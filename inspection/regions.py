"""Regions: the defects of an image, cut from its anomaly map.

A region surrounds a peak of the map and is cut at half of its height above good parts: its full
width at half maximum, which is the size of the defect however strong the defect is.
"""

from typing import Any, NamedTuple

import numpy as np

from inspection.inspector import Inspection
from inspection.threshold import Calibration

REACH = 16  # pixels around a peak that are searched first; doubled until the region fits


class Region(NamedTuple):
    """A defect in an image.

    Attributes:
        box: (x, y, width, height) in pixels of the original image.
        area: in pixels of the original image, 1 or more.
        peak: the highest value of the raw anomaly map in it.
    """

    box: tuple[int, int, int, int]
    area: int
    peak: float

    def described(self, mm_per_pixel: float) -> dict[str, Any]:
        """Return it by name, for JSON; with `box_mm` and `area_mm2` unless mm_per_pixel is 0."""
        found = self._asdict()
        if mm_per_pixel:
            # Of a product in binary, such as 3 * 0.1, digits beyond float32 are noise.
            found["box_mm"] = [float(f"{side * mm_per_pixel:.7g}") for side in self.box]
            found["area_mm2"] = float(f"{self.area * mm_per_pixel**2:.7g}")
        return found


def region_labels(inspection: Inspection, calibration: Calibration) -> np.ndarray:
    """Return the number of the region that each pixel of the anomaly map belongs to.

    A good image has no region. A defective one has that of its highest pixel, and those of further
    peaks above the pixel threshold, unless they are smaller than `Inspection.least_area`. Pixels
    that are connected to a stronger peak above half of the weaker one's height belong to the
    stronger. Regions neither overlap nor touch.

    Returns:
        int32 [h, w]: 1 in the region with the highest peak, 2 in the next, 0 outside of them.
    """
    anomaly_map = inspection.anomaly_map
    labels = np.zeros(anomaly_map.shape, np.int32)
    if not calibration.is_defect(inspection.score):
        return labels
    rest = anomaly_map.copy()  # without the pixels that are dealt with
    count = 0
    while True:
        at = np.unravel_index(rest.argmax(), rest.shape)
        peak = rest[at]
        # The first peak counts even below the pixel threshold: the image is defective.
        if count and not peak > calibration.pixel_threshold:
            return labels
        # level = low + (peak - low) / 2, low being that of good parts
        window, mask = _component(anomaly_map, at, calibration.low + (peak - calibration.low) / 2)
        rest[window][mask] = -np.inf  # so that the next peak is one of the pixels that are left
        is_shoulder = anomaly_map[window][mask].max() > peak
        is_speck = mask.sum() * _pixel_area(inspection) < inspection.least_area
        if not count or not (is_shoulder or is_speck):
            count += 1
            labels[window][mask] = count


def regions(inspection: Inspection, calibration: Calibration) -> list[Region]:
    """Return the regions of an image, the strongest first; see `region_labels`."""
    labels = region_labels(inspection, calibration)
    if not labels.any():
        return []
    from scipy import ndimage  # late: the first verdict need not wait for it

    upper, before, *covered = inspection.window
    y_scale, x_scale = np.divide(covered, labels.shape)
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        values = inspection.anomaly_map[rows, columns][labels[rows, columns] == number]
        top, left = int(rows.start * y_scale), int(columns.start * x_scale)
        # At least a pixel: the map of tiles may be finer than a small original.
        width = max(1, round(columns.stop * x_scale) - left)
        height = max(1, round(rows.stop * y_scale) - top)
        area = max(1, round(values.size * _pixel_area(inspection)))
        found.append(Region((before + left, upper + top, width, height), area, float(values.max())))
    return found


def _component(
    anomaly_map: np.ndarray, at: tuple[int, ...], level: float
) -> tuple[tuple[slice, ...], np.ndarray]:
    """Return the pixels above a level that are connected, diagonals included, to the pixel `at`.

    Returns:
        A window of the map that holds them all, and their mask in it, bool.
    """
    from scipy import ndimage

    reach = REACH  # a window keeps a map of a thousand specks from being searched a thousand times
    while True:
        window = tuple(slice(max(0, centre - reach), centre + reach + 1) for centre in at)
        inside = tuple(centre - side.start for centre, side in zip(at, window, strict=True))
        above = anomaly_map[window] > level
        above[inside] = True  # also in a map that is nowhere above that of good parts
        components, _ = ndimage.label(above, structure=np.ones((3, 3)))
        mask = components == components[inside]
        # One that reaches the edge of its window may go on beyond it.
        touches_edge = mask[[0, -1]].any() or mask[:, [0, -1]].any()
        if not touches_edge or reach >= max(anomaly_map.shape):
            return window, mask
        reach *= 2


def _pixel_area(inspection: Inspection) -> float:
    """Return the area of a pixel of the map in pixels of the original image."""
    _, _, height, width = inspection.window
    return height * width / inspection.anomaly_map.size
