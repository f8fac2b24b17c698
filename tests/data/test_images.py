import os
import struct
import zlib

import numpy as np
import pytest
import torch
from drawn_images import settings
from PIL import Image

from data import images
from data.images import ImageError, find_depth, read_ahead, read_image, with_depth
from data.listing import list_images
from data.tensors import to_batch, to_pixels
from data.tiles import resize
from utils.config import load_config

RAMP = np.arange(48, dtype=np.uint8).reshape(6, 8) * 5


def rgb(grey):
    return np.repeat(np.asarray(grey, np.uint8)[..., None], 3, axis=2)


def save(path, image, **options):
    image.save(path, **options)
    return path


def test_greyscale_is_repeated(tmp_path):
    path = save(tmp_path / "a.png", Image.fromarray(RAMP))
    assert np.array_equal(read_image(path), rgb(RAMP))


def test_bilevel_and_palette_are_looked_up(tmp_path):
    bits = RAMP > 100
    path = save(tmp_path / "a.png", Image.fromarray(bits))
    assert np.array_equal(read_image(path), rgb(bits * 255))
    colours = np.stack([RAMP, 255 - RAMP, RAMP // 2], axis=2)
    path = save(tmp_path / "b.png", Image.fromarray(colours).quantize(48, dither=0))
    with Image.open(path) as image:
        assert image.mode == "P"
    assert np.abs(read_image(path).astype(int) - colours).max() <= 8


def test_transparency_is_laid_on_black(tmp_path):
    colours = np.dstack([rgb(RAMP), np.full_like(RAMP, 255)])
    colours[0, :, 3] = 0
    expected = rgb(RAMP)
    expected[0] = 0
    path = save(tmp_path / "a.png", Image.fromarray(colours))
    assert np.array_equal(read_image(path), expected)
    path = save(tmp_path / "b.png", Image.fromarray(colours).convert("LA"))
    assert np.array_equal(read_image(path), expected)


def test_palette_transparency_is_laid_on_black(tmp_path):
    image = Image.fromarray((RAMP > 100).astype(np.uint8), "P")
    image.putpalette([200, 100, 50, 10, 20, 30])
    path = save(tmp_path / "a.png", image, transparency=0)
    pixels = read_image(path)
    assert (pixels[RAMP <= 100] == 0).all()
    assert (pixels[RAMP > 100] == (10, 20, 30)).all()


def test_sixteen_bits_keep_their_scale(tmp_path):
    values = RAMP.astype(np.uint16) * 257
    path = save(tmp_path / "a.png", Image.fromarray(values))
    assert np.array_equal(read_image(path), rgb(RAMP))
    # A dark image stays dark: nothing is stretched to the range that it happens to use.
    path = save(tmp_path / "b.tif", Image.fromarray(np.full((4, 4), 2570, np.uint16)))
    assert (read_image(path) == 10).all()


def test_floats_are_unit_range(tmp_path):
    path = save(tmp_path / "a.tif", Image.fromarray((RAMP / 255).astype(np.float32)))
    assert np.array_equal(read_image(path), rgb(RAMP))
    path = save(tmp_path / "b.tif", Image.fromarray(np.full((4, 4), 7, np.float32)))
    with pytest.raises(ImageError, match=r"from 7 to 7, .* \[0, 1\]"):
        read_image(path)


def sixteen(path, *values):
    return save(path, Image.fromarray(np.array([values], np.uint16)))


def test_a_camera_of_twelve_bits_is_scaled_by_them(tmp_path, capsys):
    paths = [sixteen(tmp_path / f"{number}.png", 0, 3000 + number) for number in range(3)]
    (tmp_path / "bad.png").write_text("damaged")
    config = with_depth(load_config(), [*paths, tmp_path / "bad.png"])
    assert config.data.depth == 12
    assert with_depth(config, []) == config  # known once and for all
    path = sixteen(tmp_path / "a.tif", 0, 2048, 4095)
    assert read_image(path, config.data)[0, :, 0].tolist() == [0, 128, 255]
    assert capsys.readouterr().err == ""
    path = sixteen(tmp_path / "b.png", 0, 4095, 5000)
    assert read_image(path, config.data)[0, :, 0].tolist() == [0, 255, 255]
    assert "b.png holds values up to 5000" in capsys.readouterr().err
    eight = save(tmp_path / "c.png", Image.fromarray(RAMP))
    assert np.array_equal(read_image(eight, config.data), rgb(RAMP))
    assert find_depth([eight], config.data) == 16


@pytest.mark.parametrize(("highest", "depth"), [(255, 8), (256, 10), (16383, 14), (16384, 16)])
def test_the_depth_is_the_smallest_that_holds_the_values(tmp_path, highest, depth):
    assert find_depth([sixteen(tmp_path / "a.png", 7, highest)], settings()) == depth


def write_tiff(path, values, photometric=2, planar=1, order="<", sample_format=1):
    """Write an uncompressed TIFF of any layout, of values [H, W] or [H, W, C], in few lines."""
    planes = list(np.moveaxis(values, 2, 0)) if planar == 2 else [values]
    data = [plane.astype(plane.dtype.newbyteorder(order)).tobytes() for plane in planes]
    starts = [8 + sum(map(len, data[:number])) for number in range(len(data))]
    (height, width), channels = values.shape[:2], values[0, 0].size
    tags = {
        256: [width], 257: [height], 258: [values.dtype.itemsize * 8] * channels, 259: [1],
        262: [photometric], 273: starts, 277: [channels], 278: [height], 279: list(map(len, data)),
        284: [planar], 338: [0] * max(0, channels - 3), 339: [sample_format] * channels,
    }  # fmt: skip
    tags = {tag: numbers for tag, numbers in tags.items() if numbers}
    end = 8 + sum(map(len, data))
    directory, more = struct.pack(order + "H", len(tags)), b""
    for tag, numbers in tags.items():
        packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
        if len(packed) > 4:
            at = end + 2 + 12 * len(tags) + 4 + len(more)
            packed, more = struct.pack(order + "I", at), more + packed
        directory += struct.pack(order + "HHI", tag, 4, len(numbers)) + packed
    mark = b"II*\0" if order == "<" else b"MM\0*"
    whole = mark + struct.pack(order + "I", end) + b"".join(data) + directory + bytes(4) + more
    path.write_bytes(whole)
    return path


def deep(highest):
    return np.random.default_rng(0).integers(0, highest + 1, (40, 30, 3), np.uint16)


def scaled(values, depth):
    return np.rint(values * (255 / (2**depth - 1))).astype(np.uint8)


@pytest.mark.parametrize("depth", [12, 16])
@pytest.mark.parametrize(
    "name",
    ["a.png", "lzw.tif", "deflate.tif", "little.tif", "big.tif", "planes.tif", "swapped.tif"],
)
def test_colours_of_sixteen_bits_are_scaled_as_grey_is(tmp_path, name, depth):
    import cv2  # Pillow writes no such files

    values, path = deep(2**depth - 1), tmp_path / name
    if name in ("a.png", "lzw.tif", "deflate.tif"):
        flags = [cv2.IMWRITE_TIFF_COMPRESSION, 8] if name == "deflate.tif" else []
        cv2.imwrite(str(path), values[..., ::-1].copy(), flags)
    else:
        order = ">" if name in ("big.tif", "swapped.tif") else "<"
        write_tiff(
            path, values, planar=2 if name in ("planes.tif", "swapped.tif") else 1, order=order
        )
    assert find_depth([path], settings()) == depth
    assert np.array_equal(read_image(path, settings(depth=depth)), scaled(values, depth))


def test_alpha_of_sixteen_bits_is_laid_on_black(tmp_path):
    import cv2

    values = deep(4095)
    alpha = np.full(values.shape[:2], 65535, np.uint16)
    alpha[:20] = 0
    cv2.imwrite(str(tmp_path / "a.png"), np.dstack([values[..., ::-1], alpha]))
    assert find_depth([tmp_path / "a.png"], settings()) == 12
    pixels = read_image(tmp_path / "a.png", settings(depth=12))
    assert (pixels[:20] == 0).all()
    assert np.array_equal(pixels[20:], scaled(values, 12)[20:])


def test_deep_colours_are_turned_upright(tmp_path):
    import cv2

    values = deep(65535)
    cv2.imwrite(str(tmp_path / "a.png"), values[..., ::-1].copy())
    with Image.open(tmp_path / "a.png") as image:
        exif = image.getexif()
    exif[0x0112] = 6
    content = (tmp_path / "a.png").read_bytes()
    chunk = b"eXIf" + exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk))
    (tmp_path / "a.png").write_bytes(content[:33] + chunk + content[33:])  # behind the header
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(scaled(values, 16), -1))


