import json
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage

from inspection.inspector import Inspection
from inspection.output import entry
from inspection.panel import colourise, overlay, panel
from inspection.regions import Region, region_labels, regions
from inspection.threshold import Calibration
from streams.record import annotate

CALIBRATION = Calibration(
    threshold=0.5,
    median=0.3,
    pixel_threshold=0.5,
    low=0.0,
    high=1.0,
    false_alarms=0.02,
    scores=[0.2, 0.3, 0.4],
    peaks=[0.2, 0.3, 0.4],
    independent=3,
)


def inspection(anomaly_map, size=(80, 60), reconstruction=None, score=0.9, least_area=0):
    image = np.full((*anomaly_map.shape, 3), 90, np.uint8)
    return Inspection(image, reconstruction, anomaly_map, score, size, 1.0, least_area)


def gaussian(shape, centre, sigma, peak):
    """A map float32 [H, W] with one round hill."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    squares = (y - centre[0]) ** 2 + (x - centre[1]) ** 2
    return (peak * np.exp(-squares / (2 * sigma**2))).astype(np.float32)


def test_box_of_the_strongest_region_is_in_original_pixels():
    anomaly_map = np.zeros((40, 20), np.float32)
    anomaly_map[10:14, 5:8] = 0.7
    anomaly_map[30:32, 15:16] = 0.9
    found = inspection(anomaly_map, size=(80, 60))  # 2 times as high, 3 times as wide
    strongest, other = regions(found, CALIBRATION)
    assert strongest == Region((45, 60, 3, 4), 12, pytest.approx(0.9))
    assert other == Region((15, 20, 9, 8), 72, pytest.approx(0.7))
    # A map finer than the image: what is less than a pixel of it is one, and inside the image.
    assert regions(inspection(anomaly_map, size=(8, 4)), CALIBRATION)[0][:2] == ((3, 6, 1, 1), 1)


@pytest.mark.parametrize("peak", [0.8, 3.0, 30.0])
@pytest.mark.parametrize("shape", [(200, 800), (100, 400)])
def test_a_blurred_spot_has_its_own_size_however_strong(peak, shape):
    anomaly_map = np.zeros(shape, np.float32)
    scale = shape[0] / 200
    rows, columns = (slice(int(a * scale), int(b * scale)) for a, b in ((60, 76), (300, 320)))
    anomaly_map[rows, columns] = peak
    anomaly_map = ndimage.gaussian_filter(anomaly_map, 4 * scale)
    (region,) = regions(inspection(anomaly_map, size=(200, 800)), CALIBRATION)
    assert region.box == pytest.approx((300, 60, 20, 16), abs=2)
    assert region.area == pytest.approx(20 * 16, rel=0.2)


def test_a_good_image_has_no_region_and_a_defective_one_has():
    high = gaussian((60, 60), (20, 20), 4, 9.0)
    assert regions(inspection(high, score=0.5), CALIBRATION) == []
    low = gaussian((60, 60), (20, 20), 4, 0.4)  # below the pixel threshold
    (region,) = regions(inspection(low, size=(60, 60)), CALIBRATION)
    assert region.box == pytest.approx((16, 16, 9, 9), abs=1)
    lower = inspection(low - 2)  # nowhere above good parts
    assert [region.area for region in regions(lower, CALIBRATION)] == [1]


def test_regions_are_peaks_that_stand_by_themselves():
    shape = (80, 160)
    strong = gaussian(shape, (40, 40), 6, 8.0)
    shoulder = gaussian(shape, (40, 55), 2, 0.6)  # on its slope
    apart = gaussian(shape, (40, 110), 4, 1.0)
    faint = gaussian(shape, (15, 145), 4, 0.45)
    anomaly_map = strong + shoulder + apart + faint
    found = regions(inspection(anomaly_map, size=shape), CALIBRATION)
    assert [region.peak for region in found] == pytest.approx([8, 1], rel=0.01)
    # Half of the height is reached 1.18 sigma from the peak.
    assert found[0].box == pytest.approx((33, 33, 15, 15), abs=1)
    assert found[1].box == pytest.approx((105, 35, 10, 10), abs=1)
    # The height is that above good parts.
    raised = replace(CALIBRATION, low=10.0, pixel_threshold=10.5, high=11.0)
    assert [region[:2] for region in regions(inspection(anomaly_map + 10, shape), raised)] == [
        region[:2] for region in found
    ]
    labels = region_labels(inspection(anomaly_map), CALIBRATION)
    assert (labels[40, 40], labels[40, 110], labels[15, 145]) == (1, 2, 0)


def test_specks_are_excluded_but_not_the_strongest():
    anomaly_map = np.zeros((40, 60), np.float32)
    anomaly_map[5, 5], anomaly_map[30:33, 30:33], anomaly_map[20, 50] = 3, 2, 1
    areas = {0: [4, 36, 4], 5: [4, 36], 37: [4]}
    for least_area, expected in areas.items():
        found = inspection(anomaly_map, size=(80, 120), least_area=least_area)
        assert [region.area for region in regions(found, CALIBRATION)] == expected


def test_results_say_how_severe_a_defect_is_and_where():
    anomaly_map = np.zeros((40, 60), np.float32)
    anomaly_map[10:12, 20:25] = 2
    said = json.loads(
        json.dumps(entry(inspection(anomaly_map, size=(40, 60)), "tile", CALIBRATION))
    )
    assert said == {
        "category": "tile",
        "verdict": "defect",
        "score": 0.9,
        "severity": pytest.approx(3.0),  # (0.9 - 0.3) / (0.5 - 0.3)
        "threshold": 0.5,
        "regions": [{"box": [20, 10, 5, 2], "area": 10, "peak": 2.0}],
    }


def test_regions_in_millimetres():
    anomaly_map = np.zeros((40, 60), np.float32)
    anomaly_map[10:12, 20:25] = 2
    found = inspection(anomaly_map, size=(80, 60))._replace(mm_per_pixel=0.1)  # twice as high
    (region,) = entry(found, "tile", CALIBRATION)["regions"]
    assert (region["box"], region["area"]) == ((20, 20, 5, 4), 20)
    assert (region["box_mm"], region["area_mm2"]) == ([2.0, 2.0, 0.5, 0.4], 0.2)


def test_colours_mean_the_same_in_every_image():
    weak, strong = np.full((4, 4), 0.3), np.full((4, 4), 0.3)
    strong[0, 0] = 5.0
    assert np.array_equal(colourise(weak, 0, 1)[2, 2], colourise(strong, 0, 1)[2, 2])
    assert not np.array_equal(colourise(weak, 0, 1)[2, 2], colourise(strong, 0, 1)[0, 0])


def test_overlay_rings_the_regions_alone():
    anomaly_map = np.zeros((40, 40), np.float32)
    image = np.full((40, 40, 3), 90, np.uint8)
    assert (overlay(image, inspection(anomaly_map, score=0.1), CALIBRATION) == 90).all()
    anomaly_map[10:20, 0:15] = 0.8
    found = inspection(anomaly_map)
    for scale in (1, 3):
        scaled = image.repeat(scale, axis=0).repeat(scale, axis=1)
        shown = overlay(scaled, found, CALIBRATION)
        ring = (shown == 255).all(axis=2)
        assert ring[10 * scale, 5 * scale]
        assert not ring[15 * scale, 7 * scale]
        assert not (shown != 90).any(axis=2)[:, 18 * scale :].any()
    # High pixels of a good part are tinted, not ringed; a defective one is ringed at half height.
    hill = gaussian((40, 40), (20, 20), 5, 4.0)
    plain = overlay(image, inspection(hill, score=0.1), CALIBRATION)
    assert not (plain == 255).all(axis=2).any()
    ringed = (overlay(image, inspection(hill), CALIBRATION) == 255).all(axis=2)
    assert np.flatnonzero(ringed.any(axis=0))[[0, -1]] == pytest.approx([15, 25], abs=1)


def test_an_annotated_frame_rings_the_regions():
    hill = gaussian((40, 60), (20, 30), 4, 4.0)
    frame = np.full((480, 720, 3), 90, np.uint8)
    for score, expected in ((0.1, False), (0.9, True)):
        shown = np.asarray(annotate(frame, inspection(hill, score=score), CALIBRATION, "frame"))
        assert (shown[100:] == 255).all(axis=2).any() == expected


def test_a_panel_has_one_more_picture_with_a_reconstruction():
    anomaly_map = np.zeros((40, 30), np.float32)
    without = panel(inspection(anomaly_map), CALIBRATION, "a.png")
    picture = np.zeros((40, 30, 3), np.uint8)
    with_one = panel(inspection(anomaly_map, reconstruction=picture), CALIBRATION, "a.png")
    assert with_one.height == without.height
    assert with_one.width - without.width > 200
