"""Panels: input, reconstruction, heatmap and overlay of an image, side by side.

Colours have one meaning in all panels of a run: their range is fixed at calibration, and half-way
between cold and hot lies the level that good parts hardly ever reach.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from inspection.inspector import Inspection, scaled_to
from inspection.regions import region_labels
from inspection.threshold import Calibration
from utils.files import printable

if TYPE_CHECKING:
    from training.run import Run

# Pixels of a panel.
PICTURE = 384  # longer side of a picture
MARGIN = 12
HEADER = 40
CAPTION = 26
BAR = 16  # width of the colour bar

LOGGED = 4  # panels at most
MAX_TINT = 0.6  # opacity of the heatmap: more would hide the photograph
COMPRESSION = 1  # of PNG files: zlib's usual 6 takes 3 times as long, for a tenth fewer bytes
BACKGROUND, INK = (24, 24, 27), (235, 235, 235)
GOOD, DEFECT = (74, 222, 128), (248, 113, 113)


def colourise(anomaly_map: np.ndarray, low: float, high: float) -> np.ndarray:
    """Colour a map, float [H, W]: uint8 [H, W, 3], from blue at `low` to red at `high`."""
    import matplotlib  # late, as scipy below: a verdict without pictures does not need them

    # Not the range of this map: a good part would turn red where its highest spot is.
    values = (anomaly_map - low) / max(high - low, 1e-12)
    colours = matplotlib.colormaps["turbo"](np.clip(values, 0, 1), bytes=True)
    return colours[..., :3]


def overlay(image: np.ndarray, inspection: Inspection, calibration: Calibration) -> np.ndarray:
    """Tint an image by its heatmap and draw the contours of its regions.

    Args:
        image: uint8 [H, W, 3], the pixels that the map covers, at any size; heatmap and contours
            are scaled to it.
        inspection: of this image.
        calibration: gives colours and regions.
    """
    from scipy import ndimage

    size = image.shape[:2]
    anomaly_map = np.asarray(_resized(_with_peaks(inspection.anomaly_map, size), size))
    heat = colourise(anomaly_map, calibration.low, calibration.high)
    # Opacity grows with the square of the anomaly, up to the pixel threshold: normal areas keep
    # the look of the photograph.
    span = max(calibration.pixel_threshold - calibration.low, 1e-12)
    tint = MAX_TINT * np.clip((anomaly_map - calibration.low) / span, 0, 1)[..., None] ** 2
    blended = (image * (1 - tint) + heat * tint).astype(np.uint8)
    inside = (region_labels(inspection, calibration) > 0).astype(np.float32)
    marked = np.asarray(_resized(_with_peaks(inside, size), size)) > 0.5
    # White within black: visible on any ground. border_value: no line along the image's edge.
    inner = ndimage.binary_erosion(marked, iterations=2, border_value=1)
    outer = ndimage.binary_dilation(marked) & ~marked
    blended[marked & ~inner] = 255
    blended[outer] = 0
    return blended


def whole_overlay(
    image: np.ndarray, inspection: Inspection, calibration: Calibration
) -> np.ndarray:
    """Draw `overlay` on a whole original image, uint8 [H, W, 3] at any size.

    Pixels that a crop left out stay as they are.
    """
    # The image may be a smaller copy of the one that was inspected, as in videos.
    scale = np.divide(image.shape[:2], inspection.size)
    start, length = np.split(np.array(inspection.window), 2)
    (top, left), (bottom, right) = np.rint([start * scale, (start + length) * scale]).astype(int)
    drawn = image.copy()
    drawn[top:bottom, left:right] = overlay(image[top:bottom, left:right], inspection, calibration)
    return drawn


def _with_peaks(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Widen the peaks of a map [H, W] so that small ones survive shrinking to (height, width)."""
    from scipy import ndimage

    reach = min(whole // part for whole, part in zip(values.shape, size, strict=True))
    return ndimage.maximum_filter(values, reach) if reach > 1 else values


def _resized(pixels: np.ndarray, size: tuple[int, int]) -> Image.Image:
    return Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BILINEAR)