def test_colours_whose_upper_half_is_all_that_is_read_need_all_bits(tmp_path):
    import cv2

    cv2.imwrite(str(tmp_path / "a.ppm"), np.full((4, 4, 3), 4000, np.uint16))
    depth = find_depth([tmp_path / "a.ppm"], settings())
    assert depth == 12
    with pytest.raises(ImageError, match="16-bit colours need data.depth=16, not 12"):
        read_image(tmp_path / "a.ppm", settings(depth=depth))
    assert np.abs(read_image(tmp_path / "a.ppm").astype(int) - 15.5).max() < 1


def test_white_is_zero_in_some_tiffs(tmp_path):
    values = deep(65535)[..., 0]
    path = write_tiff(tmp_path / "a.tif", 65535 - values, photometric=0)
    assert np.array_equal(read_image(path), rgb(scaled(values, 16)))


@pytest.mark.parametrize(
    ("values", "sample_format", "words"),
    [
        (np.zeros((4, 6), np.float16), 3, "TIFF of 1 channel of 16-bit floating point is not"),
        (np.zeros((4, 6), np.float64), 3, "TIFF of 1 channel of 64-bit floating point is not"),
        (np.zeros((4, 6, 5), np.uint8), 1, "TIFF of 5 channels of 8-bit integers is not supported"),
    ],
)
def test_layouts_of_tiff_that_are_not_supported_are_named(tmp_path, values, sample_format, words):
    path = write_tiff(tmp_path / "a.tif", values, photometric=1, sample_format=sample_format)
    with pytest.raises(ImageError, match=words):
        read_image(path)


