"""Where in an image its defects are."""

import numpy as np

from inspection.inspector import Inspection


def strongest_region(
    inspection: Inspection, pixel_threshold: float
) -> tuple[int, int, int, int] | None:
    """Box of the region around the highest pixel, of all pixels above the threshold.

    Returns:
        (x, y, width, height) in pixels of the original image; None if no pixel is above.
    """
    anomaly_map = inspection.anomaly_map
    if not (anomaly_map > pixel_threshold).any():
        return None
    from scipy import ndimage  # late: the first verdict need not wait for it

    regions, _ = ndimage.label(anomaly_map > pixel_threshold, structure=np.ones((3, 3)))
    strongest = regions[np.unravel_index(anomaly_map.argmax(), anomaly_map.shape)]
    rows, columns = ndimage.find_objects(regions)[strongest - 1]
    y_scale = inspection.size[0] / anomaly_map.shape[0]
    x_scale = inspection.size[1] / anomaly_map.shape[1]
    left, right = int(columns.start * x_scale), round(columns.stop * x_scale)
    top, bottom = int(rows.start * y_scale), round(rows.stop * y_scale)
    return left, top, max(1, right - left), max(1, bottom - top)
