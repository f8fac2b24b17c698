"""From an image to the size of the detector and back, for each way of resizing."""

import numpy as np
import pytest
import torch
from brightness import Brightness
from drawn_images import settings
from PIL import Image

from data.good_images import DecodedImages, GoodImages, in_folds
from data.images import read_image, upright_size
from data.input_profile import measure
from data.tiles import Grid, placement, resize_to_input
from inspection.calibration import calibrate_detector
from inspection.output import region_mask
from inspection.panel import whole_overlay
from inspection.regions import regions
from inspection.threshold import calibrate
from models.detector import Detector, Prediction
from models.drawn_defects.synthetic import PseudoImage
from models.patchcore import PatchCore
from utils.config import load_config
from utils.errors import UserError

SIDE = 128


def config(resize, **overrides):
    settings = {"data.size": SIDE, "data.resize": resize, "score.reduce": "max"}
    return load_config(overrides=settings | overrides)


class Brightest(Brightness):
    """The brightest pixel is the score; padding is called as strange as can be."""

    calibrations = {"tile": calibrate([0.1, 0.2], [0.1, 0.2], level=0.0, false_alarms=0.02)}

    def __init__(self, resize, size):
        self.config = config(resize)
        self.target = placement(size, self.config.data).target

    def predict(self, images):
        maps = np.ones(images.shape[:3], np.float32)
        maps[:, *self.target] = images[:, *self.target, 0] / 255
        return maps, maps.max(axis=(1, 2)), None


def extent(marked):
    """(x, y, width, height) of what is True."""
    rows, columns = np.flatnonzero(marked.any(axis=1)), np.flatnonzero(marked.any(axis=0))
    return columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1


@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
@pytest.mark.parametrize("size", [(500, 1260), (1260, 500), (100, 64)])
def test_a_spot_comes_out_where_it_is_in_the_original(resize, size):
    image = np.full((*size, 3), 10, np.uint8)
    # Off the middle, and inside the square that a crop keeps.
    side = min(size) // 8
    top, left = size[0] // 2 + side, size[1] // 2 - 2 * side
    image[top : top + side, left : left + side] = 255
    inspector = Brightest(resize, size)
    found = inspector.inspect(image)
    pixel = max(size) / SIDE  # of the frame, in the original's pixels
    box = pytest.approx((left, top, side, side), abs=2 * pixel)
    (region,) = regions(found, inspector.calibrations["tile"])
    assert region.box == box
    assert region.area == pytest.approx(side**2, rel=0.4)
    anomaly_map = found.at_original_size(found.anomaly_map, outside=np.nan)
    assert anomaly_map.shape == size
    assert np.isnan(anomaly_map).any() == (resize == "crop")
    y, x = np.unravel_index(np.nanargmax(anomaly_map), size)
    assert top <= y < top + side
    assert left <= x < left + side
    assert extent(region_mask(found, inspector.calibrations["tile"])) == box
    drawn = whole_overlay(image // 2, found, inspector.calibrations["tile"])
    assert extent((drawn == 255).all(axis=2)) == box
    # At another scale, as in a video: small peaks are kept there, and a pixel is two of these.
    half = whole_overlay(image[::2, ::2] // 2, found, inspector.calibrations["tile"])
    rounded = pytest.approx((left, top, side, side), abs=2 * pixel + 2)
    assert 2 * np.array(extent((half == 255).all(axis=2))) == rounded


def test_ratios_are_kept_but_by_squash():
    image = np.zeros((64, 256, 3), np.uint8)
    image[:, 112:144] = 255  # 32 wide: an eighth of the width
    widths = {
        name: (resize_to_input(image, config(name).data)[64, :, 0] > 127).sum()
        for name in ("squash", "pad", "crop")
    }
    assert widths == {"squash": 16, "pad": 16, "crop": 64}
    image[0], image[-1] = 200, 90
    padded = resize_to_input(image, config("pad").data)
    assert padded.shape == (SIDE, SIDE, 3)
    assert (padded[:48] == padded[48]).all()  # the border is repeated
    assert (padded[80:] == padded[79]).all()


def test_padding_is_not_scored():
    inspector = Brightest("pad", (500, 1260))  # says 1 of it
    found = inspector.inspect(np.full((500, 1260, 3), 51, np.uint8))
    assert found.score == pytest.approx(0.2)
    assert found.anomaly_map.max() == pytest.approx(0.2)
    assert found.image.shape[:2] == found.anomaly_map.shape


class Striking(Detector):
    """Takes what is brightest for the strangest, and says 9 of the uppermost rows."""

    def forward(self, images):
        maps = images[:, :1].clone()
        maps[:, :, : SIDE // 4] = 9
        return Prediction(maps, maps.amax(dim=(1, 2, 3)), None)


def test_padding_sets_no_threshold():
    frames = np.full((4, SIDE, SIDE, 3), 51, np.uint8)
    good = GoodImages([""] * 4, [0, 1, 2, 3], [0, 1, 0, 1], [True] * 4)
    for name, highest in {"pad": 0.2, "squash": 9.0}.items():
        detector = Striking(config(name))
        grid = Grid.over((64, 128), detector.config.data)
        images = DecodedImages(
            frames, [grid] * 4, list(range(4)), [""] * 4, [measure(frames[0])] * 4
        )
        folds = in_folds(images, good, 1, torch.device("cpu"))
        (found,) = calibrate_detector(detector, images, good, folds).values()
        assert found.scores == pytest.approx([highest] * 4)
        assert found.peaks == pytest.approx([highest] * 4)
    with pytest.raises(UserError, match="patchcore.paper"):
        PatchCore(config("pad", **{"patchcore.paper": True}))


def test_top1_of_a_part_is_that_of_its_own_pixels():
    inspector = Brightest("pad", (64, 128))
    inspector.config = config("pad", **{"score.reduce": "top1"})
    image = np.zeros((64, 128, 3), np.uint8)
    image[10:12, 10:30] = 255  # 40 pixels of the 81 that are a hundredth of the image's
    assert inspector.inspect(image).score == pytest.approx(40 / 81)


def test_sizes_are_those_of_upright_images(tmp_path):
    picture = Image.new("RGB", (40, 20))
    for orientation in range(1, 9):
        exif = picture.getexif()
        exif[0x0112] = orientation
        picture.save(tmp_path / "a.jpg", exif=exif)
        assert upright_size(tmp_path / "a.jpg") == read_image(tmp_path / "a.jpg").shape[:2]


def test_synthesised_defects_are_on_the_image_and_not_on_its_padding(tmp_path):
    Image.new("RGB", (200, 75), (90, 90, 90)).save(tmp_path / "a.png")
    data = settings(size=64, resize="pad")
    image, marked = PseudoImage(tmp_path / "a.png", "foreign", data, (0,)).read()
    assert image.shape[:2] == marked.shape == (24, 64)
    rows, _ = placement((75, 200), data).target
    assert placement(image.shape[:2], data).target[0] == rows  # padded again, it lies there
