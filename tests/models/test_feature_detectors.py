import math
import sys

import numpy as np
import pytest
import torch
from conftest import assert_one_line, run_script
from fitted import detector, fitted, saved
from PIL import Image
from torch.nn import functional as F

import train
from data.good_images import GoodImages
from data.tensors import to_pixels, turned
from inspection.torch_inspector import load_detector
from models import build_model, padim
from models.backbones import Backbone, concatenated
from models.memory_bank import rows
from training import distributed
from training.checkpoint import Checkpoint, Progress, save_checkpoint
from utils.config import load_config
from utils.device import place
from utils.errors import UserError

CPU = torch.device("cpu")
CHANNELS = 24 + 40  # of levels 1 and 2
PLAIN = {"patchcore.coreset": 1.0, "patchcore.density": 0, "score.smooth": 0}


@pytest.fixture
def good():
    """Twelve images of stripes that differ in phase and noise."""
    generator = torch.Generator().manual_seed(0)
    phase = 6.28 * torch.rand(12, 1, 1, generator=generator)
    wave = torch.sin(torch.arange(64.0) / 4 + phase).expand(12, 64, 64)
    noise = 0.05 * torch.randn(12, 3, 64, 64, generator=generator)
    return (0.5 + 0.3 * wave[:, None] + noise).clamp(0, 1)


@pytest.fixture
def defective(good):
    """One of them with a square that breaks the stripes."""
    image = good[:1].clone()
    image[:, :, 40:50, 12:22] = torch.tensor([0.9, 0.2, 0.1])[:, None, None]
    return image


@pytest.mark.parametrize("name", ["patchcore", "padim", "patch_memory"])
def test_detectors_find_the_spot(name, good, defective):
    model = fitted(name, good[1:], pieces=(3, 8), **{"score.smooth": 0.03})
    anomaly_map, score, reconstruction = model(torch.cat([good[:1], defective]))
    assert anomaly_map.shape == (2, 1, 64, 64)
    assert score[1] > score[0]
    row, column = divmod(int(anomaly_map[1].argmax()), 64)
    assert 34 <= row < 56
    assert 6 <= column < 28
    assert reconstruction is None


