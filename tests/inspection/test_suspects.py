"""Suspects in train/good: the rule that names them, and train.py with and without them."""

import csv
import shutil

import numpy as np
import pytest
from conftest import assert_one_line, run_script
from PIL import Image, ImageDraw

from data.sample.__main__ import write_sample
from inspection import suspects as suspects_module
from inspection.threshold import calibrate, suspicion
from training.checkpoint import load_checkpoint
from training.run import Run
from utils.config import load_config


def suspects(scores):
    above, limit = suspicion(calibrate(list(scores), list(scores), 0.0, 0.02))
    return np.array([above(score) < limit for score in scores])


@pytest.mark.parametrize("draw", ["exponential", "normal", "gumbel"])
def test_one_clean_set_in_ten_at_most_has_a_suspect(draw):
    rng = np.random.default_rng(0)
    sets = [getattr(rng, draw)(size=size) for size in [15, 60, 200] for _ in range(100)]
    assert np.mean([suspects(scores).any() for scores in sets]) < 0.12


@pytest.mark.parametrize("share", [0.02, 0.1, 0.2])
def test_defects_are_suspects_however_many_they_are_and_good_images_are_not(share):
    rng = np.random.default_rng(0)
    good, defects = rng.gumbel(size=100), 25 + 50 * rng.random(round(100 * share))
    found = suspects(np.concatenate([good, defects]))
    assert found[100:].all()
    assert not found[:100].any()


def test_equal_scores_are_no_suspects():
    assert not suspects([1.0] * 30 + [1.5]).any()


TRAIN = ["train.py", "--model", "patchcore", "--size", "64", "--set", "backbone.layers=[2,3]"]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two equal categories of 16 images each; the first good image of each has a red bar."""
    folder = tmp_path_factory.mktemp("suspects")
    write_sample(folder, "tile", size=80, train=16, good=1, defects=1, quiet=True)
    file = folder / "tile/train/good/000.png"
    image = Image.open(file).convert("RGB")
    ImageDraw.Draw(image).rectangle((10, 30, 60, 45), fill=(200, 30, 30))
    image.save(file)
    shutil.copytree(folder / "tile", folder / "plate")
    return folder


def table(folder):
    text = (folder / "suspects.csv").read_text("utf-8-sig")
    return {row["file"]: row for row in csv.DictReader(text.splitlines())}


def test_a_run_names_its_suspects_and_keeps_what_a_user_wrote(root, tmp_path):
    first = run_script(*TRAIN, "--data-root", root, "--category", "tile", cwd=tmp_path)
    assert first.returncode == 0, first.stderr
    (run,) = (tmp_path / "checkpoints").iterdir()
    assert "suspects: 1 of 16 good images" in first.stdout
    assert "data.contaminated=0.062" in first.stdout
    row = table(run / "suspects")["tile/train/good/000.png"]
    assert (row["category"], row["excluded"]) == ("tile", "no")
    assert float(row["severity"]) > 1
    assert int(row["one_in"]) > 160  # of 16 images, one set in ten has such a score
    assert (run / "suspects/000.png").is_file()
    for turned, folders in [(90, ["suspects"]), (180, ["suspects", "suspects-2"])]:
        further = tmp_path / f"tile/{turned}.png"
        further.parent.mkdir(exist_ok=True)
        Image.open(root / "tile/train/good/001.png").rotate(turned).save(further)
        added = run_script("train.py", "--add", further, "--resume", run, cwd=tmp_path)
        assert added.returncode == 0, added.stderr
        assert sorted(path.name for path in run.glob("suspects*")) == folders
        (run / "suspects/notes.txt").write_text("000 is scratched")
    assert "suspects-2" in added.stdout


def test_the_share_excluded_of_each_category_takes_no_part_and_stays_out(root, tmp_path):
    contaminated = ["--set", "data.contaminated=0.06", "--category", "all"]
    result = run_script(*TRAIN, *contaminated, "--data-root", root, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    (run,) = (tmp_path / "checkpoints").iterdir()
    excluded = ["plate/train/good/000.png", "tile/train/good/000.png"]
    checkpoint = load_checkpoint(run / "last.pt")
    assert checkpoint.good.excluded == excluded
    assert len(checkpoint.good.names) == 30
    assert not set(excluded) & set(checkpoint.good.names)
    assert len(checkpoint.calibrations["tile"]["scores"]) == 15
    assert "left out: 1 of 16 good images of tile" in result.stdout
    assert {table(run / "suspects")[name]["excluded"] for name in excluded} == {"yes"}
    assert (run / "suspects/tile/train/good/000.png").is_file()
    again = run_script("train.py", "--add", root / "tile/train/good", "--resume", run, cwd=tmp_path)
    assert again.returncode == 2
    assert "left out: 1 images, as before" in again.stderr
    assert "nothing is added" in again.stderr


def test_a_network_holds_out_images_that_stay(root, monkeypatch):
    def rank(config, images, good, device):  # the most suspicious are those held out at first
        return np.array(good.held_out, float)

    monkeypatch.setattr(suspects_module, "rank", rank)
    settings = {"data.root": str(root), "data.category": "tile", "data.contaminated": 0.125}
    run = Run(load_config(overrides=settings | {"model": "unet", "data.size": 64}))
    images = suspects_module.exclude(run, run.load_images(hold_out=True))
    assert len(images) == len(run.good.names) == 14
    assert len(run.good.excluded) == sum(run.good.held_out) == 2
    assert not set(run.good.excluded) & set(run.good.names)


def test_too_few_good_images_may_stay(root, tmp_path):
    flags = ["--set", "data.contaminated=0.5", "--set", "data.limit=2", "--category", "tile"]
    result = run_script(*TRAIN, *flags, "--data-root", root, cwd=tmp_path)
    assert_one_line(result, "data.contaminated=0.5", "tile", "lower it")
    assert not (tmp_path / "checkpoints").exists()
