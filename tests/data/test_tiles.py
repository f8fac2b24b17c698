import numpy as np
import pytest
import torch
from brightness import Brightness
from drawn_images import settings
from PIL import Image

from data.good_images import GoodImages, decode_all, in_folds
from data.images import ImageError
from data.tiles import OVERLAP, Grid, shrinking_hint, with_ratio
from inspection.calibration import calibrate_detector
from inspection.panel import pictures_of
from inspection.regions import regions
from models import build_model
from models.detector import Detector, Prediction
from utils.config import load_config
from utils.errors import UserError

CPU = torch.device("cpu")


def noise(*size):
    return np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)


@pytest.mark.parametrize("size", [(200, 131), (64, 64), (65, 300), (64, 112), (64, 113)])
def test_what_is_cut_and_joined_is_as_it_was(size):
    image, data = noise(*size), settings(size=64, tile=64)
    grid = Grid.over(size, data)
    tiles = grid.cut(image, data)
    assert tiles.shape == (len(grid), 64, 64, 3)
    assert np.array_equal(grid.join(tiles), image)
    joined = grid.join(tiles[..., 0].astype(np.float32))
    assert joined == pytest.approx(image[..., 0], abs=1e-3)
    for starts in (grid.tops, grid.lefts):
        assert all(np.diff(starts) <= 64 * (1 - OVERLAP) + 1)


def test_maps_of_shrunk_tiles_join_without_a_seam():
    size, data = (500, 300), settings(size=32, tile=128)
    grid = Grid.over(size, data)
    assert grid.join(np.ones((len(grid), 32, 32), np.float32)) == pytest.approx(1)
    ramp = np.broadcast_to(np.linspace(0, 255, 500)[:, None, None], (*size, 3)).astype(np.uint8)
    joined = grid.join(grid.cut(ramp, data)[..., 0].astype(np.float32))
    assert joined.shape == (125, 75)
    assert np.abs(np.diff(joined, axis=0) - 255 / 125).max() < 1.5


class Brightest(Brightness):
    """Scores an image by its brightest pixel."""

    def __init__(self, **data):
        self.config = load_config(overrides={f"data.{key}": data[key] for key in data})
        self.batch = 4

    def predict(self, images):
        maps, _, _ = super().predict(images)
        return maps, maps.max(axis=(1, 2)), images


def test_a_dot_that_shrinking_loses_is_found_in_its_tile():
    image = np.full((700, 1000, 3), 20, np.uint8)
    image[613:617, 321:325] = 255
    shrunk, tiled = (Brightest(size=64, tile=tile) for tile in (0, 64))
    (calibration,) = tiled.calibrations.values()
    assert not calibration.is_defect(shrunk.inspect(image).score)
    found = tiled.inspect(image)
    assert calibration.is_defect(found.score)
    assert found.anomaly_map.shape == (700, 1000)
    assert found.image.shape == found.reconstruction.shape == image.shape
    assert np.array_equal(found.image, found.reconstruction)
    (region,) = regions(found, calibration)
    assert region.box == (321, 613, 4, 4)
    shown = pictures_of(found, calibration, 128)
    small = {name: np.asarray(picture, int) for name, picture in shown.items()}
    for picture in (small["heatmap"], small["overlay"] - small["input"]):
        assert np.ptp(picture, axis=(0, 1)).max() > 50  # though the dot is half a pixel here


def test_pictures_of_large_images_are_small():
    found = Brightest(size=64, tile=256).inspect(np.zeros((512, 2560, 3), np.uint8))
    assert found.size == (512, 2560)
    assert found.anomaly_map.shape == (128, 640)
    assert found.image.shape == found.reconstruction.shape == (205, 1024, 3)


class Red(Detector):
    """Red is strange, and the score is that of the reddest pixel."""

    def forward(self, images):
        maps = images[:, :1]
        return Prediction(maps, maps.amax(dim=(1, 2, 3)), None)


