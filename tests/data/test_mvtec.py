import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.cache import decode_all
from data.images import ImageError
from data.mvtec import Category, list_categories, split_holdout
from utils.config import Config, DataConfig
from utils.errors import UserError


@pytest.fixture
def category(tmp_path, dataset):
    shutil.copytree(dataset / "tile", tmp_path / "tile")
    return tmp_path / "tile"


def test_test_split_lists_good_first_and_finds_masks(category):
    (category / "ground_truth/oil/000_mask.png").rename(category / "ground_truth/oil/000.png")
    (category / "ground_truth/oil/001_mask.png").unlink()
    tests = Category(category.parent, "tile").test_images()
    assert [test.defect for test in tests[:3]] == ["good"] * 3
    assert len(tests) == 3 + 5 * 2
    masks = {(test.defect, test.path.stem): test.mask for test in tests}
    assert masks["good", "000"] is None
    assert masks["crack", "001"].name == "001_mask.png"
    assert masks["oil", "000"].name == "000.png"
    assert masks["oil", "001"] is None


def test_subfolders_are_used_everywhere(category):
    for part in ("train/good", "test/good", "test/oil", "ground_truth/oil"):
        (category / part / "monday").mkdir()
        for path in sorted((category / part).glob("001*")):
            path.rename(category / part / "monday" / path.name)
    whole = Category(category.parent, "tile")
    assert len(whole.train_images()) == 11
    tests = whole.test_images()
    assert len(tests) == 3 + 5 * 2
    (moved,) = (test for test in tests if test.path.parent == category / "test/oil/monday")
    assert moved.defect == "oil"
    assert moved.mask == category / "ground_truth/oil/monday/001_mask.png"
    assert moved.read()[1].any()


def test_clutter_is_no_kind_of_defect(category):
    for folder in (".ipynb_checkpoints", "__MACOSX/tile"):
        shutil.copytree(category / "test/oil", category / "test" / folder)
    tests = Category(category.parent, "tile").test_images()
    assert len({test.defect for test in tests}) == 1 + 5


def test_good_parts_are_found_in_any_case_and_hinted_at_by_other_names(category, capsys):
    (category / "train/good").rename(category / "train/Good")
    (category / "test/good").rename(category / "test/GOOD")
    tile = Category(category.parent, "tile")
    assert len(tile.train_images()) == 11
    assert sum(not test.is_defect for test in tile.test_images()) == 3
    assert list_categories(category.parent) == ["tile"]
    (category / "test/GOOD").rename(category / "test/OK")
    with pytest.raises(UserError, match="OK seems to hold good parts; rename it to .*test/good"):
        tile.test_images()
    (category / "train/Good").rename(category / "train/normal")
    with pytest.raises(UserError, match="no images in .*train/good; .* there is: normal"):
        tile.train_images()
    (category / "test/OK").rename(category / "test/good")
    Image.new("L", (8, 8)).save(category / "test/astray.png")
    assert len(tile.test_images()) == 3 + 5 * 2
    assert "left out: 1 images" in capsys.readouterr().err


def test_empty_masks_are_told(category):
    path = category / "ground_truth/oil/000_mask.png"
    Image.new("L", (80, 80)).save(path)
    tests = Category(category.parent, "tile").test_images()
    (test,) = (test for test in tests if test.mask == path)
    image, mask = test.read()
    assert image.shape == (80, 80, 3)
    assert isinstance(mask, ImageError) and "is empty" in str(mask)


def test_settings_of_the_run_reach_the_test_images(category):
    Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(category / "test/good/000.png")
    tile = Category.chosen(DataConfig(depth=12), str(category.parent), None)
    assert (tile.test_images()[0].read()[0] == 255).all()


