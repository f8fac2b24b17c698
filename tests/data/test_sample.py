"""The drawn categories: their layout, their seeds, their masks and their refusals."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from data.drawing import seeded
from data.sample.__main__ import KINDS, main, part, photographed, tile, write_sample
from utils.errors import UserError

SMALL = {"size": 96, "train": 2, "good": 1, "defects": 2, "quiet": True}


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below folder: its path in there and its bytes."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module", params=KINDS)
def drawn(tmp_path_factory, request) -> tuple[str, Path]:
    """A kind and a small category of it, written once."""
    return request.param, write_sample(
        tmp_path_factory.mktemp("mvtec"), **SMALL, kind=request.param
    )


def test_layout_is_that_of_mvtec(drawn):
    """Names and counts are as in MVTec AD."""
    kind, folder = drawn
    defects = {
        "tile": ("crack", "glue_strip", "gray_stroke", "oil", "rough"),
        "part": ("damaged_edge", "missing_piece", "scratch", "bent_tip"),
    }
    expected = {"train/good/000.png", "train/good/001.png", "test/good/000.png"}
    for defect in defects[kind]:
        for index in ("000", "001"):
            expected |= {f"test/{defect}/{index}.png", f"ground_truth/{defect}/{index}_mask.png"}
    assert set(contents(folder)) == expected
    assert [path.name for path in folder.parent.iterdir()] == [kind]  # the draft is gone


def test_images_and_masks_fit(drawn):
    """Sizes and modes agree; masks are 0 or 255 and of a fair size."""
    kind, folder = drawn
    for path in folder.rglob("*.png"):
        with Image.open(path) as image:
            assert image.size == (96, 96)
            assert image.mode == ("L" if path.stem.endswith("_mask") else "RGB")
    for path in folder.glob("ground_truth/*/*.png"):
        mask = np.asarray(Image.open(path))
        assert set(np.unique(mask)) == {0, 255}
        assert KINDS[kind].AREA[0] <= (mask > 0).mean() <= KINDS[kind].AREA[1]


def test_same_seed_same_bytes_whatever_the_counts(drawn, tmp_path):
    """Files depend on the seed and their own number only, and no two are alike."""
    kind, folder = drawn
    counts = {**SMALL, "train": 3, "good": 2, "defects": 3}
    more = contents(write_sample(tmp_path, **counts, kind=kind))
    first = contents(folder)
    assert {name: more[name] for name in first} == first
    assert len(set(more.values())) == len(more)


def test_another_seed_changes_every_file(drawn, tmp_path):
    """No file survives a change of seed."""
    kind, folder = drawn
    other = contents(write_sample(tmp_path, "other", **SMALL, seed=1, kind=kind))
    assert all(other[name] != data for name, data in contents(folder).items())


@pytest.mark.parametrize("name", tile.DEFECTS)
def test_defect_changes_the_stone_within_its_mask_only(name):
    """A defect shows inside its mask, changes nothing outside, and spares its input."""
    for seed in range(4):
        with seeded(seed):
            stone = tile.granite(128)
            before = stone.clone()
            image, mask = tile.spoil(stone, name)
        assert torch.equal(stone, before)
        assert image.shape == (1, 3, 128, 128)
        assert (mask.shape, mask.dtype) == ((1, 1, 128, 128), torch.bool)
        assert image.min() >= 0
        assert image.max() <= 1
        change = (image - stone).abs().amax(dim=1, keepdim=True)
        assert change[mask].mean() > 0.04
        assert not change[~mask].any()


def test_some_defects_touch_the_border():
    """Between a quarter and three quarters of the defects are cut by the frame."""
    touching = []
    with seeded(0):
        stone = tile.granite(96)
        for defect in [*tile.DEFECTS] * 8:
            mask = tile.spoil(stone, defect)[1][0, 0]
            touching.append(bool(mask[[0, -1]].any() or mask[:, [0, -1]].any()))
    assert 0.25 <= np.mean(touching) <= 0.75


def test_cracks_are_thin_and_of_one_piece():
    """A crack's branches start on it, whatever its direction."""
    with seeded(0):
        for turn in (0.0, 1.0, 2.5, 4.0):
            start, length = torch.full((1, 2), 128.0), 0.4
            line = tile._crack_line(
                torch.zeros(1, 3, 256, 256), start, torch.tensor([turn]), length, 0.01, 3
            )
            mask = line[0, 0].numpy() > 0.3
            assert ndimage.label(mask, np.ones((3, 3)))[1] == 1
            assert 0.001 < mask.mean() < 0.03


