"""A region of interest on its way from a mask to verdicts, pictures, metrics and an export."""

import json
import shutil

import numpy as np
import pytest
from conftest import assert_one_line, run_script
from PIL import Image

from data.images import read_image
from inspection.open_run import open_inspector
from inspection.regions import regions
from models.backbones import Backbone
from utils.errors import UserError

SIDE = 80  # of the sample's tiles; the left 48 columns of them are the region
FIT = ["--model", "patchcore", "--size", "64", "--batch", "4", "--set", "patchcore.coreset=0.05"]
EVERY = {
    "unet": ["--set", "unet.width=4", "--epochs", "1"],
    "draem": ["--set", "unet.width=4", "--epochs", "1"],
    "dinomaly": ["--set", "backbone.name=vit_tiny_patch16_224", "--epochs", "1"],
    "fastflow": ["--epochs", "1"],
    "patchcore": ["--set", "data.resize=pad"],
    "padim": ["--set", "padim.channels=8"],
    "patch_memory": ["--set", "backbone.name=efficientnet_lite0"],
}


def spoilt(image, left, value=255):
    """A copy with a square, 12 pixels a side, that is no part of a tile."""
    image = image.copy()
    image[30:42, left : left + 12] = value
    return image


def trained(folder, root, *flags):
    result = run_script("train.py", "--data-root", root, *flags, cwd=folder)
    assert result.returncode == 0, result.stderr
    return max((folder / "checkpoints").iterdir(), key=lambda run: run.stat().st_mtime_ns)


@pytest.fixture(scope="module")
def work(tmp_path_factory, dataset):
    """A working folder with the tiles, the same with trash in half of the good ones, and a mask."""
    folder = tmp_path_factory.mktemp("region")
    for name in ("clean", "trash"):
        shutil.copytree(dataset, folder / name)
    for path in sorted((folder / "trash/tile/train/good").glob("*.png"))[::2]:
        image = read_image(path)
        image[:, 48:] = np.random.default_rng(len(path.name)).integers(0, 256, (SIDE, 32, 3))
        Image.fromarray(image).save(path)
    mask = np.zeros((2 * SIDE, 2 * SIDE), np.uint8)
    mask[:, :96] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


@pytest.fixture(scope="module")
def run(work):
    """A run that knows the region; its mask and what lies in the images' other half are gone."""
    run = trained(work, work / "trash", *FIT, "--set", "data.region=mask.png")
    (work / "mask.png").rename(work / "kept.png")
    yield run
    (work / "kept.png").rename(work / "mask.png")


def test_what_lies_outside_is_neither_learned_nor_found(work, run, dataset):
    image = read_image(dataset / "tile/test/good/000.png")
    inspector = open_inspector(run / "last.pt", "cpu")
    good, outside, inside = map(inspector.inspect, (image, spoilt(image, 60), spoilt(image, 20)))
    assert outside.score == good.score
    assert (outside.anomaly_map == good.anomaly_map).all()
    assert inspector.calibrations["tile"].is_defect(inside.score)
    (x, _, width, _), *_ = (
        region.box for region in regions(inside, inspector.calibrations["tile"])
    )
    assert 20 < x + width / 2 < 32
    # However low the threshold, rings stay within: even if all of an image is called a defect.
    for threshold in (good.score - 1e-4, inside.anomaly_map.min() - 1):
        for region in regions(inside, inspector.calibrations["tile"].with_threshold(threshold)):
            assert region.box[0] + region.box[2] <= 49


def test_a_detector_that_saw_trash_outside_equals_one_that_did_not(work, run, dataset):
    shutil.copy(work / "kept.png", work / "again.png")
    other = trained(work, work / "clean", *FIT, "--set", "data.region=again.png")
    a, b = (open_inspector(folder / "last.pt", "cpu") for folder in (run, other))
    assert a.calibrations == b.calibrations
    image = read_image(dataset / "tile/test/oil/000.png")
    assert a.inspect(image).score == b.inspect(image).score


