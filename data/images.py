"""Reading image files: whatever a camera or a scanner wrote becomes RGB uint8."""

import hashlib
import math
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin

from utils.config import Config, DataConfig, changed, default_config
from utils.errors import UserError, say_once

DEFAULTS = default_config().data
THREADS = 4
MAX_BYTES = 256 * 2**20  # of decoded images in the making, or waiting for their consumer
BAND = 256  # rows that are converted at a time
DEPTHS = (8, 10, 12, 14, 16)  # bits that cameras use of 16
SAMPLE = 64  # files at most that are read to find the depth

Image.MAX_IMAGE_PIXELS = None  # data.max_megapixels is the limit instead

Item = TypeVar("Item", bound=str | os.PathLike)
Result = TypeVar("Result")


class ImageError(UserError):
    """A file that cannot be read as an image."""


def read_image(path: Path, data: DataConfig = DEFAULTS) -> np.ndarray:
    """Read an image as RGB: uint8 [H, W, 3], upright by its EXIF orientation.

    Greyscale is repeated into three channels, palettes are looked up, transparency is laid on
    black. 16-bit values are scaled by `data.depth` bits ("auto" means 16 here) and never by the
    range of the image, so that brightness is comparable between images; higher ones are cut off
    with a warning. Floating point has to lie in [0, 1].

    Args:
        path: the file.
        data: settings; `depth`, `max_megapixels` and `tile` are read.

    Raises:
        ImageError: if the file is missing, damaged, too large, smaller than `data.tile`, no image
            or of an unsupported kind, such as one of several pages.
    """
    with opened(path, data) as image:
        check_size(image.size[::-1], data)
        depth = 16 if data.depth == "auto" else data.depth
        values = sixteen_bit(image)
        if values is not None:
            pixels = _scaled(values, depth, path)
            if pixels.ndim == 3 and pixels.shape[2] == 4:
                pixels[..., 3] = values[..., 3] >> 8  # alpha uses all 16 bits, whatever the camera
                return _to_rgb(Image.fromarray(pixels))
        elif image.mode == "F":
            pixels = _from_floats(np.asarray(ImageOps.exif_transpose(image)))
        else:
            if depth < 16 and _loses_low_bits(image):
                raise ImageError(f"its 16-bit colours need data.depth=16, not {depth}; convert it")
            return _to_rgb(ImageOps.exif_transpose(image))
        return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def check_size(size: tuple[int, int], data: DataConfig) -> None:
    """Raise `ImageError` for an image of this (height, width) that is smaller than a tile.

    It would have to be padded, and a detector calls an edge that it has not learned an anomaly.
    """
    height, width = size
    if min(size) < data.tile:
        raise ImageError(
            f"an image of {width}x{height} is smaller than a tile, data.tile={data.tile}; train "
            "with a lower one, or with data.tile=0 for whole images"
        )


def upright_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of what `read_image` returns, from the file's header."""
    with Image.open(path) as image:
        on_its_side = image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
        return image.size if on_its_side else image.size[::-1]


@contextmanager
def opened(path: Path, data: DataConfig = DEFAULTS) -> Iterator[Image.Image]:
    """Open the single picture in a file; it is decoded when its pixels are asked for.

    Raises:
        ImageError: with the file's name, for whatever fails in here or in the block.
    """
    try:
        if path.is_dir():
            raise ImageError("a folder without images")
        if path.exists() and not path.is_file():  # a pipe would block for ever
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
            if image.format == "BMP" and image.info.get("compression") == 2:  # Pillow misreads it
                raise ImageError("run-length encoded BMP of 4 bits is not supported; convert it")
            yield image
    except ImageError as error:
        raise ImageError(f"cannot read {path}: {error}") from None
    except FileNotFoundError:
        raise ImageError(f"cannot read {path}: no such file") from None
    except Exception as error:  # decoders raise many kinds on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "cannot identify" in reason:
            reason = _tiff_layout(path) or "no image, or a damaged one"
        raise ImageError(f"cannot read {path}: {reason}") from None


