import math
import sys

import numpy as np
import pytest
import torch
from conftest import run_script
from fitted import detector, fit, fitted, in_folds, saved
from PIL import Image
from torch.nn import functional as F

import train
from data.tensors import to_pixels, turned
from inspection.torch_inspector import load_detector
from models import memory_bank, padim, patchcore
from models.backbones import Backbone, concatenated
from models.memory_bank import patch_rows
from training import distributed
from utils.device import place
from utils.errors import UserError

CPU = torch.device("cpu")
CHANNELS = 24 + 40  # of levels 1 and 2
PLAIN = {"patchcore.coreset": 1.0, "score.smooth": 0}


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
def test_a_single_good_image_is_enough(name, good, defective):
    model = fitted(name, good[:1], pieces=(1,), **{"patch_memory.rotations": 2})
    assert model(defective).score.item() > model(good[:1]).score.item()


def test_patchcore_chooses_a_share_of_bounded_candidates(good, monkeypatch):
    monkeypatch.setattr(patchcore, "CANDIDATES", 500)
    model = detector("patchcore", **{"patchcore.coreset": 0.1})
    fit(model, in_folds(good))
    for bank in model.banks:
        assert (len(bank.bank), len(bank.spacing)) == (50, 50)


def test_patchcore_with_a_full_coreset_finds_no_distance_in_good_images(good):
    model = fitted("patchcore", good, **PLAIN)
    fine, coarse = 12 * 16 * 16, 12 * 8 * 8
    assert [len(bank.bank) for bank in model.banks] == [fine, fine, coarse, coarse]
    assert model.distances(good)[0].max() < 1e-5


def test_patches_are_averages_of_their_neighbours(good):
    model = detector("patchcore")
    features, _ = model.backbone(good[:1])
    patches, _, coarse, _ = model.patches(good[:1])
    assert coarse.shape == (1, 40, 8, 8)
    assert torch.allclose(patches[0, :, 5, 6], features[0, :, 4:7, 5:8].mean((1, 2)), atol=1e-6)
    assert torch.allclose(patches[0, :, 0, 0], features[0, :, :2, :2].sum((1, 2)) / 9, atol=1e-6)
    assert torch.equal(patch_rows(patches)[5 * 16 + 6], patches[0, :, 5, 6])


def test_patchcore_score_is_the_papers(good, defective):
    model = fitted("patchcore", good[1:], pieces=(11,), **PLAIN | {"patchcore.paper": True})
    patches = patch_rows(model.patches(defective)[0]).double()
    bank = model.banks[0].bank.double()
    distances = torch.cdist(patches, bank)
    highest = distances.min(dim=1).values.argmax()
    nearest = distances[highest].argmin()
    around = torch.cdist(bank[nearest][None], bank)[0].argsort()[: patchcore.REWEIGHT_NEIGHBOURS]
    exponentials = distances[highest, around].exp()
    weight = 1 - distances[highest, nearest].exp() / exponentials.sum()
    expected = weight * distances[highest, nearest]
    score = model(torch.cat([good[:1], defective])).score[1]
    assert score.item() == pytest.approx(expected.item(), rel=1e-4)


def test_patchcore_map_is_the_mean_distance_to_its_banks(good, defective):
    model = fitted("patchcore", good, **PLAIN)
    found = zip(model.banks, model.patches(defective), strict=True)
    maps = [bank.distances(features)[0] for bank, features in found]
    assert [bank.whiten for bank in model.banks] == [False, True] * 2
    mean = concatenated(maps).mean(dim=1, keepdim=True)
    expected = F.interpolate(model.normalisation(mean), (64, 64), mode="bilinear")
    assert torch.allclose(model(defective).anomaly_map, expected, rtol=1e-4)
    assert (model.normalisation.std != 1).all()


@pytest.mark.parametrize("settings", [{"data.resize": "pad"}, {"data.region": "mask.png"}])
def test_the_papers_patchcore_is_refused_where_it_scores_what_is_not_valid(settings):
    with pytest.raises(UserError, match="patchcore.paper"):
        detector("patchcore", **{"patchcore.paper": True} | settings)


def test_spacing_is_that_of_good_patches_around_an_entry(good, monkeypatch):
    monkeypatch.setattr(memory_bank, "NEIGHBOURS", 5)
    model = fitted("patchcore", good, **PLAIN)
    bank = model.banks[0]
    patches = patch_rows(model.patches(good)[0])
    nearest = torch.cdist(bank.bank.double(), patches.double()).topk(5, largest=False)
    spacing = nearest.values.mean(dim=1)
    expected = spacing.clamp_min(spacing.median())
    assert torch.allclose(bank.spacing.double(), expected, rtol=1e-4)


@pytest.mark.parametrize("pending", [1, 4, 100])
def test_padim_in_one_pass_is_numpys_covariance(pending, good, monkeypatch):
    monkeypatch.setattr(padim, "BATCH", pending)
    share = 0.2
    monkeypatch.setattr(padim, "SHRINKAGE", share)
    overrides = {"padim.channels": 7, "score.smooth": 0, "data.size": 64}
    model = fitted("padim", good, **overrides)
    features = model.by_position(model.joined_features(good)).double().numpy()  # [12, 256, 7]
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
            largest = max(largest, len(model._pending))
    assert int(model.count) + len(model._pending) == 120
    assert largest < padim.BATCH


def test_padim_keeps_no_more_channels_than_there_are(good):
    assert len(fitted("padim", good, **{"padim.channels": 999}).chosen) == CHANNELS


def test_padim_says_what_it_needs_before_it_fits(good, monkeypatch, capsys):
    model = detector("padim")
    monkeypatch.setattr(padim, "free_memory", lambda device: 2**20)
    with pytest.raises(UserError, match=r"padim.channels=\d+") as caught:
        model.collect(good, 0)
    monkeypatch.undo()
    fewer = int(str(caught.value).rpartition("=")[2])
    assert 0 < 4 * 256 * fewer * (fewer + padim.BATCH + 1) <= 1.5 * 2**20
    model.collect(good, 0)
    assert "GiB" in capsys.readouterr().out


def test_rotations_are_quarter_turns_of_the_image(good):
    for turns in range(4):
        copies = turned(good, turns * math.pi / 2)
        assert torch.allclose(copies, torch.rot90(good, -turns, (2, 3)), atol=1e-4)
    model = fitted("patch_memory", good, **{"patch_memory.rotations": 4})
    assert len(model.bank.bank) == 4 * 12 * 16 * 16


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