def test_missing_data_says_the_way_out(tmp_path, dataset):
    with pytest.raises(UserError, match="did you mean tile"):
        Category(dataset, "tiles")
    with pytest.raises(UserError) as caught:
        Category(tmp_path / "nowhere", "tile")
    for word in ("mvtec.com", "train/good", "python -m data.sample", str(tmp_path / "nowhere")):
        assert word in str(caught.value)


def test_too_few_images_are_refused(category):
    for path in sorted((category / "train/good").iterdir())[1:]:
        path.unlink()
    with pytest.raises(UserError, match="single image"):
        Category(category.parent, "tile").train_images()
    (category / "train/good/000.png").unlink()
    with pytest.raises(UserError, match="no images"):
        Category(category.parent, "tile").train_images()


def settings(share=0.1, seed=0, limit=0):
    chosen = {"calibration": {"holdout": share}, "seed": seed, "data": {"limit": limit}}
    return Config.model_validate(chosen)


@pytest.fixture
def parts(tmp_path):
    """Fifty files, all of which can be read."""
    paths = [tmp_path / f"{number:03}.png" for number in range(50)]
    for path in paths:
        Image.new("L", (4, 4)).save(path)
    return paths


def test_split_is_seeded_disjoint_and_complete(parts):
    train, held_out = split_holdout(parts, settings(seed=3))
    assert len(held_out) == 5
    assert sorted(train + held_out) == parts
    assert split_holdout(parts, settings(seed=3)) == (train, held_out)
    assert split_holdout(parts, settings(seed=4)) != (train, held_out)
    for share in (0.01, 0.99):
        assert all(split_holdout(parts[:2], settings(share)))


def test_a_part_without_a_readable_file_is_given_more(parts):
    twelve = parts[:12]
    first_train, first_held_out = split_holdout(twelve, settings(limit=1))
    first_held_out[0].write_text("damaged")
    train, held_out = split_holdout(twelve, settings(limit=1))
    assert held_out == sorted(first_held_out + first_train) and len(train) == 1
    train[0].write_text("damaged")
    train, again = split_holdout(twelve, settings(limit=1))
    assert again == held_out and len(train) == 2 and not set(train) & set(held_out)
    for path in twelve[1:]:
        path.write_text("damaged")
    with pytest.raises(UserError, match="too few of the good images"):
        split_holdout(twelve, settings())


def test_cache_on_disk_equals_cache_in_memory(category):
    paths = Category(category.parent, "tile").train_images()
    in_memory = decode_all(paths, DataConfig(size=(32, 48)))
    on_disk = decode_all(paths, DataConfig(size=(32, 48)), memory_gib=0)
    assert isinstance(on_disk, np.memmap)
    for path in paths:  # nothing is read again
        path.unlink()
    assert in_memory.shape == (len(paths), 32, 48, 3)
    assert np.array_equal(in_memory, on_disk)


def test_damaged_images_are_left_out_aloud(category, capsys):
    paths = Category(category.parent, "tile").train_images()
    whole = decode_all(paths, DataConfig(size=32))
    paths[2].write_bytes(paths[2].read_bytes()[:100])
    Image.new("L", (301, 17), 9).save(paths[4])  # another size and mode is fine
    left = decode_all(paths, DataConfig(size=32))
    assert paths[2].name in capsys.readouterr().err
    assert len(left) == len(whole) - 1
    assert np.array_equal(left[:2], whole[:2])
    assert (left[3] == 9).all()
    for path in paths:
        path.write_text("damaged")
    with pytest.raises(UserError, match="none of the"):
        decode_all(paths, DataConfig(size=32))


def test_limits_are_nested_and_leave_the_held_out_images_alone(parts):
    everything, held_out = split_holdout(parts, settings())
    previous: set[Path] = set()
    for limit in (1, 4, 16, 100):
        train, held_out_now = split_holdout(parts, settings(limit=limit))
        assert held_out_now == held_out
        assert train == sorted(train)
        assert len(train) == min(limit, 45)
        assert previous <= set(train) <= set(everything)
        previous = set(train)