def test_scripts_go_by_the_region(work, run, dataset):
    assert run_script("eval.py", "--checkpoint", run, cwd=work).returncode == 0
    metrics = json.loads((work / "outputs" / run.name / "eval/metrics.json").read_text())
    assert metrics["pixel_auroc"] > 0.5
    result = run_script("eval.py", "--checkpoint", run, "--synthetic", cwd=work)
    assert result.returncode == 0, result.stderr
    image = read_image(dataset / "tile/test/good/000.png")
    paths = [work / "outside.png", work / "inside.png"]
    for path, left in zip(paths, (60, 20), strict=True):
        Image.fromarray(spoilt(image, left)).save(path)
    result = run_script("export.py", "--checkpoint", run, cwd=work)
    assert result.returncode == 0, result.stderr
    scores = []
    for file in (run, run / f"{run.name}.onnx"):
        flags = ["--checkpoint", file, "--save", "mask,overlay", "--output", work / file.name]
        result = run_script("infer.py", *flags, *paths, cwd=work)
        assert result.returncode == 0, result.stderr
        found = [json.loads(line) for line in (work / file.name / "results.jsonl").open()]
        assert found[1]["score"] > found[0]["score"]
        scores.append([one["score"] for one in found])
        marked = np.asarray(Image.open(found[1]["mask"]))
        assert marked[30:42, 20:32].any() and not marked[:, 49:].any()
        drawn = read_image(work / found[1]["overlay"])
        assert (drawn[:, 60:] == image[:, 60:]).all()  # the photograph, not the black of a mask
    assert scores[0] == pytest.approx(scores[1], rel=1e-4)


@pytest.mark.parametrize("model", EVERY)
def test_every_detector_has_a_region(model, work, run, tmp_path, dataset, monkeypatch):
    # The weights of vision transformers are not installed.
    monkeypatch.setattr(Backbone, "_download", lambda self, _: self.network.state_dict())
    region = ["--set", f"data.region={work / 'kept.png'}"]
    flags = ["--model", model, "--size", "64", "--batch", "4", *region, *EVERY[model]]
    folder = trained(tmp_path, dataset, *flags)
    inspector = open_inspector(folder / "last.pt", "cpu")
    image = read_image(dataset / "tile/test/good/000.png")
    one, other, inside = (inspector.inspect(spoilt(image, left)) for left in (60, 66, 20))
    assert one.score == other.score
    assert (one.anomaly_map == other.anomaly_map).all()
    assert (one.anomaly_map != inside.anomaly_map).any()


def test_a_mask_that_cannot_be_meant_is_refused(work, dataset, tmp_path):
    masks = {
        "is empty": np.zeros((60, 60), bool),
        "covers 0.28%": np.eye(60, dtype=bool) & (np.arange(60) < 10),
        "60x30 and the image 80x80": np.ones((30, 60), bool),
    }
    for words, mask in masks.items():
        Image.fromarray(mask).save(tmp_path / "mask.png")
        flags = ["--data-root", dataset, *FIT, "--set", "data.region=mask.png"]
        assert_one_line(run_script("train.py", *flags, cwd=tmp_path), words)
    flags[-1] = "data.region=gone.png"
    assert_one_line(run_script("train.py", *flags, cwd=tmp_path), "gone.png", "no such file")
    flags += ["--set", "patchcore.paper=true"]
    assert_one_line(run_script("train.py", *flags, cwd=tmp_path), "patchcore.paper")


def test_masks_one_an_image(work, run, dataset, tmp_path):
    for path in (dataset / "tile").glob("t*/*/*.png"):
        masks = tmp_path / "masks" / path.relative_to(dataset / "tile")
        masks.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(work / "kept.png", masks.with_name(path.stem + "_mask.png"))
    folder = trained(tmp_path, dataset, *FIT, "--set", f"data.region={tmp_path / 'masks'}")
    one, own = (open_inspector(file / "last.pt", "cpu") for file in (run, folder))
    assert one.calibrations == own.calibrations
    path = dataset / "tile/test/oil/000.png"
    assert own.inspect(own.read(path)).score == one.inspect(one.read(path)).score
    with pytest.raises(UserError, match="a folder with a mask for each file"):
        own.inspect(read_image(path))  # as a camera's frame
    shutil.copy(path, tmp_path / "unknown.png")
    result = run_script("infer.py", "--checkpoint", folder, "unknown.png", cwd=tmp_path)
    assert result.returncode == 1 and "no mask of unknown.png in data.region" in result.stderr


def test_tiles_have_the_region_of_their_image(work, run, dataset, tmp_path):
    flags = ["--set", "data.tile=40", "--set", f"data.region={work / 'kept.png'}"]
    folder = trained(tmp_path, dataset, *FIT, *flags)
    inspector = open_inspector(folder / "last.pt", "cpu")
    image = read_image(dataset / "tile/test/good/000.png")
    good, outside, inside = map(inspector.inspect, (image, spoilt(image, 60), spoilt(image, 20)))
    assert outside.score == good.score < inside.score
    assert (outside.anomaly_map == good.anomaly_map).all()
