import shutil

import numpy as np
import pytest
from PIL import Image

from data.cache import decode_all
from data.images import ImageError
from data.mvtec import Category, read_mask
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


def test_masks_must_fit_their_image(category):
    path = category / "ground_truth/oil/000_mask.png"
    mask = read_mask(path, (80, 80))
    assert mask.dtype == bool
    assert np.array_equal(mask, np.asarray(Image.open(path)) > 0)
    with pytest.raises(ImageError, match="80x80"):
        read_mask(path, (80, 81))


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
    in_memory, readable = decode_all(paths, (32, 48), memory_gib=1)
    assert readable == paths
    on_disk, _ = decode_all(paths, (32, 48), memory_gib=0)
    assert isinstance(on_disk, np.memmap)
    for path in paths:  # nothing is read again
        path.unlink()
    assert in_memory.shape == (len(paths), 32, 48, 3)
    assert np.array_equal(in_memory, on_disk)


def test_damaged_images_are_left_out_aloud(category, capsys):
    paths = Category(category.parent, "tile").train_images()
    whole, _ = decode_all(paths, (32, 32), memory_gib=1)
    paths[2].write_bytes(paths[2].read_bytes()[:100])
    Image.new("L", (301, 17), 9).save(paths[4])  # another size and mode is fine
    left, readable = decode_all(paths, (32, 32), memory_gib=1)
    assert readable == [path for path in paths if path != paths[2]]
    assert paths[2].name in capsys.readouterr().err
    assert len(left) == len(whole) - 1
    assert np.array_equal(left[:2], whole[:2])
    assert (left[3] == 9).all()
    for path in paths:
        path.write_text("damaged")
    with pytest.raises(UserError, match="none of the"):
        decode_all(paths, (32, 32), memory_gib=1)