@pytest.mark.parametrize("name", ["patchcore", "padim", "patch_memory"])
def test_checkpoint_alone_gives_the_same_answer(name, good, tmp_path, monkeypatch):
    model = place(fitted(name, good), CPU)
    file = saved(model, tmp_path)
    monkeypatch.setattr(Backbone, "load", None)  # nothing is fetched at inference
    torch.manual_seed(9)
    loaded, _ = load_detector(file, CPU)
    for ours, theirs in zip(model(good)[:2], loaded(good)[:2], strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("name", ["patchcore", "padim", "patch_memory"])
def test_sweep_goes_on_where_it_was_saved(name, good):
    overrides = {"patchcore.candidates": 300, "patch_memory.patches": 300}
    whole, first, second = (detector(name, **overrides) for _ in range(3))
    for model, pieces in ((whole, good.split(4)), (first, good.split(4)[:2])):
        torch.manual_seed(1)
        for piece in pieces:
            model.collect(piece, 0)
    second.load_state_dict(first.state_dict())  # torch's generator is where `first` left it
    torch.manual_seed(1)
    sides = {"patchcore": (16, 16, 8, 8), "padim": (), "patch_memory": (16,)}[name]
    for side in sides * 2:
        torch.rand(4 * side * side)
    if name == "padim":
        torch.randperm(CHANNELS)
    second.collect(good.split(4)[2], 0)
    for key, value in whole.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@pytest.mark.parametrize("name", ["patchcore", "padim", "patch_memory"])
def test_a_single_good_image_is_enough(name, good, defective):
    model = fitted(name, good[:1], pieces=(1,), **{"patch_memory.rotations": 2})
    assert model(defective).score.item() > model(good[:1]).score.item()


def test_patchcore_bank_is_bounded_and_a_share_of_the_candidates(good):
    model = detector("patchcore", **{"patchcore.candidates": 500, "patchcore.coreset": 0.1})
    for image in good.split(1):
        model.collect(image, 0)
        assert all(len(memory.bank) <= 500 for memory in model.memories)
    assert [len(memory.bank) for memory in model.memories] == [500] * 4
    model.finish()
    for memory in model.memories:
        assert (len(memory.bank), len(memory.spacing), len(memory.keys)) == (50, 50, 50)


def test_patchcore_knows_what_it_has_seen(good):
    model = fitted("patchcore", good, **PLAIN)
    fine, coarse = 12 * 16 * 16, 12 * 8 * 8
    assert [len(memory.bank) for memory in model.memories] == [fine, fine, coarse, coarse]
    assert model(good).anomaly_map.max() < 1e-5


def test_patches_are_averages_of_their_neighbours(good):
    model = detector("patchcore")
    features, _ = model.backbone(good[:1])
    patches, _, coarse, _ = model.patches(good[:1])
    assert coarse.shape == (1, 40, 8, 8)
    assert torch.allclose(patches[0, :, 5, 6], features[0, :, 4:7, 5:8].mean((1, 2)), atol=1e-6)
    assert torch.allclose(patches[0, :, 0, 0], features[0, :, :2, :2].mean((1, 2)), atol=1e-6)
    assert torch.equal(rows(patches)[5 * 16 + 6], patches[0, :, 5, 6])


def test_patchcore_score_is_the_papers(good, defective):
    paper = PLAIN | {"patchcore.joined": True, "patchcore.reweight": 4}
    model = fitted("patchcore", good[1:], pieces=(11,), **paper)
    patches = rows(model.patches(defective)[0]).double()
    bank = model.memories[0].bank.double()
    apart = torch.cdist(patches, bank)
    strangest = apart.min(dim=1).values.argmax()
    nearest = apart[strangest].argmin()
    around = torch.cdist(bank[nearest][None], bank)[0].argsort()[:4]
    exponentials = apart[strangest, around].exp()
    weight = 1 - apart[strangest, nearest].exp() / exponentials.sum()
    expected = weight * apart[strangest, nearest]
    score = model(torch.cat([good[:1], defective])).score[1]
    assert score.item() == pytest.approx(expected.item(), rel=1e-4)


def test_patchcore_takes_the_mean_of_what_its_memories_say(good, defective):
    model = fitted("patchcore", good, **PLAIN)
    found = zip(model.memories, model.patches(defective), strict=True)
    maps = [memory.distances(features)[0] for memory, features in found]
    assert [memory.whiten for memory in model.memories] == [False, True] * 2
    mean = concatenated(maps).mean(dim=1, keepdim=True)
    expected = F.interpolate(model.scale(mean), (64, 64), mode="bilinear")
    assert torch.allclose(model(defective).anomaly_map, expected, rtol=1e-4)
    assert (model.scale.spread != 1).all()
    with pytest.raises(UserError, match="patchcore.joined"):
        detector("patchcore", **{"patchcore.reweight": 3})


def test_density_divides_distances_by_the_spacing_of_good_patches(good, defective):
    one = PLAIN | {"patchcore.joined": True}
    plain = fitted("patchcore", good, **one)
    dense = fitted("patchcore", good, **one | {"patchcore.density": 5})
    (memory,), (sparse,) = dense.memories, plain.memories
    bank, found = memory.bank, memory.spacing
    apart = torch.cdist(bank.double(), sparse.bank.double())
    spacing = apart.topk(5, largest=False).values.mean(dim=1)
    assert torch.allclose(found.double(), spacing.clamp_min(spacing.median()), rtol=1e-4)
    places = torch.cdist(rows(dense.patches(defective)[0]), bank).argmin(dim=1)
    ratio = plain.strangeness(defective).amax() / dense.strangeness(defective).amax()
    assert found[places].min() * 0.99 < ratio < found[places].max() * 1.01


@pytest.mark.parametrize("pending", [1, 4, 100])
def test_padim_in_one_pass_is_numpys_covariance(pending, good, monkeypatch):
    monkeypatch.setattr(padim, "PENDING", pending)
    share = 0.2
    monkeypatch.setattr(padim, "SHRINKAGE", share)
    overrides = {"padim.channels": 7, "score.smooth": 0, "data.size": 64}
    model = fitted("padim", good, **overrides)
    features = model.rows(model.features(good)).double().numpy()  # [12, 256, 7]
    within = np.mean([np.cov(features[:, p].T).diagonal() for p in range(256)], axis=0)
    overall = np.diag(within + features.mean(axis=0).var(axis=0))
    distances = np.zeros(256)
    for position in range(256):
        samples = features[:, position]
        covariance = (1 - share) * np.cov(samples.T) + share * overall
        whitening = model.whitening[position].double().numpy()
        assert np.allclose(whitening @ covariance @ whitening.T, np.eye(7), atol=1e-3)
        deviation = samples[0] - samples.mean(axis=0)
        distances[position] = np.sqrt(deviation @ np.linalg.solve(covariance, deviation))
    peak = model(good[:1]).anomaly_map.max().item()
    assert 0.9 * distances.max() < peak < 1.001 * distances.max()  # interpolation lowers peaks


def test_padim_keeps_no_images(good):
    model = detector("padim")
    largest = 0
    for _ in range(10):
        for piece in good.split(4):
            model.collect(piece, 0)
            largest = max(largest, len(model.pending))
    assert int(model.count) + len(model.pending) == 120
    assert largest < padim.PENDING
    model.finish()
    assert len(model.pending) == len(model.scatter) == 0


def test_padim_keeps_no_more_channels_than_there_are(good):
    assert len(fitted("padim", good, **{"padim.channels": 999}).chosen) == CHANNELS


def test_padim_says_what_it_needs_before_it_fits(good, monkeypatch, capsys):
    model = detector("padim")
    monkeypatch.setattr(padim, "free_memory", lambda device: 2**20)
    with pytest.raises(UserError, match=r"padim.channels=\d+") as caught:
        model.collect(good, 0)
    monkeypatch.undo()
    fewer = int(str(caught.value).rpartition("=")[2])
    assert 0 < 4 * 256 * fewer * (fewer + padim.PENDING + 1) <= 1.5 * 2**20
    model.collect(good, 0)
    assert "GiB" in capsys.readouterr().out


def test_rotations_are_quarter_turns_of_the_image(good):
    for turns in range(4):
        copies = turned(good, turns * math.pi / 2)
        assert torch.allclose(copies, torch.rot90(good, -turns, (2, 3)), atol=1e-4)
    model = fitted("patch_memory", good, **{"patch_memory.rotations": 4})
    assert len(model.memory.bank) == 4 * 12 * 16 * 16


def test_patch_memory_tokens_have_unit_length_in_each_layer(good):
    tokens = detector("patch_memory").tokens(good)
    assert torch.allclose(tokens[:, :24].square().sum(dim=1), torch.ones(12, 16, 16), atol=1e-5)


def test_feature_detectors_are_not_split_over_processes(dataset, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    flags = ["--data-root", str(dataset), "--model", "patchcore"]
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    with pytest.raises(UserError, match="without torchrun"):
        train.main()


@pytest.mark.parametrize("name", ["patchcore", "padim"])
def test_scripts_with_the_packaged_weights(name, good, defective, tmp_path):
    parts = {"train/good": good[:9], "test/good": good[9:], "test/spot": defective}
    for folder, images in parts.items():
        (tmp_path / "stripes" / folder).mkdir(parents=True)
        for number, image in enumerate(images):
            picture = Image.fromarray(to_pixels(image))
            picture.save(tmp_path / "stripes" / folder / f"{number}.png")
    mask = Image.new("L", (64, 64))
    mask.paste(255, (12, 40, 22, 50))
    (tmp_path / "stripes/ground_truth/spot").mkdir(parents=True)
    mask.save(tmp_path / "stripes/ground_truth/spot/0.png")
    flags = ["--data-root", tmp_path, "--category", "stripes", "--model", name, "--size", 96]
    result = run_script("train.py", *flags, "--set", "data.limit=6", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "6 good images, 0 held out" in result.stdout
    result = run_script("eval.py", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "IMAGE AUROC  1.0000" in result.stdout
    assert float(result.stdout.split("pixel AUROC")[1].split()[0]) > 0.95
    result = run_script("infer.py", "--output", "out", tmp_path / "stripes/test", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "DEFECT" in result.stdout
    panels = [Image.open(panel).size[0] for panel in (tmp_path / "out").rglob("*.png")]
    assert len(panels) == 4


def test_interrupted_sweep_says_how_to_go_on(dataset, tmp_path):
    config = load_config(overrides={"model": "patchcore", "data.size": 64})
    run = tmp_path / "checkpoints/tile-patchcore"
    run.mkdir(parents=True)
    state = build_model(config).state_dict()
    save_checkpoint(run, Checkpoint(config, GoodImages(), state, None, Progress(step=1)))
    result = run_script("eval.py", "--data-root", dataset, cwd=tmp_path)
    assert_one_line(result, "not finished", "--resume")
    assert "--epochs" not in result.stderr
