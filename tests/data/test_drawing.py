import math

import pytest
import torch

from data.drawing import (
    blurred,
    contour_distance,
    displaced,
    frame,
    grain,
    perlin_noise,
    random_perlin,
    random_points,
    resampled,
    seeded,
    stroke,
)


def reference_perlin(gradients, height, width, cells_y, cells_x):
    """Perlin's noise pixel by pixel, from unit gradients [K, L, 2] (right, down) at the corners."""
    noise = torch.zeros(height, width)
    for row in range(height):
        for column in range(width):
            y, x = (row + 0.5) / height * cells_y, (column + 0.5) / width * cells_x
            top, left = int(y), int(x)
            fades = [6 * t**5 - 15 * t**4 + 10 * t**3 for t in (y - top, x - left)]
            ways = []  # of the four corners: their gradient times the way from them
            for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
                right, down = gradients[top + i, left + j]
                ways.append(right * (x - left - j) + down * (y - top - i))
            upper, lower = (ways[k] + fades[1] * (ways[k + 1] - ways[k]) for k in (0, 2))
            noise[row, column] = math.sqrt(2) * (upper + fades[0] * (lower - upper))
    return noise


def test_perlin_noise_is_perlins():
    cells_y, cells_x = torch.tensor([4, 1, 3]), torch.tensor([2, 5, 1])
    torch.manual_seed(0)
    noise = perlin_noise(torch.zeros(3, 1, 20, 27), cells_y, cells_x)
    torch.manual_seed(0)
    angles = 2 * math.pi * torch.rand(3, 5, 6)  # one for each corner of the finest lattice
    gradients = torch.stack([angles.cos(), angles.sin()], dim=3)
    for image in range(3):
        expected = reference_perlin(gradients[image], 20, 27, int(cells_y[image]), cells_x[image])
        assert torch.allclose(noise[image, 0], expected, atol=1e-5)


@pytest.mark.parametrize("finest", [1, 16, 64])
def test_random_noise_is_neither_flat_nor_finer_than_asked_for(finest):
    torch.manual_seed(0)
    noise = random_perlin(torch.zeros(16, 3, 96, 64), finest)
    assert noise.shape == (16, 1, 96, 64)
    assert noise.abs().max() <= 1.5
    assert (noise.flatten(1).std(dim=1) > 0.05).all()
    steepest = noise.diff(dim=2).abs().amax()
    assert steepest < 5 * finest / 96


def coordinates(height, width):
    """An image [1, 2, height, width] whose values are where its pixels are, y and x in pixels."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([y, x])[None] + 0.5


@pytest.mark.parametrize("turn", [0.0, 0.7, -2.0])
@pytest.mark.parametrize("zoom", [1.0, 2.0, -2.0])
def test_a_point_comes_to_lie_where_it_should(turn, zoom):
    at, source = torch.tensor([[15.5, 50.5]]), torch.tensor([[40.0, 20.0]])
    moved = resampled(coordinates(60, 80), at, source, torch.tensor([turn]), torch.tensor([zoom]))[
        0
    ]
    assert moved[:, 15, 50].tolist() == pytest.approx([40, 20], abs=1e-3)
    right, below = (moved[:, y, x] - source[0] for y, x in ((15, 60), (25, 50)))
    for way in (right, below):  # enlarged, so that ten pixels are fewer of the image
        assert way.norm().item() == pytest.approx(10 / abs(zoom), rel=1e-3)
    assert (right @ below).abs() < 1e-2
    assert math.cos(turn) == pytest.approx(below[0].item() / 10 * abs(zoom), abs=1e-3)
    area = right[1] * below[0] - right[0] * below[1]
    assert area.sign().item() == math.copysign(1, zoom)  # mirrored or not


def test_turns_and_mirrors_about_the_middle_are_exact():
    torch.manual_seed(0)
    image = torch.rand(2, 3, 40, 40)
    assert torch.allclose(resampled(image), image, atol=1e-5)
    assert torch.allclose(resampled(image, zoom=-torch.ones(2)), image.flip(3), atol=1e-4)
    quarter = resampled(image, turn=torch.full((2,), math.pi / 2))
    turns = [torch.rot90(image, k, (2, 3)) for k in (1, -1)]
    assert any(torch.allclose(quarter, turn, atol=1e-4) for turn in turns)


def test_displaced_pixels_come_from_where_they_should():
    torch.manual_seed(0)
    image = torch.rand(2, 3, 30, 40)
    down, right = torch.zeros(2, 1, 30, 40), torch.zeros(2, 1, 30, 40)
    down[0], right[0] = 3, -2
    moved = displaced(image, down, right)
    assert torch.allclose(moved[0, :, :-3, 2:], image[0, :, 3:, :-2], atol=1e-4)
    assert torch.allclose(moved[1], image[1], atol=1e-4)


def test_grain_has_unit_spread_and_is_as_coarse_as_asked_for():
    torch.manual_seed(0)
    noise = grain(torch.zeros(2, 3, 96, 128), torch.tensor([1.0, 4.0]))
    assert noise.shape == (2, 1, 96, 128)
    spread, step = noise.flatten(1).std(dim=1), noise.diff(dim=3).flatten(1).std(dim=1)
    assert ((spread > 0.5) & (spread < 1.3)).all()
    assert step[1] / spread[1] < 0.5 * step[0] / spread[0]


def test_a_blur_keeps_the_mean_and_spreads_a_point_by_its_sigma():
    image = torch.zeros(1, 1, 61, 81)
    image[..., 30, 40] = 1
    y, x = (torch.arange(side) - side // 2 for side in (61, 81))
    soft = blurred(image, 2.0, 5.0)[0, 0]
    assert soft.sum().item() == pytest.approx(1, rel=1e-3)
    assert (soft.sum(dim=1) * y**2).sum().item() == pytest.approx(2.0**2, rel=0.01)
    assert (soft.sum(dim=0) * x**2).sum().item() == pytest.approx(5.0**2, rel=0.01)
    assert torch.allclose(blurred(torch.ones(1, 3, 20, 30), 4), torch.ones(1, 3, 20, 30))


def test_a_stroke_follows_its_arc_and_fades_at_its_ends():
    like, centre, turn = torch.zeros(1, 3, 80, 120), torch.tensor([[40.0, 60.0]]), torch.zeros(1)
    along, across = frame(like, centre, turn, bend=torch.tensor([0.01]))
    line = stroke(along, across, torch.tensor([80.0]), torch.tensor([2.0]))[0, 0]
    assert line[40, 60] == 1
    assert line[44, 80] == 1  # 40 + 0.01 * 20^2
    assert line[40, 80] == 0
    assert 0 < line[:, 96].max() < line[:, 90].max() < 1
    assert not line[:, 101:].any()


def test_a_contour_runs_through_its_point():
    torch.manual_seed(0)
    noise, at = (
        random_perlin(torch.zeros(4, 3, 64, 96), 4),
        random_points(torch.zeros(4, 3, 64, 96)),
    )
    distance = contour_distance(noise, at)
    y, x = at.long().unbind(dim=1)
    assert not distance[range(4), 0, y, x].any()
    assert (distance.flatten(1) < 1).float().mean(dim=1).max() < 0.5


def test_seeds_are_mixed_and_the_generator_goes_on_as_if_nothing_was_drawn():
    torch.manual_seed(0)
    expected = torch.rand(2)
    torch.manual_seed(0)
    drawn = []
    for numbers in ((0, 1), (1, 0), (0, 1)):
        with seeded(*numbers):
            drawn.append(torch.rand(3))
    assert torch.equal(torch.rand(2), expected)
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])
