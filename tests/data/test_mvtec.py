import shutil

import numpy as np
import pytest
from drawn_images import settings
from PIL import Image

from data.good_images import decode_all
from data.images import ImageError
from data.mvtec import Category, list_categories
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


def test_good_parts_are_found_in_any_case_and_nothing_beside_the_kinds(category, capsys):
    (category / "train/good").rename(category / "train/Good")
    (category / "test/good").rename(category / "test/GOOD")
    tile = Category(category.parent, "tile")
    assert len(tile.train_images()) == 11
    assert sum(not test.is_defect for test in tile.test_images()) == 3
    assert list_categories(category.parent) == ["tile"]
    (category / "train/Good").rename(category / "train/normal")
    with pytest.raises(UserError, match="no images in .*train/good; .* there is: normal"):
        tile.train_images()
    with pytest.raises(UserError, match="no images in .*train/good; .* there is: normal"):
        Category.chosen(settings(category="all"), str(category.parent))[0].train_images()
    Image.new("L", (8, 8)).save(category / "test/astray.png")
    assert len(tile.test_images()) == 3 + 5 * 2
    assert "left out: 1 images" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        "fine",
        "Good ",
        "OK_parts",
        "0_good",
        "gut",
        "negative",
        "non-defective",
        "i.O.",
        "brauchbar",
    ],
)
def test_good_parts_of_another_name_are_never_counted_as_defective(category, name):
    (category / "test/good").rename(category / "test" / name)
    tile = Category(category.parent, "tile")
    with pytest.raises(UserError, match=f"belong in .*test/good, .* there are: .*'{name}'"):
        tile.test_images()
    (category / "test/good").mkdir()
    if name == "brauchbar":  # which might be a defect
        assert sum(test.is_defect for test in tile.test_images()) == 3 + 5 * 2
    else:
        with pytest.raises(UserError, match=f"rename '{name}'"):
            tile.test_images()


def test_empty_masks_are_told(category):
    path = category / "ground_truth/oil/000_mask.png"
    Image.new("L", (80, 80)).save(path)
    tests = Category(category.parent, "tile").test_images()
    (test,) = (test for test in tests if test.mask == path)
    image, mask = test.read()
    assert image.shape == (80, 80, 3)
    assert isinstance(mask, ImageError) and "is empty" in str(mask)


def test_a_folder_of_masks_an_image_is_read_as_their_union(category):
    truth, path = category / "ground_truth/oil", category / "test/oil/000.png"
    (truth / "000_mask.png").unlink()
    (truth / "000").mkdir()
    masks = np.zeros((2, 80, 80), np.uint8)
    masks[0, 10:20], masks[1, 15:30] = 233, 234
    for number, mask in enumerate(masks):
        Image.fromarray(mask).save(truth / f"000/{number:03d}.png")
    tests = Category(category.parent, "tile").test_images()
    (test,) = (test for test in tests if test.path == path)
    assert np.array_equal(test.read()[1], masks.any(axis=0))


def test_settings_of_the_run_reach_the_test_images(category):
    Image.fromarray(np.full((4, 4), 4095, np.uint16)).save(category / "test/good/000.png")
    (tile,) = Category.chosen(settings(depth=12), str(category.parent))
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


def test_cache_on_disk_equals_cache_in_memory(category):
    paths = Category(category.parent, "tile").train_images()
    in_memory, readable = decode_all(paths, settings(size=(32, 48)))
    on_disk, _ = decode_all(paths, settings(size=(32, 48)), memory_gib=0)
    assert readable == paths
    assert isinstance(on_disk.tiles, np.memmap)
    for path in paths:  # nothing is read again
        path.unlink()
    assert in_memory.tiles.shape == (len(paths), 32, 48, 3)
    assert np.array_equal(in_memory.tiles, on_disk.tiles)


def test_damaged_images_are_excluded_aloud(category, capsys):
    paths = Category(category.parent, "tile").train_images()
    whole, _ = decode_all(paths, settings(size=32))
    paths[2].write_bytes(paths[2].read_bytes()[:100])
    Image.new("L", (301, 17), 9).save(paths[4])  # another size and mode is fine
    left, readable = decode_all(paths, settings(size=32))
    assert readable == [path for path in paths if path != paths[2]]
    assert paths[2].name in capsys.readouterr().err
    assert len(left) == len(whole) - 1
    assert np.array_equal(left.tiles[:2], whole.tiles[:2])
    assert (left.tiles[3] == 9).all()
    for path in paths:
        path.write_text("damaged")
    with pytest.raises(UserError, match="none of the"):
        decode_all(paths, settings(size=32))
