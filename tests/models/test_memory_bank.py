import pytest
import torch
from fitted import TensorFold

from models import memory_bank
from models.memory_bank import (
    RIDGE,
    MemoryBank,
    locally_aware_patches,
    nearest,
    nearest_by_fold,
    nearest_few,
    patch_rows,
)


def filled(count=5, whiten=False, spacing=True):
    """A bank of some entries from random features [4, 6, 8, 8]."""
    bank = MemoryBank(6, whiten, candidates=200)
    torch.manual_seed(0)
    for features in torch.rand(4, 6, 8, 8).split(1):
        bank.collect(features, fold=0)
    bank.fit(count / 200, spacing=spacing)
    return bank


def test_a_share_of_the_candidates_stays():
    bank = MemoryBank(6, candidates=100)
    for _ in range(5):
        bank.collect(torch.rand(1, 6, 8, 8), fold=0)
        assert len(bank.sample.rows) == len(bank.sample.keys) <= 100
    bank.fit(0.3, spacing=False)
    assert (len(bank.bank), len(bank.folds), len(bank.spacing)) == (30, 30, 0)
    assert len(bank.sample.rows) == 0


@pytest.mark.parametrize("spacing", [False, True])
def test_distances_are_those_to_the_nearest_entry(spacing):
    bank, features = filled(spacing=spacing), torch.rand(2, 6, 3, 5)
    distances, entries = bank.distances(features)
    every = torch.cdist(patch_rows(features), bank.bank)
    assert torch.equal(entries, every.argmin(dim=1))
    expected = every.amin(dim=1)
    if spacing:
        expected = expected / bank.spacing[entries]
    assert torch.allclose(distances[:, 0].flatten(), expected, rtol=1e-3)


def test_it_loads_at_any_length():
    stored = filled(count=17)
    for other in (MemoryBank(6), filled(count=3, spacing=False), filled(count=40)):
        other.load_state_dict(stored.state_dict())
        for key, value in stored.state_dict().items():
            assert torch.equal(value, other.state_dict()[key])


def test_whitened_distances_are_mahalanobis():
    torch.manual_seed(0)
    mixing = torch.diag(torch.tensor([10.0, 1.0, 1.0, 1.0, 1.0, 1.0])) + torch.rand(6, 6)
    features = (torch.randn(4, 8, 8, 6) @ mixing).permute(0, 3, 1, 2)
    bank = MemoryBank(6, whiten=True)
    bank.collect(features, fold=0)
    bank.fit(1, spacing=False)
    patches = patch_rows(features).double()
    assert torch.cov(bank.bank.T).diagonal().max() < 1.01
    assert bank.distances(features)[0].max() < 1e-2
    other = torch.randn(1, 6, 1, 1, dtype=torch.float64) * 20
    differences = patches - patch_rows(other)
    covariance = torch.cov(patches.T)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(6)
    inverse = torch.linalg.inv(covariance + ridge)
    expected = ((differences @ inverse) * differences).sum(dim=1).min().sqrt()
    found = bank.distances(other.float())[0]
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


def test_maps_of_other_resolutions_are_joined_at_the_finest():
    fine, coarse = torch.rand(2, 3, 8, 6), torch.rand(2, 5, 4, 3)
    joined = locally_aware_patches([fine, coarse])
    assert joined.shape == (2, 8, 8, 6)
    assert torch.allclose(joined[0, :3, 4, 2], fine[0, :, 3:6, 1:4].mean(dim=(1, 2)), atol=1e-6)
    assert torch.equal(patch_rows(joined)[6 * 4 + 2], joined[0, :, 4, 2])


@pytest.mark.parametrize("whiten", [False, True])
def test_without_a_fold_it_is_the_bank_of_the_others(whiten):
    torch.manual_seed(0)
    folds = [torch.randn(2, 6, 8, 8) * torch.rand(6, 1, 1) for _ in range(4)]

    def bank_of(chosen):
        bank = MemoryBank(6, whiten)
        for number in chosen:
            bank.collect(folds[number], fold=number)
        bank.fit(1, spacing=False)
        return bank

    whole, others = bank_of(range(4)), bank_of([0, 1, 3])
    assert whole.distances(folds[2])[0].max() < 1e-2
    with whole.without(TensorFold(2, [])):
        distances, entries = whole.distances(folds[2])
    assert torch.allclose(distances, others.distances(folds[2])[0], rtol=1e-3)
    assert not (whole.folds[entries] == 2).any()
    assert whole.distances(folds[2])[0].max() < 1e-2


@pytest.mark.parametrize("entries", [1, 7, 512, 1300])
def test_nearest_agrees_with_brute_force(entries):
    torch.manual_seed(0)
    queries, bank = torch.randn(300, 9), torch.randn(entries, 9)
    expected = torch.cdist(queries.double(), bank.double()).min(dim=1)
    for block_mib in (0.001, 1):
        distances, indices = nearest(queries, bank, block_mib)
        assert torch.equal(indices, expected.indices)
        assert torch.allclose(distances.double(), expected.values, atol=1e-5)


def test_nearest_few_agrees_with_brute_force():
    torch.manual_seed(0)
    queries, bank = torch.randn(300, 9), torch.randn(700, 9)
    expected = torch.cdist(queries.double(), bank.double()).topk(5, largest=False)
    distances, indices = nearest_few(queries, bank, 5, block_mib=0.1)
    assert torch.equal(indices, expected.indices)
    assert torch.allclose(distances.double(), expected.values, atol=1e-5)


def test_an_entry_of_the_bank_is_at_distance_zero():
    torch.manual_seed(0)
    bank = 3 + torch.randn(600, 9)
    assert nearest(bank, bank, 1)[0].max() == 0


def test_blocks_are_no_larger_than_asked(monkeypatch):
    blocks = []
    addmm = torch.addmm

    def recorded(*args, **kwargs):
        block = addmm(*args, **kwargs)
        blocks.append(block.numel() * block.element_size() / 2**20)
        return block

    monkeypatch.setattr(memory_bank.torch, "addmm", recorded)
    queries, bank = torch.randn(900, 4), torch.randn(2000, 4)
    nearest(queries, bank, block_mib=0.25)
    nearest_few(queries, bank, 3, block_mib=0.25)
    assert 0.2 < max(blocks) <= 0.25


def test_a_share_of_the_folds_has_to_hold_an_entry_as_near():
    # A defect in two folds, at 9; all four folds have good patches around 0.
    bank = torch.tensor([[0.0], [9.0], [1.0], [9.5], [2.0], [3.0]])
    folds = torch.tensor([0, 0, 1, 1, 2, 3])
    queries = torch.tensor([[0.0], [9.0]])
    for share, expected in [(0.1, [0.0, 0.0]), (0.5, [1.0, 0.5]), (0.75, [2.0, 6.0])]:
        distances, indices = nearest_by_fold(queries, bank, folds, share)
        assert distances.tolist() == expected
        assert (queries - bank[indices]).abs()[:, 0].tolist() == expected
