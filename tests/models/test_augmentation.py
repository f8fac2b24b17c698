import torch
from drawn_images import texture

from models.drawn_defects.augmentation import vary


def test_strength_decides_how_much_photographs_differ():
    images = texture(32)
    assert torch.equal(vary(images, 0), images)
    changes = []
    for strength in (0.3, 1.0):
        torch.manual_seed(0)
        varied = vary(images, strength)
        assert varied.shape == images.shape
        assert varied.min() >= 0
        assert varied.max() <= 1
        changes.append((varied - images).abs().flatten(1).mean(dim=1))
    assert changes[1].median() > 1.5 * changes[0].median() > 0
    assert changes[1].max() < 0.3  # harmless: the same part is to be seen


def test_equal_seeds_vary_alike_and_images_differ_from_one_another():
    images = texture(1).repeat(4, 1, 1, 1)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(vary(images, 1.0))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(results[0][0], results[0][1])


def test_about_half_of_the_photographs_are_left_as_they_are():
    images = texture(1)
    torch.manual_seed(0)
    kept = sum(torch.equal(vary(images, 1.0), images) for _ in range(40))
    assert 10 < kept < 30


def test_grey_images_stay_grey():
    torch.manual_seed(0)
    grey = texture(16).mean(dim=1, keepdim=True).repeat(1, 3, 1, 1)
    varied = vary(grey, 1.0)
    assert torch.allclose(varied[:, :1].expand_as(varied), varied, atol=1e-6)
