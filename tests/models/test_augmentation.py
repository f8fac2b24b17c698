import torch
from drawn_images import texture

from models.drawn_defects.augmentation import augment


def test_photographs_differ_harmlessly():
    images = texture(32)
    before = images.clone()
    torch.manual_seed(0)
    augmented = augment(images)
    assert torch.equal(images, before)
    assert augmented.shape == images.shape
    assert augmented.min() >= 0
    assert augmented.max() <= 1
    changes = (augmented - images).abs().flatten(1).mean(dim=1)
    assert (changes == 0).sum() > 8  # about half are left as they are
    assert 0.005 < changes[changes > 0].median() < changes.max() < 0.3  # the part is still there


def test_equal_seeds_augment_alike_and_images_differ_from_one_another():
    images = texture(1).repeat(4, 1, 1, 1)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        results.append(augment(images))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(results[0][0], results[0][1])


def test_about_half_of_the_photographs_are_left_as_they_are():
    images = texture(1)
    torch.manual_seed(0)
    kept = sum(torch.equal(augment(images), images) for _ in range(40))
    assert 10 < kept < 30


def test_grey_images_stay_grey():
    torch.manual_seed(0)
    grey = texture(16).mean(dim=1, keepdim=True).repeat(1, 3, 1, 1)
    augmented = augment(grey)
    assert torch.allclose(augmented[:, :1].expand_as(augmented), augmented, atol=1e-6)
