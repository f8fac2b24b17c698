"""Draw a hexagon bolt that lies anywhere on a plain ground, with four defects of small metal parts.

The bolt is a map of heights that is lit, turned and laid on the ground, on which it casts a soft
shadow; normals mirror a lamp, the room and the ground, as metal does. Defects are made in the map,
so that shine, outline and shadow follow. Each is a function of a whole bolt, which is left as it
is, and returns the defective one. Lengths are in sides of the image, angles from its x axis to y.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from data.drawing import (
    blob,
    blurred,
    coins,
    displaced,
    frame,
    resampled,
    signed,
    smoothstep,
    stroke,
    uniform,
    unit_noise,
)

AREA = (0.0005, 0.03)  # least and greatest share of the image that a mask covers
VISIBLE = 0.06  # least change, of a range of 1, that is part of the mask
CONTRAST = 0.1  # least mean change within a mask: nobody should have to search for the defect

# The bolt from the top of its head, u = 0, to its tip.
LENGTH = 0.56
HEAD = 0.054  # where the hexagon ends
APOTHEM = 0.064  # of the hexagon
FLANGE = (0.068, 0.085)  # where the washer face ends, its radius
SHANK = (0.135, 0.0395)  # where the plain shank ends, its radius
PITCH, DEPTH = 0.0235, 0.0088  # of the thread
TIP = (0.515, 0.022)  # where the bolt begins to taper, the radius it tapers to

MARGIN = 0.01  # around the bolt in its map
OVER = 2  # pixels of the map to one of the image, for antialiasing
SHADOW_HEIGHT = 0.12  # above the ground, of what casts the longest shadow


class Bolt(NamedTuple):
    """A bolt seen from above, in coordinates u along and v across its axis."""

    u: Tensor  # [1, W], of equal steps
    v: Tensor  # [H, 1], of the same steps, 0 on the axis
    height: Tensor  # [1, 1, H, W], of the surface above the axis, 0 where there is no bolt
    tint: Tensor  # [1, 1, H, W], about 1: share of the light that the surface reflects

    @property
    def step(self) -> float:
        """Distance between neighbours in the map."""
        return float(self.u[0, 1] - self.u[0, 0])


class Scene(NamedTuple):
    """A bolt's position and its light."""

    at: Tensor  # [1, 2], y and x of the centre of the map
    turn: float  # of the u axis
    azimuth: float  # of the lamp
    elevation: float  # of the lamp above the ground
    gloss: float  # 0 satin to 1 polished
    ground: float  # brightness of the ground, 0 to 1


class Layers(NamedTuple):
    """A bolt laid on the ground: [1, 1, S, S] each, in [0, 1]."""

    metal: Tensor  # brightness of the bolt times its share of the pixel
    share: Tensor  # share of the pixel that the bolt covers
    shadow: Tensor  # share of its light that the ground lacks

    def unshadowed(self, ground: float) -> Tensor:
        """Return the picture on a ground of this brightness that takes no shadow."""
        return self.metal + (1 - self.share) * ground


def _one(low: float, high: float) -> float:
    """Draw a number between `low` and `high`."""
    return float(uniform(low, high, 1))


