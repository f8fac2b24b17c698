import pytest
import torch

from models import coreset
from models.coreset import greedy_coreset, random_projection


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