def _tiff_layout(path: Path) -> str | None:
    """Name the layout of a TIFF file that Pillow refuses; None if it is no TIFF or damaged."""
    with suppress(Exception), path.open("rb") as file:
        header = file.read(8)
        header += file.read(8) if header[2:4] in (b"+\0", b"\0+") else b""  # BigTIFF
        tags = TiffImagePlugin.ImageFileDirectory_v2(header)
        file.seek(tags.next)
        tags.load(file)
        bits = tags[TiffImagePlugin.BITSPERSAMPLE][0]
        channels = tags.get(TiffImagePlugin.SAMPLESPERPIXEL, 1)
        kind = {2: "signed integers", 3: "floating point"}.get(
            tags.get(TiffImagePlugin.SAMPLEFORMAT, (1,))[0], "integers"
        )
        white = tags[TiffImagePlugin.PHOTOMETRIC_INTERPRETATION] == 0
        return (
            f"TIFF of {channels} channel{'s' if channels > 1 else ''} of {bits}-bit {kind}"
            f"{', 0 being white,' if white else ''} is not supported; convert it to grey or RGB of "
            "8 or 16 bits"
        )
    return None


def sixteen_bit(image: Image.Image) -> np.ndarray | None:
    """Return the values of an image of 16 bits, upright: uint16 [H, W], [H, W, 3] or [H, W, 4].

    None if it has other types of values, or is one that `_loses_low_bits`.

    Raises:
        ImageError: if its values are integers beyond 16 bits.
    """
    if image.mode.startswith("I"):  # greyscale, in Pillow's modes I;16, I;16B and I
        values = np.asarray(ImageOps.exif_transpose(image))
        if values.min() < 0 or values.max() > 65535:
            raise ImageError(
                f"its values go from {values.min()} to {values.max()}; 32-bit integers are not "
                "supported, convert it to 8 or 16 bits"
            )
        values = values.astype(np.uint16)
        inverted = _tag(image, TiffImagePlugin.PHOTOMETRIC_INTERPRETATION) == 0  # MINISWHITE
        return 65535 - values if inverted else values
    order = _byte_order(image)
    if order is None:
        return None
    # Pillow keeps one byte of each 16-bit colour. Decoded as if in the other byte order, the same
    # file gives the other byte: value = high * 256 + low.
    high, low = (_decoded_as(image, each) for each in (order, "LB".replace(order, "")))
    return high << 8 | low


def _byte_order(image: Image.Image) -> str | None:
    """Return the order, L or B, of the bytes in 16-bit colours; None for all else."""
    if not image.tile or len(image.getbands()) < 3:
        return None
    mode, _, order = _raw_mode(image.tile[0]).partition(";16")
    native = sys.byteorder[0].upper()
    if mode in ("RGB", "RGBX", "RGBA") and order:
        return order.replace("N", native)
    # Channels one after the other: Pillow forgets that each has two bytes a value.
    if mode == "R" and not order and _tag(image, TiffImagePlugin.BITSPERSAMPLE, (8,))[0] == 16:
        return "B" if image.tag_v2.prefix == b"MM" else "L"
    return None


def _decoded_as(image: Image.Image, order: str) -> np.ndarray:
    """Return the upper bytes, upright, of 16-bit colours in this byte order: uint16 [H, W, C]."""
    with Image.open(image.filename) as other:
        tiles = []
        for tile in other.tile:
            mode = f"{_raw_mode(tile).partition(';')[0]};16{order}"
            args = mode if isinstance(tile.args, str) else (mode, *tile.args[1:])
            tiles.append(tile._replace(args=args))
        other.tile = tiles
        return np.asarray(ImageOps.exif_transpose(other), np.uint16)


