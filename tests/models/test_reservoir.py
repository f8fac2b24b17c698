import torch

from models.reservoir import keep_random


def sample(stream, capacity):
    """Indices kept of a stream 0, 1, 2 ... that arrives in pieces of these lengths."""
    kept, keys, first = [torch.zeros(0, 1), torch.zeros(0)], torch.zeros(0), 0
    for length in stream:
        arriving = torch.arange(first, first + length).float()
        kept, keys = keep_random(kept, keys, [arriving[:, None], -arriving], capacity)
        first += length
        assert len(kept[0]) == len(keys) == min(first, capacity)
    assert torch.equal(kept[0][:, 0], -kept[1])
    return kept[1].neg().long()


def test_never_more_than_the_capacity_and_none_twice():
    torch.manual_seed(0)
    kept = sample([3, 0, 40, 5, 100, 1], capacity=20)
    assert len(kept.unique()) == 20
    assert sorted(sample([3, 4], capacity=20).tolist()) == list(range(7))


def test_first_and_last_items_are_as_likely_as_any():
    torch.manual_seed(0)
    counts = torch.zeros(60)
    for _ in range(2000):
        counts[sample([25, 10, 25], capacity=15)] += 1
    # Each is kept 500 times on average, with a standard deviation of 19.
    assert counts.sum() == 2000 * 15
    assert 400 < counts.min() < counts.max() < 600
    thirds = counts.view(3, 20).sum(dim=1) / 10_000
    assert (thirds - 1).abs().max() < 0.03
