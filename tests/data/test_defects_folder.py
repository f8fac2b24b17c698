"""Reading the folder of `data.defects`."""

import numpy as np
import pytest
from PIL import Image

from data.images import pixel_digest, read_image
from data.known_defects import load_known_defects
from data.region import keep_region
from utils.config import load_config
from utils.errors import UserError


def settings(folder, **overrides):
    overrides = {"data.size": 64, "data.defects": str(folder)} | overrides
    return load_config(overrides=overrides).data


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def image(seed, height=80, width=80):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def mask(rows, columns, height=80, width=80):
    marked = np.zeros((height, width), np.uint8)
    marked[rows, columns] = 255
    return marked


def load(folder, categories=("tile",), good=(), **overrides):
    return load_known_defects(settings(folder, **overrides), categories, good)


def test_the_layout_of_a_category_and_images_in_the_folder_itself(tmp_path):
    save(tmp_path / "test/crack/1.png", image(1))
    save(tmp_path / "ground_truth/crack/1_mask.png", mask(slice(20, 40), slice(0, 20)))
    save(tmp_path / "test/oil/1.png", image(2))  # without a mask
    save(tmp_path / "3.png", image(3))
    found = load(tmp_path)
    assert [defect.path.name for defect in found] == ["1.png", "1.png", "3.png"]
    assert [defect.masks is None for defect in found] == [False, True, True]
    crack = found[0]
    assert crack.tiles.shape == (1, 64, 64, 3)
    assert crack.masks[0, 16:32, :16].mean() > 230
    assert crack.masks.astype(bool).mean() < 0.08
    assert crack.digest == pixel_digest(read_image(crack.path))
    assert load_known_defects(load_config().data, ["tile"], []) == []


def test_each_of_several_categories_has_a_folder(tmp_path):
    save(tmp_path / "bottle/1.png", image(1))
    save(tmp_path / "tile/test/crack/2.png", image(2))
    assert [one.path.stem for one in load(tmp_path, ["bottle", "tile"])] == ["1", "2"]
    assert [one.path.stem for one in load(tmp_path, ["tile"])] == ["2"]
    with pytest.raises(UserError, match="needs a subfolder for one category of: cable, wood"):
        load(tmp_path, ["cable", "wood"])


def test_tiles_that_the_mask_marks(tmp_path):
    save(tmp_path / "test/oil/1.png", image(1, 200, 200))
    marks = mask(slice(190, 200), slice(190, 200), 200, 200)
    path = save(tmp_path / "ground_truth/oil/1_mask.png", marks)
    (masked,) = load(tmp_path, **{"data.tile": 80})
    assert masked.tiles.shape == masked.masks.shape + (3,) == (1, 64, 64, 3)
    path.unlink()
    (whole,) = load(tmp_path, **{"data.tile": 80})
    assert len(whole.tiles) == 9


def test_what_is_outside_of_the_region_is_not_learned(tmp_path):
    region = str(save(tmp_path / "region.png", mask(slice(0, 40), slice(None))))
    first = save(tmp_path / "known/test/oil/1.png", image(1))
    marks = save(tmp_path / "known/ground_truth/oil/1.png", mask(slice(30, 60), slice(0, 20)))
    config = load_config(overrides={"data.region": region})
    region = keep_region(config, [first]).data.region
    (defect,) = load(tmp_path / "known", **{"data.region": region})
    assert defect.masks[0, 24:32].any() and not defect.masks[0, 33:].any()
    save(marks, mask(slice(50, 60), slice(0, 20)))
    with pytest.raises(UserError, match=r"1\.png of data\.defects teaches nothing: data\.region"):
        load(tmp_path / "known", **{"data.region": region})


def test_what_is_wrong_with_a_folder_is_one_line(tmp_path):
    with pytest.raises(UserError, match="which is no folder"):
        load(tmp_path / "gone")
    with pytest.raises(UserError, match=r"finds no images in .*; put them into .*<kind>"):
        load(tmp_path)
    path = save(tmp_path / "test/crack/1.png", image(1))
    with pytest.raises(UserError, match=r"1\.png of data\.defects is also a good image"):
        load(tmp_path, good=[pixel_digest(read_image(path))])
    for marks, reason in (
        (mask(slice(0, 9), slice(0, 9), 40, 40), "is 40x40 but its image is 80x80"),
        (mask(slice(0, 0), slice(0, 0)), "is empty"),
    ):
        save(tmp_path / "ground_truth/crack/1.png", marks)
        with pytest.raises(UserError, match=reason):
            load(tmp_path)
    save(tmp_path / "test/OK/2.png", image(2))
    with pytest.raises(UserError, match=r"test.OK holds good parts"):
        load(tmp_path)
    (tmp_path / "test/OK/2.png").rename(tmp_path / "1_mask.png")
    (tmp_path / "test/OK").rmdir()
    with pytest.raises(UserError, match="finds masks among the images"):
        load(tmp_path)
    (tmp_path / "1_mask.png").unlink()
    path.write_bytes(b"no image")
    with pytest.raises(UserError, match=r"cannot read .*1\.png"):
        load(tmp_path)
