import pytest
import torch

from models import coreset
from models.coreset import RandomSample, greedy_coreset, random_projection


def plain_greedy(points, count):
    """The textbook's k-centre: all distances after every choice."""
    chosen = [0]
    while len(chosen) < count:
        apart = torch.cdist(points, points[chosen]).min(dim=1).values
        chosen.append(int(apart.argmax()))
    return chosen


@pytest.mark.parametrize("block", [1, 16, 4096])
def test_coreset_is_that_of_the_plain_algorithm(block, monkeypatch):
    monkeypatch.setattr(coreset, "BLOCK", block)
    monkeypatch.setattr(coreset, "CHUNK", 5)
    torch.manual_seed(0)
    groups = torch.randn(10, 6, dtype=torch.float64) * 5
    points = groups.repeat(60, 1) + torch.randn(600, 6, dtype=torch.float64)
    assert greedy_coreset(points, 90, quiet=True).tolist() == plain_greedy(points, 90)


def test_equal_points_are_chosen_once_each():
    points = torch.ones(30, 4)
    points[7] = 2
    chosen = greedy_coreset(points, 30, quiet=True).tolist()
    assert sorted(chosen) == list(range(30))
    assert chosen[1] == 7


def test_projection_keeps_distances_roughly():
    torch.manual_seed(0)
    points = torch.randn(40, 500)
    projected = random_projection(points, 200)
    assert projected.shape == (40, 200)
    ratio = torch.pdist(projected) / torch.pdist(points)
    assert 0.7 < ratio.min() < ratio.max() < 1.3
    assert random_projection(points, 500) is points


def sample(stream, capacity):
    """Indices kept of a stream 0, 1, 2 ... that arrives in pieces of these lengths."""
    kept, first = RandomSample(capacity), 0
    for number, length in enumerate(stream):
        kept.add(torch.arange(first, first + length).float()[:, None], fold=number)
        first += length
        assert len(kept.rows) == len(kept.keys) == len(kept.folds) == min(first, capacity)
    ends = torch.tensor(stream).cumsum(0)
    indices = kept.rows[:, 0].long()
    assert torch.equal(torch.bucketize(indices, ends, right=True), kept.folds.long())
    return indices


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