def bolt(size: int) -> Bolt:
    """Draw a whole bolt; only the turn of its thread and its finish differ from bolt to bolt."""
    step = 1 / (OVER * size)
    u = torch.arange(-MARGIN, LENGTH + MARGIN, step)[None]
    v = torch.arange(-FLANGE[1] - MARGIN, FLANGE[1] + MARGIN, step)[:, None]

    def round_bar(radius: Tensor) -> Tensor:
        """Return the heights of a bar of this radius [1, W]: sqrt(r^2 - v^2)."""
        return (radius.square() - v.square()).clamp_min(0).sqrt()

    # The shaft: a radius along the axis, less the groove that winds about it.
    taper = ((u - TIP[0]) / (LENGTH - TIP[0])).clamp(0, 1) ** 1.3
    winding = torch.asin((v / SHANK[1]).clamp(-1, 1)) / (2 * math.pi)
    phase = (u / PITCH - winding + torch.rand(1)) % 1
    groove = (((2 * phase - 1).abs() - 0.1) / 0.75).clamp(0, 1)
    run_out = smoothstep(u, SHANK[0] - 0.01, SHANK[0] + 0.02) * smoothstep(u, LENGTH, TIP[0] - 0.01)
    radius = SHANK[1] - (SHANK[1] - TIP[1]) * taper - DEPTH * groove * run_out
    shaft = round_bar(radius * ((u > HEAD) & (u < LENGTH)))

    # The flange is a flat cone; the head lies on a side of its hexagon, its corners turned off.
    rim = FLANGE[1] - 0.006 * smoothstep(u, HEAD + 0.006, HEAD - 0.002)
    flange = round_bar(rim) * ((u > HEAD - 0.002) & (u < FLANGE[0]))
    hexagon = (2 * APOTHEM - math.sqrt(3) * v.abs()).clamp(max=APOTHEM)
    crown = round_bar(APOTHEM * (0.94 + 0.24 * (u / 0.022).clamp(0, 1)))
    head = torch.minimum(hexagon, crown) * ((u > 0) & (u < HEAD))
    height = torch.maximum(shaft, torch.maximum(head, flange))[None, None]

    satin = unit_noise(height, 50, 150) + unit_noise(height, 90, 280)
    tint = 1 + _one(0.01, 0.025) * satin + _one(0.015, 0.04) * unit_noise(height, 5, 14)
    # The lathe leaves marks around whatever it turned last; the thread is rolled.
    marks = blurred(torch.randn(1, 1, 1, u.numel()), 0, 0.0007 / step)
    return Bolt(u, v, height, tint + 0.03 * marks / marks.std() * (1 - run_out))


def place(size: int) -> Scene:
    """Lay a bolt anywhere, at any angle, wholly in the frame, under a lamp that hardly moves."""
    turn = _one(0, 2 * math.pi)
    cos, sin = abs(math.cos(turn)), abs(math.sin(turn))
    half = torch.tensor([sin * LENGTH / 2 + cos * FLANGE[1], cos * LENGTH / 2 + sin * FLANGE[1]])
    half = half + 0.015
    return Scene(
        at=(half + (1 - 2 * half) * torch.rand(1, 2)) * size,
        turn=turn,
        azimuth=math.radians(_one(-135, -105)),
        elevation=math.radians(_one(54, 66)),
        gloss=_one(0, 1),
        ground=_one(0.69, 0.73),
    )


def _shine(part: Bolt, scene: Scene) -> Tensor:
    """Light the metal: brightness [1, 1, H, W], from 0 to about 1."""
    smooth = blurred(part.height, 0.7)
    slope_v, slope_u = torch.gradient(smooth, spacing=part.step, dim=(2, 3))
    # The normal (x, y, up) in the image's axes.
    cos, sin = math.cos(scene.turn), math.sin(scene.turn)
    up = 1 / (1 + slope_u.square() + slope_v.square()).sqrt()
    x, y = (slope_v * sin - slope_u * cos) * up, (slope_v * -cos - slope_u * sin) * up
    flat, high = math.cos(scene.elevation), math.sin(scene.elevation)
    facing = flat * (x * math.cos(scene.azimuth) + y * math.sin(scene.azimuth)) + high * up
    # Cosines of the mirrored line of sight, 2 (n . z) n - z, to the lamp and to the vertical.
    to_lamp, to_zenith = 2 * up * facing - high, 2 * up * up - 1
    soft = 0.34 - 0.16 * scene.gloss
    lamp = 0.46 * smoothstep(to_lamp, 0.8 - soft, 0.8 + 0.5 * soft)
    room = 0.15 + 0.16 * smoothstep(to_zenith, -0.2, 0.9)
    ground = 0.58 * scene.ground * smoothstep(to_zenith, 0.15, -0.45)
    light = lamp + room + ground + 0.18 * facing.clamp_min(0)
    # Hollows get less of all that.
    hollow = blurred(part.height, 0.005 / part.step) - part.height
    return light * part.tint * (1 - 0.4 * smoothstep(hollow, 0, 0.006))


