"""Inspecting images with a trained detector, whatever it runs on."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, TypeVar

import numpy as np
from PIL import Image

from data.images import ImageError, batches
from data.input_profile import Measures, measure
from data.mvtec import category_in_path
from data.region import read_with_region, with_region
from data.tiles import WHOLE, Grid, Slices, resize
from inspection.threshold import Calibration
from models.image_score import score_of_valid
from utils.config import Config
from utils.errors import UserError

MAX_SIDE = 1024  # pixels of the longer side of `Inspection.image`, of images cut into tiles

Item = TypeVar("Item")
Failure = TypeVar("Failure")


class Inspection(NamedTuple):
    """Result of a detector on one image.

    Attributes:
        image: uint8 [h, w, 3], the image at the size of the detector's input, without padding; of
            images cut into tiles, the whole at `MAX_SIDE` at most; black outside of `data.region`.
        reconstruction: uint8 [h, w, 3], or None for detectors without one.
        anomaly_map: float32 [H', W'], raw values, higher where the image is more anomalous; tiles
            are joined. Outside of `data.region` it has the lowest value.
        score: of the image, on the scale of the threshold.
        size: (height, width) of the original image.
        milliseconds: time of the detector alone, without reading and resizing; that of its batch
            divided by the images in it.
        least_area: regions of fewer pixels of the original image are left out.
        source: rows and columns of the original image that image and map cover: all of them, but
            for `data.resize: crop`.
        mm_per_pixel: millimetres that a pixel of the original image measures; 0: unknown.
        measures: of the image as it was read, see `data.input_profile`.
    """

    image: np.ndarray
    reconstruction: np.ndarray | None
    anomaly_map: np.ndarray
    score: float
    size: tuple[int, int]
    milliseconds: float
    least_area: int = 0
    source: Slices = WHOLE
    mm_per_pixel: float = 0.0
    measures: Measures = MappingProxyType({})

    @property
    def window(self) -> tuple[int, int, int, int]:
        """Top, left, height and width of `source` in the original image."""
        (top, bottom, _), (left, right, _) = (
            side.indices(length) for side, length in zip(self.source, self.size, strict=True)
        )
        return top, left, bottom - top, right - left

    def at_original_size(self, values: np.ndarray, outside: float) -> np.ndarray:
        """Resize values of the map's pixels, bilinearly, to the original image.

        Args:
            values: float or bool, of the shape of the map.
            outside: value of pixels that a crop left out.

        Returns:
            float32 [H, W].
        """
        _, _, height, width = self.window
        # float32: Pillow interpolates it without rounding to 8 bits.
        picture = Image.fromarray(values.astype(np.float32))
        whole = np.full(self.size, outside, np.float32)
        whole[self.source] = picture.resize((width, height), Image.Resampling.BILINEAR)
        return whole


class _Input(NamedTuple):
    """An image on its way: tiles, uint8 [T, h, w, C], `image` and `measures` of `Inspection`."""

    grid: Grid
    tiles: np.ndarray
    image: np.ndarray
    measures: Measures


class Inspector(ABC):
    """A trained detector, ready to inspect images.

    Attributes:
        config: settings that it was trained with.
        calibrations: of each category that it was trained on.
        known_defects: digests of the images of `data.defects`, which it is not measured on.
        batch: images, or tiles of one, that pass through it at once.
    """

    config: Config
    calibrations: dict[str, Calibration]
    known_defects: list[str]
    batch: int = 1

    @property
    def group(self) -> str | None:
        """`calibration.group`, where thresholds are of parts; None: images count by themselves."""
        of_parts = all(one.views for one in self.calibrations.values())
        return self.config.calibration.group if of_parts else None

    @abstractmethod
    def predict(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Run the detector on a batch.

        Args:
            images: uint8 [B, h, w, 3], of the size in the settings, or [B, h, w, 4] with the region
                of interest.

        Returns:
            Anomaly maps float32 [B, h, w], scores float32 [B] and reconstructions uint8
            [B, h, w, 3], or None for detectors without.
        """

    def category_of(self, path: str | Path) -> str:
        """Return the category of a file: that of its nearest folder with such a name.

        A detector that knows a single category takes every file for it.

        Raises:
            UserError: if there is no such folder.
        """
        known = list(self.calibrations)
        found = category_in_path(path, known)  # None only where several are known
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
        """Resize or cut an image, uint8 [H, W, 3], as in training and run the detector on it.

        The score of an image that is cut into tiles is the highest of theirs.

        Raises:
            ImageError: if it is smaller than a tile.
            UserError: if the score is not finite, as a diverged training leaves it, or there is no
                `data.region` for such an image; see `with_region`.
        """
        ((_, found),) = self.inspect_all([(None, image)])
        if isinstance(found, ImageError):
            raise found
        return found

    def inspect_all(
        self, reader: Iterable[tuple[Item, np.ndarray | Failure]]
    ) -> Iterator[tuple[Item, Inspection | Failure | ImageError]]:
        """Inspect images in batches; see `inspect`.

        Args:
            reader: items, such as paths, each with its image, uint8 [H, W, 3] of any size, or with
                a failure in its place, such as the error of a file that cannot be read.

        Yields:
            Each item, in order, with the inspection of its image or the failure.
        """
        # Resized as they come: of large originals one is held, not a whole batch.
        inputs = ((item, self._input(found)) for item, found in reader)
        # The tiles of a single image make batches of their own: there are enough of them.
        for group in batches(inputs, 1 if self.config.data.tile else self.batch):
            images = [found for _, found in group if isinstance(found, _Input)]
            inspections = self._inspections(images)
            for item, found in group:
                yield item, next(inspections) if isinstance(found, _Input) else found

    def _input(self, found: np.ndarray | Failure) -> _Input | Failure | ImageError:
        if not isinstance(found, np.ndarray):
            return found
        data, size = self.config.data, found.shape[:2]
        image, grid = with_region(found, data), Grid.over(size, data)
        try:
            tiles = grid.cut(image, data)
        except ImageError as error:  # one odd image of many
            return error
        small = scaled_to(min(MAX_SIDE, max(size)), size)
        # Without tiles a person gets the very pixels that the detector gets.
        shown = resize(image, small) if data.tile else grid.join(tiles)
        return _Input(grid, tiles, shown[..., :3], measure(image))

    def _inspections(self, images: list[_Input]) -> Iterator[Inspection]:
        """Yield the inspections of one batch; the detector runs when the first is asked for."""
        # In one array, so that all batches but the last are full, whatever image a tile is of.
        tiles = np.concatenate([image.tiles for image in images])
        started = time.perf_counter()
        outputs = [
            self.predict(tiles[start : start + self.batch])
            for start in range(0, len(tiles), self.batch)
        ]
        # predict has copied its results from the device: nothing is still being computed
        milliseconds = (time.perf_counter() - started) * 1000 / len(images)
        anomaly_maps, scores, reconstructions = (
            None if values[0] is None else np.concatenate(values)
            for values in zip(*outputs, strict=True)
        )
        end = 0
        for grid, of_image, image, measures in images:
            own = slice(end, end := end + len(grid))
            valid = grid.valid_pixels(of_image)
            score = valid_score(anomaly_maps[own], scores[own], valid, self.config.score.reduce)
            # After the score of this image, before the next: others of its batch may be fine.
            if not np.isfinite(score):
                raise UserError(f"the detector gave the score {score}: its training has diverged")
            anomaly_map, joined = grid.join(anomaly_maps[own]), grid.join(valid)
            if not joined.all():
                # Below all that is valid, and as cold as good parts: no region reaches there.
                lows = [one.low for one in self.calibrations.values()]
                anomaly_map[~joined] = min(*lows, anomaly_map[joined].min())
            reconstruction = None
            if reconstructions is not None:  # at the size of the image, to be compared with it
                reconstruction = resize(grid.join(reconstructions[own]), image.shape[:2])
            yield Inspection(
                image,
                reconstruction,
                anomaly_map,
                score,
                grid.size,
                milliseconds,
                self.config.score.least_area,
                grid.source,
                self.config.data.mm_per_pixel,
                measures,
            )


def scaled_to(side: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return a (height, width) scaled so that its longer side has this many pixels."""
    scale = side / max(size)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def valid_score(
    maps: np.ndarray, scores: np.ndarray | tuple[float, ...], valid: np.ndarray, reduce: str
) -> float:
    """Return the score of an image, the highest of its tiles, from valid pixels alone.

    Args:
        maps: float32 [T, h, w] of the tiles, or of the whole image.
        scores: [T] by the detector; they stand where all pixels are valid.
        valid: bool [T, h, w], without padding and what is outside of the region.
        reduce: `score.reduce`.

    Raises:
        UserError: if no pixel is valid.
    """
    # The detector may score by more than its map, as PatchCore's reweighting does. Where padding
    # is in the map, the score is taken again from what remains of it.
    if valid.all():
        return float(np.max(scores))
    own = [
        score_of_valid(values[inside], reduce)
        for values, inside in zip(maps, valid, strict=True)
        if inside.any()
    ]
    if not own:
        raise UserError(
            "nothing of data.region is left at data.size, for its pieces are too thin or "
            "data.resize crops them; draw it thicker"
        )
    return max(own)
