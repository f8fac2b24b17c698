import json
import shutil

import numpy as np
import pytest
from conftest import run_script
from drawn_images import settings
from PIL import Image

from models.drawn_defects.synthetic import KINDS, MIN_AREA, VISIBLE, pseudo_split, spoil


def photograph(size=(120, 90), grey=False):
    rng = np.random.default_rng(0)
    y, x = np.mgrid[0 : size[0], 0 : size[1]]
    image = 100 + 40 * np.sin(x / 7)[..., None] + rng.normal(0, 6, (*size, 1 if grey else 3))
    return np.clip(image, 0, 255).astype(np.uint8) * np.ones(3, np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_defects_are_where_their_masks_say(kind):
    image = photograph()
    for seed in range(8):
        spoilt, mask = spoil(image, kind, (seed,))
        assert spoilt.dtype == np.uint8
        change = np.abs(spoilt.astype(float) - image).max(axis=2) / 255
        assert (change[~mask] == 0).all()
        assert change[mask].mean() > VISIBLE
        assert (change[mask] > 0).mean() > 0.6
        assert MIN_AREA <= mask.mean() < 0.9
        again, _ = spoil(image, kind, (seed,))
        assert np.array_equal(again, spoilt)


def test_a_grey_camera_sees_no_colours():
    spoilt, _ = spoil(photograph(grey=True), "foreign", (0,))
    assert (spoilt == spoilt[..., :1]).all()


def test_split_holds_each_image_good_and_spoilt(tmp_path):
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for path in paths:
        Image.fromarray(photograph()).save(path)
    tests = pseudo_split(paths, settings(size=(64, 48)))
    assert [test.defect for test in tests] == ["good"] * 2 + [k for k in KINDS for _ in range(2)]
    image, mask = tests[0].read()
    assert (image.shape, mask) == ((64, 48, 3), None)
    first, second = tests[2].read(), tests[3].read()
    assert first[0].shape == (64, 48, 3)
    assert not np.array_equal(first[1], second[1])  # another place on each image


def test_settings_can_be_chosen_without_test_images(trained, dataset, tmp_path):
    folder, run, _ = trained
    shutil.copytree(dataset / "tile/train", tmp_path / "tile/train")
    shutil.copytree(run, tmp_path / "checkpoints" / run.name)
    result = run_script("calibrate.py", "--data-root", tmp_path,
                        "--set", "score.reduce=max", cwd=tmp_path)  # fmt: skip
    assert result.returncode == 0, result.stderr
    result = run_script("eval.py", "--synthetic", "--data-root", tmp_path, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "PSEUDO IMAGE AUROC" in result.stdout
    metrics = json.loads((tmp_path / f"outputs/{run.name}/synthetic/metrics.json").read_text())
    assert {key.removeprefix("auroc_") for key in metrics if key.startswith("auroc_")} == set(KINDS)
    assert 0 <= metrics["pixel_auroc"] <= 1