def _shadow(share: Tensor, scene: Scene) -> Tensor:
    """Cast the shadow of what covers the ground [1, 1, S, S]: share of the light that it takes."""
    size, away = share.shape[-1], scene.azimuth + math.pi
    longest = SHADOW_HEIGHT / math.tan(scene.elevation) * size
    # The outline moved away from the lamp, the further the higher its part of the bolt.
    moves = torch.linspace(0, longest, 12)[:, None] * torch.tensor([math.sin(away), math.cos(away)])
    cast = resampled(share.expand(12, 1, -1, -1), at=size / 2 + moves, beyond="zeros")
    cast = blurred(cast.amax(dim=0, keepdim=True), 0.008 * size)
    near = blurred(share, 0.016 * size)  # close to the bolt the room gives less light
    return 1 - (1 - 0.4 * cast) * (1 - 0.45 * near)


def compose(part: Bolt, scene: Scene, size: int) -> Layers:
    """Light a bolt, turn it and lay it in an image of size x size pixels."""
    solid = (part.height > 0).float()
    layers = torch.cat([_shine(part, scene) * solid, solid], dim=1)
    turn, full = torch.tensor([-scene.turn]), (OVER * size, OVER * size)
    layers = resampled(layers, OVER * scene.at, None, turn, size=full, beyond="zeros")
    metal, share = F.avg_pool2d(layers, OVER).split(1, dim=1)
    return Layers(metal, share, _shadow(share, scene))


def damaged_edge(part: Bolt) -> Bolt:
    """Flatten one to four threads on one side: their crests are pressed into the grooves."""
    at, half = _one(SHANK[0] + 0.035, TIP[0] - 0.03), PITCH * _one(0.5, 1.8)
    around = signed(uniform(0.5, 1.4, 1))  # radians from the top
    angle = torch.asin((part.v / SHANK[1]).clamp(-1, 1))
    uneven = unit_noise(part.height, 8, 24)
    away = torch.hypot((part.u - at) / half, (angle - around) / _one(0.6, 0.9))
    inside = smoothstep(1.25 - away + 0.12 * uneven, 0, 0.6)
    # There the bolt is a thinner cylinder, which cuts the crests and which their metal fills up to.
    dent = SHANK[1] - DEPTH * (_one(0.45, 0.75) + 0.07 * uneven)
    square = torch.lerp(part.height.square(), dent.square() - part.v.square(), inside)
    return part._replace(height=square.clamp_min(0).sqrt())


def missing_piece(part: Bolt) -> Bolt:
    """Break a piece off the outline; the break is ragged, steep and dull."""
    outline = (part.height[0, 0] > 0).diff(dim=0).nonzero()
    at = outline[torch.randint(len(outline), (1,))].float()
    width = min(part.height.shape[2:]) * part.step  # that `blob` measures radii by
    depth, _, _ = blob(part.height, at, 0.02 / width, 0.034 / width, 1.8, (0.1, 0.3), finest=32)
    face = 3.5 * part.step * (-depth).clamp_min(0)
    dull = 0.8 + 0.12 * unit_noise(part.height, 65, 200)
    tint = torch.where(face < part.height, part.tint * dull, part.tint)
    height = torch.minimum(part.height, face)
    pieces, _ = ndimage.label((height[0, 0] > 0).numpy())
    pieces = torch.from_numpy(pieces)
    largest = pieces[pieces > 0].bincount().argmax()  # splinters would float
    return part._replace(height=height * (pieces == largest), tint=tint)


