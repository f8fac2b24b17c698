import pytest
import torch

from models import neighbours
from models.neighbours import nearest, nearest_few


@pytest.mark.parametrize("entries", [1, 7, 512, 1300])
def test_nearest_agrees_with_brute_force(entries):
    torch.manual_seed(0)
    queries, bank = torch.randn(300, 9), torch.randn(entries, 9)
    expected = torch.cdist(queries.double(), bank.double()).min(dim=1)
    for memory_mib in (0.001, 1):
        distances, places = nearest(queries, bank, memory_mib)
        assert torch.equal(places, expected.indices)
        assert torch.allclose(distances.double(), expected.values, atol=1e-5)


def test_nearest_few_agrees_with_brute_force():
    torch.manual_seed(0)
    queries, bank = torch.randn(300, 9), torch.randn(700, 9)
    expected = torch.cdist(queries.double(), bank.double()).topk(5, largest=False)
    distances, places = nearest_few(queries, bank, 5, memory_mib=0.1)
    assert torch.equal(places, expected.indices)
    assert torch.allclose(distances.double(), expected.values, atol=1e-5)


def test_what_is_in_the_bank_is_at_distance_zero():
    torch.manual_seed(0)
    bank = 3 + torch.randn(600, 9)
    assert nearest(bank, bank, 1)[0].max() == 0


def test_blocks_keep_to_the_memory(monkeypatch):
    blocks = []
    addmm = torch.addmm

    def recorded(*args, **kwargs):
        block = addmm(*args, **kwargs)
        blocks.append(block.numel() * block.element_size() / 2**20)
        return block

    monkeypatch.setattr(neighbours.torch, "addmm", recorded)
    queries, bank = torch.randn(900, 4), torch.randn(2000, 4)
    nearest(queries, bank, memory_mib=0.25)
    nearest_few(queries, bank, 3, memory_mib=0.25)
    assert 0.2 < max(blocks) <= 0.25
