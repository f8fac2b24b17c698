import pytest
import torch

from models.memory_bank import RIDGE, MemoryBank, patch_features, rows


def filled(count=5, density=3, whiten=False):
    """A bank of some entries from random features [4, 6, 8, 8]."""
    bank = MemoryBank(6, whiten)
    torch.manual_seed(0)
    for features in torch.rand(4, 6, 8, 8).split(1):
        bank.collect(features, capacity=200, fold=0)
    bank.thin_out(count / len(bank.bank), density=density, capacity=200)
    return bank


def test_patches_are_bounded_and_then_thinned_out():
    bank = MemoryBank(6)
    for _ in range(5):
        bank.collect(torch.rand(1, 6, 8, 8), capacity=100, fold=0)
        assert len(bank.bank) == len(bank.keys) <= 100
    bank.thin_out(0.3, density=0, capacity=100)
    assert (len(bank.bank), len(bank.keys), len(bank.spacing)) == (30, 30, 0)


def test_further_patches_make_a_coreset_shorter():
    torch.manual_seed(0)
    bank, later = MemoryBank(6), torch.rand(6, 6, 8, 8)
    bank.collect(torch.rand(2, 6, 8, 8), capacity=128, fold=0)
    bank.thin_out(0.25, density=7, capacity=128)
    former = bank.bank
    bank.collect(later, capacity=128, fold=0)  # four times as many patches
    bank.thin_out(0.25, density=7, capacity=128)
    assert torch.equal(bank.bank[:8], former[:8])
    assert len(bank.bank) == len(bank.keys) == len(bank.spacing)
    assert 28 <= len(bank.bank) <= 36
    assert torch.isin(bank.bank[8:, 0], later[:, 0]).all()
    assert (bank.spacing > 0).all()


@pytest.mark.parametrize("density", [0, 3])
def test_distances_are_those_to_the_nearest_entry(density):
    bank, features = filled(density=density), torch.rand(2, 6, 3, 5)
    distances, places = bank.distances(features)
    apart = torch.cdist(rows(features), bank.bank)
    assert torch.equal(places, apart.argmin(dim=1))
    expected = apart.amin(dim=1)
    if density:
        expected = expected / bank.spacing[places]
    assert torch.allclose(distances[:, 0].flatten(), expected, rtol=1e-3)


def test_it_loads_at_any_length():
    stored = filled(count=17)
    for other in (MemoryBank(6), filled(count=3, density=0), filled(count=40)):
        other.load_state_dict(stored.state_dict())
        for key, value in stored.state_dict().items():
            assert torch.equal(value, other.state_dict()[key])
    collecting = MemoryBank(6)
    collecting.collect(torch.rand(1, 6, 8, 8), capacity=100, fold=0)
    other = filled()
    other.load_state_dict(collecting.state_dict())
    assert (len(other.bank), len(other.keys), len(other.spacing)) == (64, 64, 0)


def test_whitened_distances_are_mahalanobis():
    torch.manual_seed(0)
    mixing = torch.diag(torch.tensor([10.0, 1.0, 1.0, 1.0, 1.0, 1.0])) + torch.rand(6, 6)
    features = (torch.randn(4, 8, 8, 6) @ mixing).permute(0, 3, 1, 2)
    bank = MemoryBank(6, whiten=True)
    bank.collect(features, capacity=1000, fold=0)
    bank.thin_out(1, density=0, capacity=1000)
    patches = rows(features).double()
    assert torch.cov(bank.bank.T).diagonal().max() < 1.01
    assert bank.distances(features)[0].max() < 1e-2
    other = torch.randn(1, 6, 1, 1, dtype=torch.float64) * 20
    apart = patches - rows(other)
    covariance = torch.cov(patches.T)
    ridge = RIDGE * covariance.diagonal().mean() * torch.eye(6)
    inverse = torch.linalg.inv(covariance + ridge)
    expected = ((apart @ inverse) * apart).sum(dim=1).min().sqrt()
    found = bank.distances(other.float())[0]
    assert found.item() == pytest.approx(expected.item(), rel=1e-3)


def test_maps_of_other_resolutions_are_joined_at_the_finest():
    fine, coarse = torch.rand(2, 3, 8, 6), torch.rand(2, 5, 4, 3)
    joined = patch_features([fine, coarse])
    assert joined.shape == (2, 8, 8, 6)
    assert torch.allclose(joined[0, :3, 4, 2], fine[0, :, 3:6, 1:4].mean(dim=(1, 2)), atol=1e-6)
    assert torch.equal(rows(joined)[6 * 4 + 2], joined[0, :, 4, 2])


@pytest.mark.parametrize("whiten", [False, True])
def test_without_a_fold_it_is_the_bank_of_the_others(whiten):
    torch.manual_seed(0)
    folds = [torch.randn(2, 6, 8, 8) * torch.rand(6, 1, 1) for _ in range(4)]

    def bank_of(chosen):
        bank = MemoryBank(6, whiten)
        for number in chosen:
            bank.collect(folds[number], capacity=10_000, fold=number)
        bank.thin_out(1, density=0, capacity=10_000)
        return bank

    whole, others = bank_of(range(4)), bank_of([0, 1, 3])
    assert whole.distances(folds[2])[0].max() < 1e-2
    whole.leave_out(2)
    distances, places = whole.distances(folds[2])
    assert torch.allclose(distances, others.distances(folds[2])[0], rtol=1e-3)
    assert not (whole.folds[places] == 2).any()
