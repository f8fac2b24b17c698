import re

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from data.training_set import find_twins, groups, thumbnail, twins_warning
from utils.errors import UserError

GENERATOR = np.random.default_rng(0)
MARGIN = 2  # pixels that the camera may have moved


def scene(coarse=4.0):
    drawn = gaussian_filter(GENERATOR.standard_normal((200 + 2 * MARGIN,) * 2), coarse)
    return drawn / drawn.std()


def shot(drawn):
    """A photograph of it, uint8 [200, 200, 3]: moved a little, in another light, with noise."""
    down, right = GENERATOR.integers(0, 2 * MARGIN + 1, 2)
    seen = 128 + 40 * drawn[down : down + 200, right : right + 200]
    seen = seen * GENERATOR.uniform(0.93, 1.07) + GENERATOR.normal(0, 4, seen.shape)
    return seen.clip(0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)


def found(shots):
    return find_twins(np.stack([thumbnail(image) for image in shots]))


@pytest.mark.parametrize("coarse", [2.0, 4.0, 8.0])
def test_shots_of_one_part_are_twins(coarse):
    scenes = [scene(coarse) for _ in range(4)]
    assert found([shot(scenes[place % 4]) for place in range(24)]) == [0, 1, 2, 3] * 6


def test_parts_that_are_merely_alike_are_no_twins():
    outline = scene(8.0)
    alike = [shot(outline + 0.15 * scene()) for _ in range(24)]
    assert found(alike) == list(range(24))
    textures = [shot(scene()) for _ in range(24)]
    assert found(textures) == list(range(24))
    other = scene(8.0)  # a second kind of part, all alike too
    kinds = alike[:12] + [shot(other + 0.15 * scene()) for _ in range(12)]
    assert found(kinds) == list(range(24))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_handful_of_images_has_nothing_to_compare_with(count):
    assert found([np.full((32, 32, 3), 90, np.uint8)] * count) == list(range(count))


def test_the_names_say_which_images_show_one_part():
    names = ["part7_a.png", "part12_a.png", "part7_b.png", "spare.png"]
    paths = [f"data/mvtec/part3/train/good/{name}" for name in names]
    assert groups(paths, r"part\d+") == groups(paths, r"part(\d+)_") == [0, 1, 0, 2]
    assert groups(paths, None) == [0, 1, 2, 3]
    lots = [f"set/train/good/{name}" for name in ("lot1/a.png", "lot2/a.png", "lot1/b.png")]
    assert groups(lots, "^[^/]+/") == [0, 1, 0]
    with pytest.raises(UserError, match=re.escape(r"'x\\d+', which is found in no good image's")):
        groups(paths, r"x\d+")


def test_twins_are_worth_a_line_unless_they_are_few():
    paths = [f"set/train/good/{number:02}.png" for number in range(24)]
    line = twins_warning("tile", paths, [0, 0, 1, 1, 1, *range(2, 21)])
    assert line.startswith(
        "5 of 24 good images of tile have a near-twin, such as 02.png and 03.png"
    )
    assert "calibration.group" in line and "\n" not in line
    assert twins_warning("tile", paths, list(range(24))) is None
    many = [f"{number}.png" for number in range(100)]
    assert twins_warning("tile", many, [0, *range(99)]) is None