def pictures_of(
    inspection: Inspection, calibration: Calibration, side: int
) -> dict[str, Image.Image]:
    """Return pictures by caption: input, reconstruction (if any), heatmap and overlay.

    All have the ratio of the original image, or of its cropped part; their longer side is `side`
    pixels.
    """
    size = scaled_to(side, inspection.window[2:])
    heat = _with_peaks(inspection.anomaly_map, size)
    small = np.asarray(_resized(inspection.image, size))
    of_caption = {
        "input": small,
        "reconstruction": inspection.reconstruction,
        "heatmap": colourise(heat, calibration.low, calibration.high),
        "overlay": overlay(small, inspection, calibration),
    }
    return {
        caption: _resized(pixels, size)
        for caption, pixels in of_caption.items()
        if pixels is not None
    }


def draw_verdict(canvas: Image.Image, score: float, calibration: Calibration, title: str) -> None:
    """Draw verdict, severity, score and a title into the uppermost `HEADER` pixels."""
    draw = ImageDraw.Draw(canvas)
    is_defect = calibration.is_defect(score)
    verdict, colour = ("DEFECT", DEFECT) if is_defect else ("good", GOOD)
    draw.rectangle((0, 0, canvas.width, 4), fill=colour)
    draw.text((MARGIN, 11), verdict, fill=colour, font=ImageFont.load_default(20))
    relation = ">" if is_defect else "<="
    text = (
        f"severity {calibration.severity(score):.2f}    "
        f"score {score:.4g} {relation} {calibration.threshold:.4g}    {printable(title)}"
    )
    draw.text((MARGIN + 100, 15), text, fill=INK, font=ImageFont.load_default(14))


def panel(inspection: Inspection, calibration: Calibration, title: str) -> Image.Image:
    """Return a panel: the verdict above three or four pictures and a colour bar."""
    shown = pictures_of(inspection, calibration, PICTURE)
    width, height = shown["input"].size
    right = MARGIN + len(shown) * (width + MARGIN) + BAR + 4 * MARGIN + 30
    bottom = HEADER + height + CAPTION + MARGIN // 2
    canvas = Image.new("RGB", (right, bottom), BACKGROUND)
    draw_verdict(canvas, inspection.score, calibration, title)
    draw, small = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    left = MARGIN
    for caption, picture in shown.items():
        canvas.paste(picture, (left, HEADER))
        draw.text((left, HEADER + height + 5), caption, fill=INK, font=small)
        left += width + MARGIN

    values = np.linspace(calibration.high, calibration.low, height)[:, None].repeat(BAR, axis=1)
    bar = Image.fromarray(colourise(values, calibration.low, calibration.high))
    canvas.paste(bar, (left, HEADER))
    for position, value in enumerate(
        (calibration.high, calibration.pixel_threshold, calibration.low)
    ):
        y = HEADER + position / 2 * (height - 14) - 2  # 14: height of the text
        draw.text((left + BAR + 4, y), f"{value:.3g}", fill=INK, font=small)
    return canvas


def stack(panels: list[Image.Image]) -> Image.Image:
    """Return panels one below the other as one picture."""
    width, height = (max(p.width for p in panels), sum(p.height for p in panels))
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    top = 0
    for picture in panels:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas


def log_panels(run: Run) -> None:
    """Log panels of good images to TensorBoard, once the colours of a run are calibrated."""
    from inspection.torch_inspector import TorchInspector  # late: panels of an export need no torch

    inspector = TorchInspector(run.folder / "last.pt", run.config.device)
    paths = run.good.paths(run.config.data.root)
    for number in run.good.examined[:LOGGED]:
        title, inspection = run.good.names[number], inspector.inspect(inspector.read(paths[number]))
        calibration = inspector.calibrations[inspector.category_of(title)]
        run.log(**{title: np.asarray(panel(inspection, calibration, title))})
