"""Reading image files: whatever a camera or a scanner wrote becomes RGB uint8."""

import hashlib
import math
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps

from utils.config import DataConfig, default_config
from utils.errors import UserError, say_once

DEFAULTS = default_config().data
THREADS = 4
AHEAD = 256 * 2**20
"""Bytes of decoded images that may wait for their consumer, or be in the making."""
BAND = 256  # rows that are converted at a time

Image.MAX_IMAGE_PIXELS = None  # data.max_megapixels says it instead

Item = TypeVar("Item", bound=str | os.PathLike)
Result = TypeVar("Result")


class ImageError(UserError):
    """A file that cannot be read as an image."""


def read_image(path: Path, data: DataConfig = DEFAULTS) -> np.ndarray:
    """Read an image as RGB: uint8 [H, W, 3], upright as its EXIF orientation says.

    Greyscale is repeated into three channels; palettes are looked up; what is transparent is laid
    on black; 16-bit values are scaled by what `data.depth` bits hold, whatever range this image
    uses, so that brightness stays comparable between images ("auto" here means 16; what exceeds
    it is cut off, and said); floating point is taken as [0, 1].

    Args:
        path: the file.
        data: settings; `depth` and `max_megapixels` are read.

    Raises:
        ImageError: if the file is missing, damaged, too large, no image, or of a kind not named
            above, such as one of several pages.
    """
    with opened(path, data) as image:
        deep = is_deep_colour(image)
        ImageOps.exif_transpose(image, in_place=True)
        depth = 16 if data.depth == "auto" else data.depth
        if image.mode.startswith("I"):  # 16-bit greyscale, in Pillow's modes I;16, I;16B and I
            return _grey(_scaled(sixteen_bit(image), depth, path))
        if image.mode == "F":
            return _grey(_from_floats(np.asarray(image)))
        if deep and depth < 16:  # Pillow keeps the upper 8 bits alone
            raise ImageError(f"16-bit colours need data.depth=16, not {depth}; or convert it")
        return _to_rgb(image)


def upright_size(path: Path) -> tuple[int, int]:
    """(height, width) that `read_image` gives an image, as the header of its file tells."""
    with Image.open(path) as image:
        on_its_side = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.size if on_its_side else image.size[::-1]


@contextmanager
def opened(path: Path, data: DataConfig = DEFAULTS) -> Iterator[Image.Image]:
    """The single picture in a file, decoded when its pixels are asked for.

    Raises:
        ImageError: with the file's name, for whatever goes wrong in here or in the block.
    """
    try:
        if path.is_dir():
            raise ImageError("a folder without images")
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            raise ImageError("no regular file")
        with Image.open(path) as image:
            megapixels = image.width * image.height / 1e6
            if megapixels > data.max_megapixels:
                raise ImageError(
                    f"{image.width}x{image.height} are {megapixels:g} megapixels, more than "
                    f"data.max_megapixels, which is {data.max_megapixels:g}; raise it, "
                    "of a finished run by: python calibrate.py RUN --set data.max_megapixels=N"
                )
            pages = getattr(image, "n_frames", 1)
            if pages > 1 and image.format != "MPO":  # a phone's photo with its preview
                raise ImageError(f"it holds {pages} pages; save each as a file of its own")
            yield image
    except ImageError as error:
        raise ImageError(f"cannot read {path}: {error}") from None
    except FileNotFoundError:
        raise ImageError(f"cannot read {path}: no such file") from None
    except Exception as error:  # decoders raise many kinds on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "cannot identify" in reason:
            reason = "no image, or a damaged one"
        raise ImageError(f"cannot read {path}: {reason}") from None


def sixteen_bit(image: Image.Image) -> np.ndarray:
    """Values of a picture in one of Pillow's integer modes: uint16 [H, W]; raises `ImageError`."""
    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise ImageError(
            f"its values go from {values.min()} to {values.max()}; 32-bit integers are not "
            "supported, convert it to 8 or 16 bits"
        )
    return values.astype(np.uint16, copy=False)


def is_deep_colour(image: Image.Image) -> bool:
    """Whether a file, not yet decoded, has 16 bits in several channels, as its raw mode says."""
    return len(image.getbands()) > 1 and f"{image.mode};16" in str(image.tile)


def _scaled(values: np.ndarray, depth: int, path: Path) -> np.ndarray:
    """Values of so many bits, uint16 [H, W], as 8 bits."""
    highest = 2**depth - 1
    if values.max() > highest:
        say_once(
            f"{path} holds values up to {values.max()}, more than the {depth} bits of data.depth; "
            "what is brighter is cut off"
        )
    table = np.rint(np.arange(2**16) * (255 / highest)).clip(max=255).astype(np.uint8)
    return table[values]


def _from_floats(values: np.ndarray) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ImageError("some of its floating point values are not finite")
    if values.min() < 0 or values.max() > 1:
        raise ImageError(
            f"its floating point values go from {values.min():g} to {values.max():g}, but should "
            "lie in [0, 1]"
        )
    return np.rint(values * 255).astype(np.uint8)


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[..., None], 3, axis=2)


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Pixels of a picture of 8 bits; in bands, or a large one would be held several times over."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, BAND):
        bottom = min(top + BAND, height)
        band = image.crop((0, top, width, bottom))
        if band.has_transparency_data:
            band = band.convert("RGBA")
            band = Image.alpha_composite(Image.new("RGBA", band.size, (0, 0, 0, 255)), band)
        pixels[top:bottom] = band.convert("RGB")
    return pixels


def batches(items: Iterable[Result], size: int) -> Iterator[list[Result]]:
    """Yield the items in order, `size` at a time; the last ones may be fewer."""
    remaining = iter(items)
    while batch := list(islice(remaining, size)):
        yield batch


def pixel_digest(image: np.ndarray) -> str:
    """Return a digest of an image's pixels, uint8 [H, W, C]: the same for copies in any format."""
    digest = hashlib.blake2b(str(image.shape).encode(), digest_size=16)
    digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result]
) -> Iterator[tuple[Item, Result | ImageError]]:
    """Read in order, a few items ahead of the consumer in threads; memory stays bounded.

    No more than `AHEAD` bytes of decoded images, as their headers tell, are in the making or
    waiting; a single image may be larger.

    Args:
        items: what to read: paths, or what stands for a file (`os.PathLike`).
        read: reads one of them and may raise `ImageError`.

    Yields:
        Each item with what reading it gave, or with the error.
    """

    def read_or_error(item: Item) -> Result | ImageError:
        try:
            return read(item)
        except ImageError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        pending: deque[tuple[Item, int, Future]] = deque()

        def first() -> tuple[Item, Result | ImageError]:
            item, _, future = pending.popleft()
            return item, future.result()

        try:
            for item in items:
                size = 3 * math.prod(header_size(Path(item)))  # bytes
                while pending and (
                    len(pending) > 2 * THREADS or size + sum(p[1] for p in pending) > AHEAD
                ):
                    yield first()
                pending.append((item, size, pool.submit(read_or_error, item)))
            while pending:
                yield first()
        finally:
            for _, _, future in pending:
                future.cancel()


def header_size(path: Path) -> tuple[int, int]:
    """(height, width) of an image before it is turned upright, as its header tells, or (0, 0)."""
    try:
        if path.is_file():
            with Image.open(path) as image:
                return image.height, image.width
    except Exception:  # of many kinds; whoever reads it reports it
        pass
    return 0, 0
