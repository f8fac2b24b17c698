"""Reading image files: whatever a camera or a scanner wrote becomes RGB uint8."""

import glob
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np
from PIL import Image, ImageOps

from data.resize import resize
from utils.errors import UserError

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
THREADS = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


class ImageError(UserError):
    """A file that cannot be read as an image."""


def is_image(path: Path) -> bool:
    """Whether the file's name says image; hidden files are none."""
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".")


def list_images(folder: Path) -> list[Path]:
    """Image files directly in a folder, by name; none where there is no such folder."""
    return sorted(path for path in folder.glob("*") if is_image(path) and path.is_file())


def expand(arguments: Iterable[str]) -> list[Path]:
    """Image files meant by files, folders (with all below them) and glob patterns, each once.

    What gives no image, such as a path that does not exist or a pattern that nothing matches, is
    kept as it is, so that whoever reads it reports it.

    Raises:
        UserError: if an argument is empty, which a script's unset variable would be.
    """
    found: list[Path] = []
    for argument in arguments:
        if not argument:
            raise UserError("the name of an image or folder is empty; this folder is named '.'")
        path = Path(argument)
        matches: list[Path] = []
        if path.is_dir():
            matches = sorted(path.rglob("*"))
        elif not path.exists() and glob.has_magic(argument):
            names = glob.glob(argument, recursive=True)  # noqa: PTH207  (may be absolute)
            matches = [Path(match) for match in sorted(names)]
        found += [match for match in matches if is_image(match) and not match.is_dir()] or [path]
    return list(dict.fromkeys(found))


def read_image(path: Path) -> np.ndarray:
    """Read an image as RGB: uint8 [H, W, 3], upright as its EXIF orientation says.

    Greyscale is repeated into three channels; palettes are looked up; what is transparent is laid
    on black; 16-bit values are scaled by 255/65535 whatever range they use, so that brightness
    stays comparable between images; floating point is taken as [0, 1].

    Raises:
        ImageError: if the file is missing, damaged, no image, or of a kind not named above.
    """
    try:
        if path.is_dir():
            raise ImageError("a folder without images")
        if path.exists() and not path.is_file():
            raise ImageError("no regular file")  # opening a pipe would wait for whoever fills it
        with Image.open(path) as image:
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
    except ImageError as error:
        raise ImageError(f"cannot read {path}: {error}") from None
    except FileNotFoundError:
        raise ImageError(f"cannot read {path}: no such file") from None
    except Image.DecompressionBombError:
        raise ImageError(f"cannot read {path}: more than 178 million pixels") from None
    except Exception as error:  # decoders raise many kinds on damaged files
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "cannot identify" in reason:
            reason = "no image, or a damaged one"
        raise ImageError(f"cannot read {path}: {reason}") from None


def read_resized(path: Path, size: tuple[int, int]) -> np.ndarray:
    """Read an image, as `read_image` does, and resize it: uint8 [height, width, 3]."""
    return resize(read_image(path), size)


def _to_rgb(image: Image.Image) -> np.ndarray:
    if image.mode.startswith("I"):  # 16-bit greyscale, in Pillow's modes I;16, I;16B and I
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ImageError("32-bit integers are not supported; convert it to 8 or 16 bits")
        return _grey((values * 255 + 32767) // 65535)
    if image.mode == "F":
        values = np.asarray(image)
        if not (np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1):
            raise ImageError("floating point values must lie in [0, 1]")
        return _grey(np.rint(values * 255))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        black = Image.new("RGBA", image.size, (0, 0, 0, 255))
        image = Image.alpha_composite(black, image)
    return np.array(image.convert("RGB"))


def _grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


def read_ahead(
    items: Iterable[Item], read: Callable[[Item], Result]
) -> Iterator[tuple[Item, Result | ImageError]]:
    """Read in order, a few items ahead of the consumer in threads; memory stays bounded.

    Args:
        items: what to read, such as paths.
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
        pending: deque = deque()
        try:
            for item in items:
                pending.append((item, pool.submit(read_or_error, item)))
                if len(pending) > 2 * THREADS:
                    item, future = pending.popleft()
                    yield item, future.result()
            while pending:
                item, future = pending.popleft()
                yield item, future.result()
        finally:
            for _, future in pending:
                future.cancel()
