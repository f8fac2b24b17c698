"""Detectors, and the registry through which the scripts build them by name."""

from models.base import Detector
from models.unet import UNetAutoencoder
from utils.config import Config

DETECTORS: dict[str, type[Detector]] = {
    "unet": UNetAutoencoder,
}


def build_model(config: Config) -> Detector:
    """The untrained detector that `config.model` names."""
    return DETECTORS[config.model](config)
