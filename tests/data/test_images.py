import numpy as np
import pytest
import torch
from PIL import Image

from data.images import ImageError, expand, list_images, read_ahead, read_image
from data.resize import resize
from data.tensors import to_batch, to_pixels

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
    with pytest.raises(ImageError, match=r"\[0, 1\]"):
        read_image(path)


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
    names = ["a.png", "b.jpg", "c.jpeg", "d.bmp", "e.tif", "f.webp", "g.PNG"]
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


def test_expand_takes_files_folders_and_patterns_once(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    for name in ("a.png", "b.jpg", "deep/c.png", "deep/er/d.bmp", "deep/e.txt"):
        (tmp_path / name).touch()
    assert expand([str(tmp_path / "deep")]) == [tmp_path / "deep/c.png", tmp_path / "deep/er/d.bmp"]
    assert expand([str(tmp_path / "*.*"), str(tmp_path / "a.png")]) == [
        tmp_path / "a.png",
        tmp_path / "b.jpg",
    ]
    assert expand([str(tmp_path / "gone.png")]) == [tmp_path / "gone.png"]


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
