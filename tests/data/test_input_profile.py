"""Images unlike the good ones: drawn good images, and copies of these with something changed."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from data.input_profile import IN_A_ROW, MEASURES, InputCheck, measure, profile_of

SIZE = 144, 160


def textured(number):
    """A coloured image of soft waves with fine grain: uint8 [*SIZE, 3]."""
    random = np.random.default_rng(number)
    y, x = np.ogrid[: SIZE[0], : SIZE[1]]
    waves = np.sin(x / 9 + number) + np.cos(y / 7)
    pixels = (130, 110, 80) + 12 * waves[..., None] + random.normal(0, 4, (*SIZE, 1))
    return pixels.clip(0, 255).astype(np.uint8)


def jpeg(image, quality):
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


@pytest.fixture
def lines(capsys):
    """What an `InputCheck` prints of images, having seen the good ones."""

    def check(images, good=None):
        found = [measure(image) for image in good or map(textured, range(8))]
        check = InputCheck("tile", profile_of(found), len(found))
        for image in images:
            check.add(measure(image))
        check.end()
        return capsys.readouterr().err.splitlines()

    return check


NEW = [textured(number) for number in range(20, 24)]
CHANGES = {
    "longer side": ("longer side", lambda image: np.tile(image, (2, 2, 1))),
    "width / height": ("width / height", lambda image: image[:, :120]),
    "brightness": ("brightness", lambda image: image // 2),
    "colour": ("grey (good: colour)", lambda image: image[..., [1, 1, 1]]),
    "sharpness": (
        "sharpness",
        lambda image: np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(2))),
    ),
    "JPEG blocks": ("JPEG blocks", lambda image: jpeg(image, 50)),
}


@pytest.mark.parametrize("name", MEASURES)
def test_a_change_is_said_once_and_by_its_name(name, lines):
    words, change = CHANGES[name]
    assert lines(NEW) == []
    (line,) = lines([change(image) for image in NEW * 2])
    assert line.startswith("these images are unlike the good ones of tile: ")
    assert words in line


def test_jpeg_of_low_quality_stands_out_among_good_ones_of_high_quality(lines):
    good = [jpeg(textured(number), 92) for number in range(8)]
    assert lines([jpeg(image, 92) for image in NEW], good) == []
    (line,) = lines([jpeg(image, 50) for image in NEW], good)
    assert "JPEG blocks" in line
    shifted = [jpeg(image, 50)[3:, 5:] for image in NEW]  # a crop moves the grid
    assert "JPEG blocks" in lines(shifted)[0]


def test_it_takes_a_row_of_images_or_all_where_they_are_fewer(lines):
    grey = [image[..., [1, 1, 1]] for image in NEW]
    assert lines([grey[0], grey[1], NEW[0]] * 3) == []
    assert len(lines([NEW[0], *grey[:IN_A_ROW]])) == 1
    assert len(lines(grey[:1])) == len(lines(grey[:2])) == 1
    assert lines([grey[0], NEW[0]]) == []
    darker = [image // 2 for image in grey]
    first, second = lines([*grey, *darker])
    assert "grey" in first and "brightness" in second and "grey" not in second


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 400, 3), (19, 21, 4)])
@pytest.mark.parametrize("value", [0, 255])
def test_any_image_can_be_measured(shape, value):
    found = measure(np.full(shape, value, np.uint8))
    assert found["brightness"] == pytest.approx(value)
    assert (found["sharpness"], found["JPEG blocks"]) == (0, 1)


def test_what_is_outside_of_the_region_is_not_measured():
    image = textured(0)
    valid = np.zeros(SIZE, bool)
    valid[40:, 16:120] = True
    masked = np.dstack([image * valid[..., None], valid * np.uint8(255)])
    assert measure(masked)["JPEG blocks"] < 1.2  # that of the region's edge would be 7
    brightness = measure(image)["brightness"]
    assert measure(masked)["brightness"] == pytest.approx(brightness, rel=0.02)


def test_a_run_without_a_profile_checks_nothing(capsys):
    check = InputCheck("tile", {}, 3)
    for image in NEW:
        check.add(measure(image))
    check.end()
    assert capsys.readouterr().err == ""


def test_light_that_was_learned_is_expected():
    found = [measure(textured(number)) for number in range(8)]
    darker = measure((textured(9) * 0.82).astype(np.uint8))["brightness"]
    for light, is_like in ((0.0, False), (0.2, True)):
        check = InputCheck("tile", profile_of(found, light), len(found))
        low, high = check.limits["brightness"]
        assert (low <= darker <= high) == is_like