def test_packed_bitmaps_of_four_bits_are_refused(tmp_path):
    pixels = bytes([8, 0x12, 0, 0, 8, 0x34, 0, 1])  # two rows of eight
    header = struct.pack("<IiiHHIIiiII", 40, 8, 2, 1, 4, 2, len(pixels), 0, 0, 16, 0)
    palette = b"".join(bytes([16 * n, 16 * n, 16 * n, 0]) for n in range(16))
    offset = 14 + len(header) + len(palette)
    head = b"BM" + struct.pack("<IHHI", offset + len(pixels), 0, 0, offset)
    (tmp_path / "a.bmp").write_bytes(head + header + palette + pixels)
    with pytest.raises(ImageError, match="run-length encoded BMP of 4 bits"):
        read_image(tmp_path / "a.bmp")


def test_files_of_several_pages_are_refused_by_their_number(tmp_path):
    pages = [Image.new("L", (8, 8), value) for value in (10, 20, 30)]
    for name in ("a.tif", "b.gif", "c.webp", "d.png"):
        pages[0].save(tmp_path / name, save_all=True, append_images=pages[1:])
        with pytest.raises(ImageError, match=f"{name}: it holds 3 pages"):
            read_image(tmp_path / name)
    # Phones put a preview behind the photograph.
    pages[0].save(tmp_path / "e.jpg", format="MPO", save_all=True, append_images=pages[1:])
    assert np.abs(read_image(tmp_path / "e.jpg").astype(int) - 10).max() < 3


def test_images_smaller_than_a_tile_are_refused(tmp_path):
    path = save(tmp_path / "a.png", Image.new("L", (80, 63)))
    with pytest.raises(ImageError, match="80x63 is smaller than a tile, data.tile=64"):
        read_image(path, settings(tile=64))
    path = save(tmp_path / "b.png", Image.new("L", (80, 64)))
    assert read_image(path, settings(tile=64)).shape == (64, 80, 3)


def test_large_images_need_a_setting(tmp_path):
    path = save(tmp_path / "line_scan.png", Image.new("1", (20_000, 10_000)))
    with pytest.raises(ImageError, match="20000x10000 are 200 megapixels.*data.max_megapixels"):
        read_image(path)
    assert read_image(path, settings(max_megapixels=201)).shape == (10_000, 20_000, 3)