def _raw_mode(tile: tuple) -> str:
    """Return how Pillow's decoder of a part of a file is to read values, such as RGB;16L."""
    *_, args = tile
    return args if isinstance(args, str) else str(args[0])


def _tag(image: Image.Image, number: int, default: object = None) -> object:
    """Return a tag of a TIFF image; the default for other formats."""
    return getattr(image, "tag_v2", {}).get(number, default)


def _loses_low_bits(image: Image.Image) -> bool:
    """Return whether Pillow reads the upper 8 bits alone of an image that is not yet decoded."""
    if len(image.getbands()) == 1 or not image.tile:
        return False
    if image.format == "JPEG2000":
        header = Path(image.filename).read_bytes()[:4096]
        start = header.find(b"\xff\x4f\xff\x51")  # codestream: the bits are 42 bytes further
        return 0 <= start < len(header) - 42 and header[start + 42] & 127 > 7
    decoder, _, _, args = image.tile[0]
    if decoder in ("ppm", "ppm_plain"):
        return args[1] > 255  # the highest value
    return ";16" in _raw_mode(image.tile[0])


def find_depth(paths: Sequence[Path], data: DataConfig) -> int:
    """Return the fewest bits, of `DEPTHS`, that hold the values of 16-bit images.

    That is 16 if there are none. A sample of the files is read; unreadable ones are left out.
    """

    def highest(path: Path) -> int | None:
        with opened(path, data) as image:
            values = sixteen_bit(image)
            if values is not None:
                return int(values[..., :3].max() if values.ndim == 3 else values.max())
            if _loses_low_bits(image):
                # value = 257 * v in [0, 65535], and v may have been rounded up
                return int((np.asarray(image.convert("RGB")).max() - 0.5) * 257)
        return None

    sample = paths[:: -(-len(paths) // SAMPLE)] if paths else []
    found = [value for _, value in read_ahead(sample, highest)]
    values = [value for value in found if isinstance(value, int)]
    return next(depth for depth in DEPTHS if max(values, default=2**16 - 1) < 2**depth)


def with_depth(config: Config, paths: Sequence[Path]) -> Config:
    """Return the settings with a number in place of `data.depth: auto`, as a run keeps them."""
    if config.data.depth != "auto":
        return config
    return changed(config, {"data.depth": find_depth(paths, config.data)})


def _scaled(values: np.ndarray, depth: int, path: Path) -> np.ndarray:
    """Scale values of so many bits, uint16 of any shape, to uint8."""
    highest, found = 2**depth - 1, values[..., :3].max() if values.ndim == 3 else values.max()
    if found > highest:
        say_once(
            f"{path} holds values up to {found}, more than the {depth} bits of data.depth; "
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


def _to_rgb(image: Image.Image) -> np.ndarray:
    """Convert an image of 8 bits: uint8 [H, W, 3]."""
    width, height = image.size
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, BAND):  # in bands: a large image would be held several times over
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
    """Read in order, in threads and a few items ahead of the consumer.

    At most `MAX_BYTES` of decoded images, by their headers, are in the making or waiting; a single
    image may be larger.

    Args:
        items: what to read: paths, or what stands for a file (`os.PathLike`).
        read: reads one of them and may raise `ImageError`.

    Yields:
        Each item with the result of reading it, or with the error.
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
                    len(pending) > 2 * THREADS or size + sum(p[1] for p in pending) > MAX_BYTES
                ):
                    yield first()
                pending.append((item, size, pool.submit(read_or_error, item)))
            while pending:
                yield first()
        finally:
            for _, _, future in pending:
                future.cancel()


def header_size(path: Path) -> tuple[int, int]:
    """Return (height, width) by the header, before EXIF orientation; (0, 0) if it is unreadable."""
    with suppress(Exception):  # of many kinds; whoever reads it reports it
        if path.is_file():
            with Image.open(path) as image:
                return image.height, image.width
    return 0, 0