@pytest.fixture
def files(tmp_path):
    """Images of several sizes, one of them damaged."""
    shapes = [(100, 70), (64, 64), (150, 150), (90, 64), (64, 200), (63, 200)]
    paths = [tmp_path / f"{number}.png" for number in range(len(shapes))]
    for number, (path, shape) in enumerate(zip(paths, shapes, strict=True)):
        Image.fromarray(noise(*shape) // 2 + number * 20).save(path)
    paths[3].write_bytes(paths[3].read_bytes()[:200])
    return paths


def test_tiles_of_an_image_are_of_its_fold_and_make_its_score(files):
    inspector = Brightest(size=32, tile=64)
    images, readable = decode_all(files, inspector.config.data, quiet=True)
    assert [grid.size for grid in images.grids] == [(100, 70), (64, 64), (150, 150), (64, 200)]
    assert list(map(len, images.grids)) == [4, 1, 9, 4]
    assert len(images.tiles) == 18
    good = GoodImages(
        [f"tile/{path.name}" for path in readable], [0, 1, 0, 2], [1, 0, 1, 2], [True] * 4
    )
    assert [fold.indices.tolist() for fold in in_folds(images, good, 2, CPU)] == [
        [4],
        [0, 1, 2, 3, *range(5, 14)],
        [14, 15, 16, 17],
    ]
    folds = in_folds(images, good, 2, CPU)
    (calibration,) = calibrate_detector(Red(inspector.config), images, good, folds).values()
    inspections = [inspector.inspect(inspector.read(path)) for path in readable]
    scores = [one.score for one in inspections]
    peaks = [one.anomaly_map.max() for one in inspections]
    for found, (a, b, c, d) in ((calibration.scores, scores), (calibration.peaks, peaks)):
        assert found == pytest.approx([max(a, c), b, d], abs=1e-6)  # a and c show one part
    some = images.only([0, 2])
    assert some.tile_indices([1]).tolist() == list(range(5, 14))


def test_images_smaller_than_a_tile_are_refused_by_name_and_frames_one_by_one(tmp_path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"a.png: an image of 64x64 is smaller than a tile"):
        decode_all([tmp_path / "a.png"], settings(size=64, tile=8192), quiet=True)
    frames = [np.zeros((side, 80, 3), np.uint8) for side in (64, 63, 70)]
    (_, first), (_, error), (_, last) = Brightest(size=64, tile=64).inspect_all(enumerate(frames))
    assert isinstance(error, ImageError) and "80x63 is smaller than a tile" in str(error)
    assert (first.size, last.size) == ((64, 80), (70, 80))


def test_large_images_that_are_shrunk_are_worth_a_word():
    data = settings(size=512)
    (line,) = shrinking_hint([Grid.over((2048, 4096), data)] * 3, data).splitlines()
    assert "2048x4096" in line
    assert "--set data.tile=512" in line
    assert shrinking_hint([Grid.over((1024, 1024), data)], data) is None
    data = settings(size=512, tile=512)
    assert shrinking_hint([Grid.over((2048, 2048), data)], data) is None


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data.tile": 16}, "data.tile is 16 but should be 0 or a side"),
        ({"data.tile": 64, "data.size": [64, 96]}, "data.tile cuts squares"),
        ({"data.tile": 64, "data.resize": "pad"}, "data.resize=pad is not used by tiles"),
        ({"data.tile": 64, "model": "padim"}, "--model, or data.tile=0"),
    ],
)
def test_what_cannot_be_is_one_line(overrides, words):
    with pytest.raises(UserError, match=words) as error:
        build_model(load_config(overrides=overrides))
    assert "\n" not in str(error.value)


def oblong(folder, sizes):
    paths = [folder / f"{number}.png" for number in range(len(sizes))]
    for path, (height, width) in zip(paths, sizes, strict=True):
        Image.new("L", (width, height)).save(path)
    return paths


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ([(500, 1250)] * 10, (160, 416)),
        ([(1250, 500)] * 10, (416, 160)),
        ([(10, 1000)] * 10, (64, 2560)),  # no side below what a network takes
        ([(500, 1250)] * 10 + [(80, 80)], (160, 416)),  # one odd image of many
        ([(600, 700)] * 10, (256, 256)),  # nearly square
        ([(600, 600 + 300 * n) for n in range(5)], (256, 256)),  # of many ratios
    ],
)
def test_oblong_images_keep_their_ratio(sizes, found, tmp_path):
    paths = oblong(tmp_path, sizes)
    (tmp_path / "damaged.png").write_bytes(b"")
    config, line = with_ratio(
        load_config(overrides={"data.size": 256}), [*paths, tmp_path / "damaged.png"]
    )
    assert config.data.size == found
    assert (line is None) == (found == (256, 256))
    assert with_ratio(config, paths) == (config, None)  # a run that keeps it


@pytest.mark.parametrize(
    "settings",
    [
        {"data.resize": "squash"},
        {"data.resize": "pad"},
        {"data.size": [128, 256]},
        {"data.tile": 64},
    ],
)
def test_the_ratio_is_kept_only_where_nothing_else_is_asked_for(settings, tmp_path):
    config = load_config(overrides=settings)
    assert with_ratio(config, oblong(tmp_path, [(100, 300)] * 3)) == (config, None)