def scratch(part: Bolt) -> Bolt:
    """Scratch the metal: a thin line, dark or bright, with a lip that is the other of the two."""
    step, length, half = part.step, uniform(0.09, 0.22, 1), uniform(0.0014, 0.0022, 1)
    u, v = _one(0.02, LENGTH - 0.08), _one(-0.6, 0.6) * SHANK[1]
    at = torch.tensor([[v - float(part.v[0]), u - float(part.u[0, 0])]]) / step
    bend = uniform(-1.5, 1.5, 1) * step
    along, across = frame(part.height, at, 0.4 * torch.randn(1), bend)
    furrow = stroke(along, across, length / step, half / step)
    lip = stroke(along, across - 1.8 * float(half) / step, length / step, half / step)
    # It hardly reaches into the grooves of the thread.
    pitch = round(PITCH / step) // 2 * 2 + 1
    crest = F.max_pool2d(part.height, (1, pitch), 1, (0, pitch // 2))
    pressure = 0.35 + 0.65 * smoothstep(crest - part.height, 0.009, 0.003)
    pressure = pressure * (1 + 0.25 * unit_noise(part.height, 17, 50)).clamp(0.4, 1)
    dark, bright = (furrow, lip) if coins(1) else (lip, furrow)
    return part._replace(tint=part.tint * (1 - 0.75 * pressure * dark) + pressure * bright)


def bent_tip(part: Bolt) -> Bolt:
    """Bend the end of the bolt to a side."""
    bend = 0.03  # length over which it turns into its new direction
    beyond = (part.u - _one(0.4, 0.46)).clamp_min(0)
    aside = torch.where(beyond < bend, beyond.square() / (2 * bend), beyond - bend / 2)
    aside = aside * signed(uniform(10, 21, 1).deg2rad().tan()) / part.step
    layers, still = torch.cat([part.height, part.tint], dim=1), torch.zeros_like(part.height)
    moved = displaced(layers, still - aside, still)
    return part._replace(height=moved[:, :1], tint=moved[:, 1:])


DEFECTS: dict[str, Callable[[Bolt], Bolt]] = {
    defect.__name__: defect for defect in (damaged_edge, missing_piece, scratch, bent_tip)
}


def _visible(change: Tensor) -> Tensor:
    """Mask what is visible of a change [1, 1, S, S]; close its gaps, leave out its crumbs."""
    size = change.shape[-1]
    mask = ndimage.binary_closing((change[0, 0] >= VISIBLE).numpy(), iterations=max(1, size // 125))
    pieces, _ = ndimage.label(ndimage.binary_fill_holes(mask))
    pieces = torch.from_numpy(pieces).long()
    share = pieces.flatten().bincount() / size**2
    share[0] = 0  # the ground is no piece
    return (share >= AREA[0] / 5)[pieces][None, None]


def spoil(part: Bolt, scene: Scene, size: int, kind: str) -> tuple[Layers, Tensor]:
    """Put a defect on a bolt, drawn again until it is small and well visible.

    Returns:
        The layers of the defective bolt, and the mask of the visible change, bool
        [1, 1, size, size]; a change of the shadow alone is not in it.
    """
    whole = compose(part, scene, size).unshadowed(scene.ground)
    while True:
        layers = compose(DEFECTS[kind](part), scene, size)
        change = (layers.unshadowed(scene.ground) - whole).abs()
        mask = _visible(change)
        if AREA[0] <= mask.float().mean() <= AREA[1] and change[mask].mean() >= CONTRAST:
            return layers, mask


def develop(scene: Scene, layers: Layers) -> Tensor:
    """Join the layers to a picture [1, 3, S, S], on a grained ground with some dust."""
    size = layers.metal.shape[-1]
    # About eight flecks of dust, most of them darker than the ground.
    flecks = (torch.rand(1, 1, size, size) < 8 / size**2) * _one(-0.1, 0.35)
    fleck = 0.0018 * size
    dust = blurred(flecks, fleck) * 2 * math.pi * fleck**2
    grain = blurred(torch.randn(1, 1, size, size), 0.002 * size)
    ground = scene.ground * (1 + 0.005 * grain / grain.std()) * (1 - dust.clamp(max=0.4))
    ground = ground * (1 - layers.shadow) * (1 - layers.share)
    metal, ground = (blurred(layer, 0.0012 * size) for layer in (layers.metal, ground))  # lens
    tones = torch.tensor([[0.985, 0.995, 1.0], [1.0, 0.995, 0.98]]).view(2, 1, 3, 1, 1)
    return metal * tones[0] + ground * tones[1]


def draw(size: int, kind: str = "good") -> tuple[Tensor, Tensor | None]:
    """Draw a bolt, [1, 3, size, size] in [0, 1], and the mask of its defect, None for "good"."""
    scene, part = place(size), bolt(size)
    if kind == "good":
        return develop(scene, compose(part, scene, size)), None
    layers, mask = spoil(part, scene, size, kind)
    return develop(scene, layers), mask
