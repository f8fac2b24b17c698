import numpy as np

from inspection.inspector import Inspection
from inspection.panel import colourise, overlay, panel
from inspection.regions import strongest_region
from models.anomaly_map import full_size
from utils.calibration import calibrate

CALIBRATION = calibrate([0.5], [0.5], level=0.0, false_alarms=0.02)


def inspection(anomaly_map, size=(80, 60), reconstruction=None, score=0.9):
    image = np.full((*anomaly_map.shape, 3), 90, np.uint8)
    return Inspection(image, reconstruction, anomaly_map, score, size, 1.0)


def test_box_of_the_strongest_region_is_in_original_pixels():
    anomaly_map = np.zeros((40, 20), np.float32)
    anomaly_map[10:14, 5:8] = 0.7
    anomaly_map[30:32, 15:16] = 0.9
    found = inspection(anomaly_map, size=(80, 60))  # 2 times as high, 3 times as wide
    assert strongest_region(found, 0.5) == (45, 60, 3, 4)
    anomaly_map[11, 6] = 1.0
    assert strongest_region(found, 0.5) == (15, 20, 9, 8)
    assert strongest_region(found, 1.0) is None
    assert full_size(found.anomaly_map, found.size).shape == (80, 60)


def test_colours_mean_the_same_in_every_image():
    weak, strong = np.full((4, 4), 0.3), np.full((4, 4), 0.3)
    strong[0, 0] = 5.0
    assert np.array_equal(colourise(weak, 0, 1)[2, 2], colourise(strong, 0, 1)[2, 2])
    assert not np.array_equal(colourise(weak, 0, 1)[2, 2], colourise(strong, 0, 1)[0, 0])


def test_overlay_marks_only_what_exceeds_the_threshold():
    anomaly_map = np.zeros((40, 40), np.float32)
    image = np.full((40, 40, 3), 90, np.uint8)
    assert (overlay(image, anomaly_map, CALIBRATION) == 90).all()
    anomaly_map[10:20, 0:15] = 0.8
    changed = (overlay(image, anomaly_map, CALIBRATION) != 90).any(axis=2)
    assert changed[10:20, 0:15].all()
    assert not changed[:, 18:].any()
    assert not changed[23:].any()


def test_panel_has_a_tile_for_each_picture():
    anomaly_map = np.zeros((40, 30), np.float32)
    without = panel(inspection(anomaly_map), CALIBRATION, "a.png")
    picture = np.zeros((40, 30, 3), np.uint8)
    with_one = panel(inspection(anomaly_map, reconstruction=picture), CALIBRATION, "a.png")
    assert with_one.height == without.height
    assert with_one.width - without.width > 200
