"""Inspecting images with a trained detector, whatever it runs on."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from data.images import read_image
from data.resize import resize
from utils.batches import batches
from utils.calibration import Calibration
from utils.config import Config
from utils.errors import UserError

Item = TypeVar("Item")
Failure = TypeVar("Failure")


class Inspection(NamedTuple):
    """What a detector says of one image.

    Attributes:
        image: uint8 [h, w, 3], the image at the size that the detector sees.
        reconstruction: uint8 [h, w, 3], or None for detectors that do not reconstruct.
        anomaly_map: float32 [h, w], raw.
        score: higher is stranger.
        size: (height, width) of the original image.
        milliseconds: time of the detector alone, without reading and resizing; that of its batch
            divided by the images in it.
        least_area: regions smaller than so many pixels of the original image are specks.
    """

    image: np.ndarray
    reconstruction: np.ndarray | None
    anomaly_map: np.ndarray
    score: float
    size: tuple[int, int]
    milliseconds: float
    least_area: int = 0


class _Resized(NamedTuple):
    """An image as the detector sees it, uint8 [h, w, 3], and its original (height, width)."""

    pixels: np.ndarray
    size: tuple[int, int]


class Inspector(ABC):
    """A trained detector, ready to inspect images.

    Attributes:
        config: settings that it was trained with.
        calibration: its thresholds and its range of colours.
        batch: images that go through it at once.
    """

    config: Config
    calibration: Calibration
    batch: int = 1

    @abstractmethod
    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """What the detector says of a batch of images, of each by itself.

        Args:
            images: uint8 [B, h, w, 3], of the size in the settings.

        Returns:
            Anomaly maps float32 [B, h, w], scores float32 [B] and reconstructions uint8
            [B, h, w, 3], or None for detectors that do not reconstruct.
        """

    def read(self, path: Path) -> np.ndarray:
        """Read an image file as in training: uint8 [H, W, 3]; raises `ImageError`."""
        return read_image(path, self.config.data)

    def inspect(self, image: np.ndarray) -> Inspection:
        """Resize an image, uint8 [H, W, 3], as in training and run the detector on it.

        Raises:
            UserError: if the score is not finite, as a diverged training leaves it.
        """
        ((_, inspection),) = self.inspect_all([(None, image)])
        return inspection

    def inspect_all(
        self, reader: Iterable[tuple[Item, np.ndarray | Failure]]
    ) -> Iterator[tuple[Item, Inspection | Failure]]:
        """Inspect images in batches; see `inspect`.

        Args:
            reader: items, such as paths, each with its image, uint8 [H, W, 3] of any size, or with
                what there is in its place, such as the error of a file that cannot be read.

        Yields:
            Each item, in order, with the inspection of its image or what there was in its place.
        """
        # Resized as they come: of large originals one is held, not a whole batch.
        resized = ((item, self._resized(found)) for item, found in reader)
        for group in batches(resized, self.batch):
            images = [found for _, found in group if isinstance(found, _Resized)]
            inspections = self._inspections(images)
            for item, found in group:
                yield item, next(inspections) if isinstance(found, _Resized) else found

    def _resized(self, found: np.ndarray | Failure) -> _Resized | Failure:
        if not isinstance(found, np.ndarray):
            return found
        return _Resized(resize(found, self.config.data.size), found.shape[:2])

    def _inspections(self, images: list[_Resized]) -> Iterator[Inspection]:
        """The inspections of one batch; the detector runs when the first is asked for."""
        batch = np.stack([image.pixels for image in images])
        started = time.perf_counter()
        anomaly_maps, scores, reconstructions = self.predict(batch)
        milliseconds = (time.perf_counter() - started) * 1000 / len(images)
        for number, (pixels, size) in enumerate(images):
            score = float(scores[number])
            if not np.isfinite(score):
                raise UserError(f"the detector gave the score {score}: its training has diverged")
            reconstruction = None if reconstructions is None else reconstructions[number]
            yield Inspection(
                pixels,
                reconstruction,
                anomaly_maps[number],
                score,
                size,
                milliseconds,
                self.config.score.least_area,
            )