def test_tall_images_are_whole(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (images.BAND * 2 + 3, 5, 3), np.uint8)
    path = save(tmp_path / "a.png", Image.fromarray(colours))
    assert np.array_equal(read_image(path), colours)


def test_pipes_are_never_opened(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ImageError, match="no regular file"):
        read_image(tmp_path / "a.png")
    ((_, found),) = read_ahead([tmp_path / "a.png"], read_image)
    assert isinstance(found, ImageError)


def test_cmyk_becomes_rgb(tmp_path):
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    path = save(tmp_path / "a.jpg", red.convert("CMYK"))
    assert read_image(path).shape == (16, 16, 3)
    assert np.abs(read_image(path).astype(int) - (255, 0, 0)).max() < 20


def test_exif_orientation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate clockwise by 90 degrees to view
    pixels = np.zeros((16, 32), np.uint8)
    pixels[:, 16:] = 255
    path = save(tmp_path / "a.jpg", Image.fromarray(pixels), exif=exif, quality=95)
    upright = read_image(path)
    assert upright.shape == (32, 16, 3)
    assert upright[:14].max() < 40
    assert upright[18:].min() > 215


def test_all_formats_are_listed_and_read(tmp_path):
    names = ["a.png", "b.jpg", "c.jpeg", "d.bmp", "e.tif", "f.webp", "g.PNG", "h.gif", "i.pgm"]
    for name in names:
        save(tmp_path / name, Image.fromarray(rgb(RAMP)))
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / ".hidden.png").write_text("no image")
    assert [path.name for path in list_images(tmp_path)] == sorted(names)
    assert all(read_image(path).shape == (6, 8, 3) for path in list_images(tmp_path))


def damaged_files(folder):
    whole = save(folder / "whole.jpg", Image.effect_noise((64, 64), 50))
    (folder / "cut.jpg").write_bytes(whole.read_bytes()[:600])
    (folder / "text.png").write_text("this is no image")
    (folder / "empty.png").touch()
    save(folder / "wide.tif", Image.fromarray(np.full((4, 4), 70000, np.int32)))
    return ["cut.jpg", "text.png", "empty.png", "wide.tif", "missing.png"]


def test_damaged_files_are_one_line(tmp_path):
    for name in damaged_files(tmp_path):
        with pytest.raises(ImageError) as caught:
            read_image(tmp_path / name)
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_read_ahead_keeps_the_order_and_the_errors(tmp_path):
    for index in range(20):
        save(tmp_path / f"{index:02d}.png", Image.new("L", (4, 4), index))
    (tmp_path / "07.png").write_text("damaged")
    found = list(read_ahead(list_images(tmp_path), read_image))
    assert [path.name for path, _ in found] == [f"{index:02d}.png" for index in range(20)]
    for index, (_, image) in enumerate(found):
        if index == 7:
            assert isinstance(image, ImageError)
        else:
            assert (image == index).all()


def test_read_ahead_holds_few_bytes_of_large_images(tmp_path, monkeypatch):
    paths = [save(tmp_path / f"{n}.png", Image.new("L", (100, 100))) for n in range(12)]
    begun = []

    def read(path):
        begun.append(path)
        return read_image(path)

    def most_ahead():
        begun.clear()
        return max(len(begun) - seen for seen, _ in enumerate(read_ahead(paths, read), start=1))

    for limit, ahead in ((1, 0), (70_000, 2), (2**30, 8)):  # an image takes 30000 bytes
        monkeypatch.setattr(images, "MAX_BYTES", limit)
        assert most_ahead() <= ahead
    assert len(begun) == len(paths)


def test_pixels_survive_the_round_trip():
    images = np.random.default_rng(0).integers(0, 256, (2, 5, 7, 3), np.uint8)
    batch = to_batch(images, torch.device("cpu"))
    assert batch.shape == (2, 3, 5, 7)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert np.array_equal(to_pixels(batch[1]), images[1])


def test_resize_averages_what_it_shrinks():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[::2] = 200
    assert np.abs(resize(stripes, (8, 16)).astype(int) - 100).max() < 15
    assert resize(stripes, (8, 16)).shape == (8, 16, 3)
