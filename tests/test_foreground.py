import torch
from drawn_images import OBJECT, object_on_ground, texture

from data.foreground import ground, random_places, structure


def on_object(places):
    """Share of points [n, 2] that lie on the object."""
    y, x = places.unbind(dim=1)
    rows, columns = OBJECT
    return ((y >= rows.start) & (y < rows.stop) & (x >= columns.start) & (x < columns.stop)).float()


def test_places_prefer_the_object_but_not_exclusively():
    torch.manual_seed(0)
    places = random_places(object_on_ground(1), 2000)[0]
    assert (places >= 0).all()
    assert (places < torch.tensor([96, 64])).all()
    rows, columns = OBJECT
    area = (rows.stop - rows.start) * (columns.stop - columns.start) / (96 * 64)
    share = on_object(places).mean()
    assert 2.5 * area < share < 0.8
    # The same object, and a pattern all over the image: no place is better than another.
    even = on_object(random_places(texture(1), 2000)[0]).mean()
    assert 0.6 * area < even < 1.6 * area


def test_places_differ_from_image_to_image():
    torch.manual_seed(0)
    places = random_places(texture(4), 3)
    assert places.shape == (4, 3, 2)
    assert len(places.flatten(0, 1).unique(dim=0)) == 12


def test_structure_is_where_something_is_to_be_seen():
    found = structure(object_on_ground())
    assert found.min() >= 0
    assert found.max() <= 1
    corner, middle = found[:, 0, -1], found[:, found.shape[1] // 2, found.shape[2] // 2]
    assert (middle > 0.6).all()
    assert (corner < 0.15).all()
    assert structure(torch.full((1, 3, 64, 64), 0.5)).max() < 0.5  # nothing to be seen at all
    assert structure(texture()).mean() > 0.5


def test_ground_grows_over_the_object():
    images = object_on_ground()
    empty = ground(images)
    assert empty.shape == images.shape
    light = torch.linspace(0.75, 0.9, 64).expand_as(images)
    rows, columns = OBJECT
    was = (images - light)[..., rows, columns].abs().mean()
    left = (empty - light)[..., rows, columns].abs().mean()
    assert left < 0.2 * was
    far = (empty - light)[..., :10, -10:].abs().mean()
    assert far < 0.02  # the rest of the ground stays


def test_images_of_few_pixels_have_places_and_a_ground():
    images = torch.rand(2, 3, 32, 33)
    assert random_places(images).shape == (2, 1, 2)
    assert ground(images).isfinite().all()
