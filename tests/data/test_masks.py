from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFilter

from data.images import ImageError
from data.mvtec import find_masks, read_mask

SIZE = (48, 64)
TRUTH = np.zeros(SIZE, bool)
TRUTH[10:30, 20:50] = True


def masks():
    """The same mask as people save it."""
    white = np.where(TRUTH, 255, 0).astype(np.uint8)
    faint = np.where(TRUTH, 4, 0).astype(np.uint8)
    black = np.zeros((*SIZE, 3), np.uint8)
    palette = Image.fromarray(TRUTH.astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])
    on_white = Image.fromarray(TRUTH.astype(np.uint8), "P")
    on_white.putpalette([255, 255, 255, 128, 0, 0])
    return {
        "0-255.png": Image.fromarray(white),
        "0-1.png": Image.fromarray(TRUTH.astype(np.uint8)),
        "0-1-16-bits.png": Image.fromarray(TRUTH.astype(np.uint16)),
        "16-bits.png": Image.fromarray(white.astype(np.uint16) * 257),
        "float.tif": Image.fromarray(TRUTH.astype(np.float32)),
        "bits.png": Image.fromarray(TRUTH),
        "palette.png": palette,
        "alpha-alone.png": Image.fromarray(np.dstack([black, white])),
        "alpha-and-white.png": Image.fromarray(np.dstack([black + 255, white])),
        "opaque.png": Image.fromarray(np.dstack([white] * 3 + [np.full_like(white, 255)])),
        "palette-on-white.png": on_white,
        "grey-palette.png": Image.fromarray(white).convert("P"),
        "labels-above-15.png": Image.fromarray(
            np.where(np.arange(64) < 30, white // 255 * 20, white // 255 * 200).astype(np.uint8)
        ),
        "labels-16-bits.png": Image.fromarray(
            np.where(np.arange(64) < 30, white // 255 * 20, white.astype(np.uint16) * 3)
        ),
        "two-high-values.png": Image.fromarray(np.where(TRUTH, 200, 90).astype(np.uint8)),
        "labels.png": Image.fromarray(np.where(np.arange(64) < 30, faint // 4, faint)),
    }


@pytest.mark.parametrize("name", masks())
def test_the_defect_is_the_same_however_it_is_saved(tmp_path, name):
    masks()[name].save(tmp_path / name)
    assert np.array_equal(read_mask(tmp_path / name, SIZE), TRUTH)


def test_noise_of_jpeg_is_no_defect(tmp_path):
    mask = Image.new("L", (200, 200))
    ImageDraw.Draw(mask).ellipse((60, 50, 140, 120), fill=255)
    truth = np.asarray(mask) > 0
    mask.save(tmp_path / "a.jpg", quality=30)
    assert (np.asarray(Image.open(tmp_path / "a.jpg")) > 0).sum() > 1.1 * truth.sum()
    assert abs(read_mask(tmp_path / "a.jpg", (200, 200)).sum() / truth.sum() - 1) < 0.01
    mask.filter(ImageFilter.GaussianBlur(6)).save(tmp_path / "soft.png")
    assert abs(read_mask(tmp_path / "soft.png", (200, 200)).sum() / truth.sum() - 1) < 0.03


def test_masks_that_mark_nothing_or_do_not_fit_are_refused(tmp_path):
    Image.new("RGBA", (64, 48), (0, 0, 0, 255)).save(tmp_path / "empty.png")
    with pytest.raises(ImageError, match="empty.png is empty"):
        read_mask(tmp_path / "empty.png", SIZE)
    with pytest.raises(ImageError, match="64x48 but its image is 49x48"):
        read_mask(tmp_path / "empty.png", (48, 49))


def test_masks_without_a_background_or_with_two_are_refused(tmp_path):
    for name, value in {"ones.png": 1, "white.png": 255}.items():
        Image.new("L", SIZE[::-1], value).save(tmp_path / name)
        with pytest.raises(ImageError, match=f"{name} has no background"):
            read_mask(tmp_path / name, SIZE)
    palette = Image.fromarray(TRUTH.astype(np.uint8), "P")
    palette.putpalette([255, 255, 255, 0, 0, 0])  # white on black as a picture, inverted by label
    palette.save(tmp_path / "both.png")
    with pytest.raises(ImageError, match="both.png: its palette draws label 1 black"):
        read_mask(tmp_path / "both.png", SIZE)


def test_a_soft_edge_of_few_shades_is_no_label(tmp_path):
    fine = np.zeros((4 * SIZE[0], 4 * SIZE[1]), np.uint8)
    fine[42:121, 81:202] = 255
    small = Image.fromarray(fine).resize(SIZE[::-1], Image.Resampling.BOX)
    small.save(tmp_path / "a.png")
    assert 2 < len(np.unique(small)) < 12
    assert read_mask(tmp_path / "a.png", SIZE).sum() == pytest.approx(79 * 121 / 16, rel=0.05)


def test_masks_of_a_folder_an_image_are_united(tmp_path):
    kind, truth = tmp_path / "test/logical", tmp_path / "ground_truth/logical"
    (truth / "000").mkdir(parents=True)
    for number, columns in enumerate((slice(20, 35), slice(30, 50))):
        mask = np.zeros(SIZE, np.uint8)
        mask[10:30, columns] = 230 + number  # the kind of defect, in MVTec LOCO
        Image.fromarray(mask).save(truth / f"000/{number:03d}.png")
    assert find_masks([kind / "000.png", kind / "001.png"], kind, truth) == [truth / "000", None]
    assert np.array_equal(read_mask(truth / "000", SIZE), TRUTH)


def test_masks_lie_as_their_images_or_flat_where_that_is_clear(tmp_path):
    kind, truth = tmp_path / "test/oil", tmp_path / "ground_truth/oil"
    for name in ("a_mask.png", "b.png", "cam1/c_mask.png", "cam2/c_mask.png", "d_mask.png"):
        (truth / name).parent.mkdir(parents=True, exist_ok=True)
        (truth / name).touch()
    wanted = {
        "a.png": "a_mask.png",
        "cam1/b.jpg": "b.png",
        "cam1/c.png": "cam1/c_mask.png",
        "cam2/c.png": "cam2/c_mask.png",
        "cam1/d.png": None,  # there are two, and one mask
        "cam2/d.png": None,
        "e.png": None,
    }
    found = find_masks([kind / name for name in wanted], kind, truth)
    assert found == [None if mask is None else truth / Path(mask) for mask in wanted.values()]
