import torch
from drawn_images import object_in, object_on_ground, texture

from models.drawn_defects.foreground import background, random_positions, structure

SIZE = (288, 240)


def positions_in(images, count):
    """Random points [B, count, 2] of images."""
    return random_positions(structure(images), tuple(images.shape[-2:]), count)


def on_object(positions):
    """Share of points [n, 2] that lie on the object of an image of `SIZE`."""
    inside = [
        (at >= part.start) & (at < part.stop)
        for at, part in zip(positions.unbind(dim=1), object_in(SIZE), strict=True)
    ]
    return (inside[0] & inside[1]).float().mean().item()


def test_positions_prefer_the_object_but_not_exclusively():
    torch.manual_seed(0)
    positions = positions_in(object_on_ground(1, SIZE), 2000)[0]
    assert (positions >= 0).all()
    assert (positions < torch.tensor(SIZE)).all()
    assert 2 / 9 < on_object(positions) < 0.8
    # Of a pattern all over the image no place is better than another.
    assert 0.6 / 9 < on_object(positions_in(texture(1, SIZE), 2000)[0]) < 1.6 / 9


def test_positions_differ_from_image_to_image():
    torch.manual_seed(0)
    positions = positions_in(texture(4), 3)
    assert positions.shape == (4, 3, 2)
    assert len(positions.flatten(0, 1).unique(dim=0)) == 12


def test_structure_is_where_something_is_to_be_seen():
    found = structure(object_on_ground(2, SIZE))
    assert found.min() >= 0
    assert found.max() <= 1
    corner, middle = found[:, 0, -1], found[:, found.shape[1] // 2, found.shape[2] // 2]
    assert (middle > 0.6).all()
    assert (corner < 0.15).all()
    assert structure(torch.full((1, 3, 64, 64), 0.5)).max() < 0.5  # nothing to be seen at all
    assert structure(texture()).mean() > 0.5


def test_the_background_grows_over_the_object():
    images = object_on_ground(2, SIZE)
    empty = background(images, structure(images))
    assert empty.shape == images.shape
    light = torch.linspace(0.75, 0.9, SIZE[1]).expand_as(images)
    rows, columns = object_in(SIZE)
    was, left = ((found - light)[..., rows, columns].abs().mean() for found in (images, empty))
    assert left < 0.25 * was
    assert (empty - light)[..., :24, -24:].abs().mean() < 0.03  # the rest of the ground stays


def test_images_of_few_pixels_have_positions_and_a_ground():
    images = torch.rand(2, 3, 32, 33)
    assert positions_in(images, 1).shape == (2, 1, 2)
    assert background(images, structure(images)).isfinite().all()