def test_stone_fills_the_frame_and_varies_a_little():
    """Each quarter has grains, and brightness differs a little between photographs."""
    means = []
    for seed in range(6):
        with seeded(seed):
            image = photographed(tile.draw(256)[0])
        assert image.shape == (1, 3, 256, 256)
        for quarter in (
            image.unflatten(3, (2, 128)).unflatten(2, (2, 128)).permute(2, 4, 0, 1, 3, 5)
        ):
            assert (quarter.flatten(1).std(dim=1) > 0.08).all()
        means.append(image.mean().item())
    assert 0 < np.std(means) < 0.05


def lay_bolt(seed: int, size: int = 256):
    """Draw a whole bolt, its scene and its layers."""
    with seeded(seed):
        scene, bolt = part.place(size), part.bolt(size)
    return scene, bolt, part.compose(bolt, scene, size)


@pytest.mark.parametrize("name", part.DEFECTS)
def test_defect_changes_the_part_within_its_mask_only(name):
    """A defect of the part shows inside its mask and hardly outside, and spares its input."""
    for seed in range(4):
        scene, bolt, whole = lay_bolt(seed)
        before = bolt.height.clone(), bolt.tint.clone()
        with seeded(seed):
            defective, mask = part.spoil(bolt, scene, 256, name)
        assert torch.equal(bolt.height, before[0])
        assert torch.equal(bolt.tint, before[1])
        change = (defective.unshadowed(scene.ground) - whole.unshadowed(scene.ground)).abs()
        assert change[mask].mean() > 0.1
        assert (change[~mask] > 0.06).float().mean() < 0.002  # crumbs
        gain = defective.share - whole.share
        if name == "scratch":  # on the metal, which keeps its outline
            assert not gain.any()
        elif name == "missing_piece":  # the ground comes to light
            assert gain.max() <= 0
            assert gain.min() < -0.5
        elif name == "bent_tip":
            assert gain.max() > 0.5
            assert gain.min() < -0.5


def test_part_lies_anywhere_wholly_in_the_frame():
    """Position and turn differ, the bolt's area does not, and nothing of it is cut off."""
    lain = [lay_bolt(seed) for seed in range(24)]
    areas = [layers.share.mean() for *_, layers in lain]
    assert np.ptp(areas) < 0.04 * np.mean(areas)
    turns = np.array([scene.turn for scene, *_ in lain])
    assert np.hypot(np.cos(turns).mean(), np.sin(turns).mean()) < 0.4
    assert torch.cat([scene.at for scene, *_ in lain]).std(dim=0).min() > 0.1 * 256
    for seed, (scene, bolt, layers) in enumerate(lain):
        with seeded(seed):
            bent = part.compose(part.bent_tip(bolt), scene, 256)
        for share in (layers.share, bent.share):
            assert not share[..., [0, -1], :].any()
            assert not share[..., [0, -1]].any()


def test_shadow_falls_away_from_the_lamp():
    """However the bolt is turned, the lamp stands at the upper left of the image."""
    for seed in range(8):
        _, _, layers = lay_bolt(seed)
        below, above = (
            layers.shadow[(layers.share > 0.5).roll(shift, (2, 3)) & (layers.share == 0)].mean()
            for shift in ((10, 6), (-10, -6))
        )
        assert below > 1.2 * above


def test_leaves_a_folder_with_content_alone(tmp_path):
    """A folder that is not empty is refused and stays as it was."""
    (tmp_path / "tile").mkdir()
    (tmp_path / "tile" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not empty"):
        write_sample(tmp_path, **SMALL)
    assert contents(tmp_path) == {"tile/notes.txt": b"mine"}


def test_fills_an_empty_folder(tmp_path):
    """An empty folder is no obstacle, and counts may be zero."""
    (tmp_path / "tile").mkdir()
    write_sample(tmp_path, size=64, train=1, good=0, defects=0, quiet=True)
    assert set(contents(tmp_path)) == {"tile/train/good/000.png"}


def test_leaves_no_half_set_behind(tmp_path, monkeypatch):
    """An interrupted run leaves neither a half set nor its draft."""

    def interrupted(stone):
        raise KeyboardInterrupt

    monkeypatch.setitem(tile.DEFECTS, "crack", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_sample(tmp_path, **SMALL)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [{"size": 63}, {"train": 0}, {"good": -1}, {"defects": -1}, {"seed": -1}, {"kind": "nut"}],
)
def test_refuses_numbers_out_of_range(tmp_path, wrong):
    """The message names the number, and nothing is written."""
    with pytest.raises(UserError, match=next(iter(wrong))):
        write_sample(tmp_path, **{**SMALL, **wrong})
    assert list(tmp_path.iterdir()) == []


def test_command_line_fails_in_one_line(tmp_path):
    """The command prints one line to stderr and exits with 2."""
    command = [sys.executable, "-m", "data.sample", "--root", str(tmp_path), "--size", "8"]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[2]
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: size must be at least 64 pixels, not 8\n"


def test_a_category_without_a_name_is_not_the_data_set_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sample", "--root", str(tmp_path / "new"), "--category", ""])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert not any(tmp_path.iterdir())
