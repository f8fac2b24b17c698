"""Inspecting images with a trained detector, whatever it runs on."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from data.images import batches
from data.mvtec import category_in_path
from data.region import read_with_region, with_region
from data.resize import WHOLE, Window, resize
from data.tiles import Grid
from inspection.threshold import Calibration
from utils.config import Config
from utils.errors import UserError

SHOWN = 1024  # longer side, in pixels at most, of the picture of an image that is seen in tiles

Item = TypeVar("Item")
Failure = TypeVar("Failure")


class Inspection(NamedTuple):
    """What a detector says of one image.

    Attributes:
        image: uint8 [h, w, 3], the image at the size that the detector sees it, without padding;
            where that sees tiles, small enough to look at; black outside of `data.region`.
        reconstruction: uint8 of the same shape, or None for detectors that do not reconstruct.
        anomaly_map: float32 [h, w] of what the image shows, raw; of tiles, joined; as cold as good
            parts, or colder, outside of `data.region`.
        score: higher is stranger.
        size: (height, width) of the original image.
        milliseconds: time of the detector alone, without reading and resizing; that of its batch
            divided by the images in it.
        least_area: regions smaller than so many pixels of the original image are specks.
        shown: rows and columns of the original image that all of these show: but for those of
            `data.resize: crop` the whole of it.
    """

    image: np.ndarray
    reconstruction: np.ndarray | None
    anomaly_map: np.ndarray
    score: float
    size: tuple[int, int]
    milliseconds: float
    least_area: int = 0
    shown: Window = WHOLE

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


class _Seen(NamedTuple):
    """An image as the detector sees it: its tiles, uint8 [T, h, w, C], and a picture to show."""

    grid: Grid
    tiles: np.ndarray
    picture: np.ndarray


class Inspector(ABC):
    """A trained detector, ready to inspect images.

    Attributes:
        config: settings that it was trained with.
        calibrations: of each category that it knows, its thresholds and its range of colours.
        batch: images, or tiles of one, that go through it at once.
    """

    config: Config
    calibrations: dict[str, Calibration]
    batch: int = 1

    @abstractmethod
    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """What the detector says of a batch of images, of each by itself.

        Args:
            images: uint8 [B, h, w, 3], of the size in the settings, or [B, h, w, 4] with the region
                of interest.

        Returns:
            Anomaly maps float32 [B, h, w], scores float32 [B] and reconstructions uint8
            [B, h, w, 3], or None for detectors that do not reconstruct.
        """

    def category_of(self, path: str | Path) -> str:
        """Return the category of a file: that of its nearest folder with such a name.

        A detector that knows a single category takes every file for it.

        Raises:
            UserError: if there is no such folder.
        """
        known = list(self.calibrations)
        found = category_in_path(path, known)
        if found is None:
            raise UserError(
                f"{path} lies in no folder named as one of the categories {', '.join(known)}; "
                "name its category by --category"
            )
        return found

    def read(self, path: Path) -> np.ndarray:
        """Read an image file as in training; see `read_with_region`."""
        return read_with_region(path, self.config.data)

    def inspect(self, image: np.ndarray) -> Inspection:
        """Fit or cut an image, uint8 [H, W, 3], as in training and run the detector on it.

        The score of an image that is seen in tiles is that of its strangest tile.

        Raises:
            UserError: if the score is not finite, as a diverged training leaves it, or there is no
                `data.region` for such an image; see `with_region`.
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
        seen = ((item, self._seen(found)) for item, found in reader)
        # The tiles of a single image make batches of their own.
        for group in batches(seen, 1 if self.config.data.tile else self.batch):
            images = [found for _, found in group if isinstance(found, _Seen)]
            inspections = self._inspections(images)
            for item, found in group:
                yield item, next(inspections) if isinstance(found, _Seen) else found

    def _seen(self, found: np.ndarray | Failure) -> _Seen | Failure:
        if not isinstance(found, np.ndarray):
            return found
        data, size = self.config.data, found.shape[:2]
        image, grid = with_region(found, data), Grid.over(size, data)
        tiles = grid.cut(image, data)
        shown = scaled_to(min(SHOWN, max(size)), size)
        picture = resize(image, shown) if data.tile else grid.join(tiles)
        return _Seen(grid, tiles, picture[..., :3])

    def _inspections(self, images: list[_Seen]) -> Iterator[Inspection]:
        """The inspections of one batch; the detector runs when the first is asked for."""
        tiles = np.concatenate([image.tiles for image in images])
        started = time.perf_counter()
        parts = [
            self.predict(tiles[start : start + self.batch])
            for start in range(0, len(tiles), self.batch)
        ]
        milliseconds = (time.perf_counter() - started) * 1000 / len(images)
        anomaly_maps, scores, reconstructions = (
            None if of_parts[0] is None else np.concatenate(of_parts)
            for of_parts in zip(*parts, strict=True)
        )
        end = 0
        for grid, of_image, picture in images:
            own = slice(end, end := end + len(grid))
            valid = grid.valid_pixels(of_image)
            score = shown_score(anomaly_maps[own], scores[own], valid, self.config.score.reduce)
            anomaly_map, shown = grid.join(anomaly_maps[own]), grid.join(valid)
            if not shown.all():
                lows = [one.low for one in self.calibrations.values()]
                anomaly_map[~shown] = min(*lows, anomaly_map[shown].min())
            if not np.isfinite(score):
                raise UserError(f"the detector gave the score {score}: its training has diverged")
            reconstruction = None
            if reconstructions is not None:
                reconstruction = resize(grid.join(reconstructions[own]), picture.shape[:2])
            yield Inspection(
                picture,
                reconstruction,
                anomaly_map,
                score,
                grid.size,
                milliseconds,
                self.config.score.least_area,
                grid.shown,
            )


def scaled_to(side: int, size: tuple[int, int]) -> tuple[int, int]:
    """A (height, width) whose longer side becomes one of so many pixels."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def shown_score(
    maps: np.ndarray, scores: np.ndarray | tuple[float, ...], valid: np.ndarray, reduce: str
) -> float:
    """The score of an image, to which neither padding nor what lies outside of its region adds.

    Args:
        maps: float32 [T, h, w] of the frame, or of the tiles, of which the strangest decides.
        scores: [T] that the detector gives them; they stand where all of the image counts.
        valid: bool [T, h, w], what counts of each; see `Grid.valid`.
        reduce: `score.reduce`, how a map becomes a score.

    Raises:
        UserError: if nothing counts.
    """
    if valid.all():
        return float(np.max(scores))
    parts = [one[own] for one, own in zip(maps, valid, strict=True) if own.any()]
    if not parts:
        raise UserError(
            "nothing of data.region is left at data.size, for its pieces are too thin or are "
            "cropped by data.resize; draw it thicker"
        )
    scores = []
    for values in parts:
        count = 1 if reduce == "max" else max(1, values.size // 100)  # as image_score
        scores.append(np.partition(values, -count)[-count:].mean())
    return float(max(scores))
