"""Inspecting images with a trained detector, whatever it runs on."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from data.images import read_image
from data.resize import Placement, Window, fit, placement
from inspection.shown_score import shown_score
from utils.batches import batches
from utils.calibration import Calibration
from utils.config import Config
from utils.errors import UserError

Item = TypeVar("Item")
Failure = TypeVar("Failure")


class Inspection(NamedTuple):
    """What a detector says of one image.

    Attributes:
        image: uint8 [h, w, 3], the image at the size that the detector sees it, without padding.
        reconstruction: uint8 [h, w, 3], or None for detectors that do not reconstruct.
        anomaly_map: float32 [h, w] of the same pixels, raw.
        score: higher is stranger.
        size: (height, width) of the original image.
        milliseconds: time of the detector alone, without reading and resizing; that of its batch
            divided by the images in it.
        least_area: regions smaller than so many pixels of the original image are specks.
        shown: rows and columns of the original image that all of these show: but for those of
            `data.fit: crop` the whole of it.
    """

    image: np.ndarray
    reconstruction: np.ndarray | None
    anomaly_map: np.ndarray
    score: float
    size: tuple[int, int]
    milliseconds: float
    least_area: int = 0
    shown: Window = (slice(None), slice(None))

    @property
    def part(self) -> tuple[int, int, int, int]:
        """Top, left, height and width of what is shown of the original image."""
        (top, bottom, _), (left, right, _) = (
            side.indices(length) for side, length in zip(self.shown, self.size, strict=True)
        )
        return top, left, bottom - top, right - left

    def at_original_size(self, values: np.ndarray, unseen: float) -> np.ndarray:
        """Values of the map's pixels, bilinearly at those of the original image.

        Args:
            values: float or bool [h, w].
            unseen: what to say where a crop left the image unseen.

        Returns:
            float32 [H, W].
        """
        _, _, height, width = self.part
        picture = Image.fromarray(values.astype(np.float32))
        whole = np.full(self.size, unseen, np.float32)
        whole[self.shown] = picture.resize((width, height), Image.Resampling.BILINEAR)
        return whole


class _Fitted(NamedTuple):
    """An image as the detector sees it, uint8 [h, w, 3], and what it was before."""

    pixels: np.ndarray
    size: tuple[int, int]
    placement: Placement


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
        """Fit an image, uint8 [H, W, 3], into the frame as in training and run the detector on it.

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
        fitted = ((item, self._fitted(found)) for item, found in reader)
        for group in batches(fitted, self.batch):
            images = [found for _, found in group if isinstance(found, _Fitted)]
            inspections = self._inspections(images)
            for item, found in group:
                yield item, next(inspections) if isinstance(found, _Fitted) else found

    def _fitted(self, found: np.ndarray | Failure) -> _Fitted | Failure:
        if not isinstance(found, np.ndarray):
            return found
        size, data = found.shape[:2], self.config.data
        return _Fitted(fit(found, data), size, placement(size, data))

    def _inspections(self, images: list[_Fitted]) -> Iterator[Inspection]:
        """The inspections of one batch; the detector runs when the first is asked for."""
        batch = np.stack([image.pixels for image in images])
        started = time.perf_counter()
        anomaly_maps, scores, reconstructions = self.predict(batch)
        milliseconds = (time.perf_counter() - started) * 1000 / len(images)
        for number, (pixels, size, (shown, inside)) in enumerate(images):
            anomaly_map = anomaly_maps[number][inside]
            score = shown_score(anomaly_map, float(scores[number]), self.config)
            if not np.isfinite(score):
                raise UserError(f"the detector gave the score {score}: its training has diverged")
            yield Inspection(
                pixels[inside],
                None if reconstructions is None else reconstructions[number][inside],
                anomaly_map,
                score,
                size,
                milliseconds,
                self.config.score.least_area,
                shown,
            )
