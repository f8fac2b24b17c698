"""A detector that needs no training and starts at once."""

import numpy as np

from inspection.inspector import Inspector
from utils.calibration import Calibration
from utils.config import load_config

SIZE = 64


class Brightness(Inspector):
    """The brighter, the stranger: above half of white is a defect."""

    config = load_config(overrides={"data.size": SIZE})
    calibration = Calibration(threshold=0.5, pixel_threshold=0.5, low=0.0, high=1.0, scores=[0.5])

    def predict(self, images):
        return images[..., 0].astype(np.float32) / 255, images.mean(axis=(1, 2, 3)) / 255, None

    def standardise(self, images):
        """Grey values need no scale."""
