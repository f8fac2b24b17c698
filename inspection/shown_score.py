"""The score of an image that fills but a part of the frame."""

import numpy as np

from utils.config import Config


def shown_score(anomaly_map: np.ndarray, of_frame: float, config: Config) -> float:
    """The score of an image, to which no padding around it adds.

    Args:
        anomaly_map: float32 [h, w], the part of the frame's map that shows the image.
        of_frame: the score that the detector gives the frame, or the strangest of the tiles.
        config: settings; `data.fit` says whether frames are padded, `score.reduce` how a map
            becomes a score.
    """
    if config.data.fit != "pad":
        return of_frame
    if config.score.reduce == "max":
        return float(anomaly_map.max())
    count = max(1, anomaly_map.size // 100)  # as in image_score, here without torch
    return float(np.partition(anomaly_map, -count, axis=None)[-count:].mean())
