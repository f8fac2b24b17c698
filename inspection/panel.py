"""Panels: input, reconstruction, heatmap and overlay of one image, side by side.

Colours have one meaning in all panels of a run: the range is fixed at calibration, and half-way
between cold and hot lies the level that good parts hardly ever reach.
"""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from inspection.inspector import Inspection, scaled_to
from inspection.regions import region_labels
from inspection.threshold import Calibration
from utils.files import printable

TILE = 384  # longer side of a picture in the panel, pixels
MARGIN = 12
HEADER = 40
CAPTION = 26
BAR = 16  # width of the colour bar
COMPRESSION = 1  # of PNG files: zlib's usual 6 takes 3 times as long, for a tenth fewer bytes
BACKGROUND, INK = (24, 24, 27), (235, 235, 235)
GOOD, DEFECT = (74, 222, 128), (248, 113, 113)


def colourise(anomaly_map: np.ndarray, low: float, high: float) -> np.ndarray:
    """Anomaly map float [H, W] to colours uint8 [H, W, 3]: `low` is blue, `high` is red."""
    import matplotlib  # late, as scipy below: the first verdict need not wait for them

    values = (anomaly_map - low) / max(high - low, 1e-12)
    colours = matplotlib.colormaps["turbo"](np.clip(values, 0, 1), bytes=True)
    return colours[..., :3]


def overlay(image: np.ndarray, inspection: Inspection, calibration: Calibration) -> np.ndarray:
    """The image tinted by its heatmap; contours ring its regions, of which a good part has none.

    Args:
        image: uint8 [H, W, 3], what the map shows of it, at any size; heatmap and contours are
            scaled to it.
        inspection: of this image.
        calibration: gives the colours and the regions.
    """
    from scipy import ndimage

    def scaled(values: np.ndarray) -> np.ndarray:
        height, width = image.shape[:2]
        picture = Image.fromarray(_coarse(values.astype(np.float32), (height, width)))
        return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))

    anomaly_map = scaled(inspection.anomaly_map)
    heat = colourise(anomaly_map, calibration.low, calibration.high)
    # The tint grows with the anomaly: what is ordinary keeps the look of the photograph.
    span = max(calibration.pixel_threshold - calibration.low, 1e-12)
    tint = 0.6 * np.clip((anomaly_map - calibration.low) / span, 0, 1)[..., None] ** 2
    blended = (image * (1 - tint) + heat * tint).astype(np.uint8)
    marked = scaled(region_labels(inspection, calibration) > 0) > 0.5
    inner = ndimage.binary_erosion(marked, iterations=2, border_value=1)  # no frame
    outer = ndimage.binary_dilation(marked) & ~marked
    blended[marked & ~inner] = 255
    blended[outer] = 0
    return blended


def whole_overlay(
    image: np.ndarray, inspection: Inspection, calibration: Calibration
) -> np.ndarray:
    """`overlay` of a whole original image, uint8 [H, W, 3] at any size; what a crop left out stays.

    Returns:
        uint8 [H, W, 3].
    """
    scale = np.divide(image.shape[:2], inspection.size)
    start, length = np.split(np.array(inspection.part), 2)
    (top, left), (bottom, right) = np.rint([start * scale, (start + length) * scale]).astype(int)
    drawn = image.copy()
    drawn[top:bottom, left:right] = overlay(image[top:bottom, left:right], inspection, calibration)
    return drawn


def _coarse(values: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map [H, W], to be shrunk to (height, width), whose small peaks survive that."""
    from scipy import ndimage

    reach = min(whole // part for whole, part in zip(values.shape, size, strict=True))
    return ndimage.maximum_filter(values, reach) if reach > 1 else values


def tiles(inspection: Inspection, calibration: Calibration, side: int) -> dict[str, Image.Image]:
    """Pictures of an inspected image by caption: input, reconstruction (if any), heatmap, overlay.

    All have the ratio of the original image, or of what a crop shows of it; their longer side is
    `side` pixels.
    """
    height, width = scaled_to(side, inspection.part[2:])
    small = Image.fromarray(inspection.image).resize((width, height), Image.Resampling.BILINEAR)
    ends = calibration.low, calibration.high
    pictures = {
        "input": inspection.image,
        "reconstruction": inspection.reconstruction,
        "heatmap": colourise(_coarse(inspection.anomaly_map, (height, width)), *ends),
        "overlay": overlay(np.asarray(small), inspection, calibration),
    }
    return {
        caption: Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
        for caption, pixels in pictures.items()
        if pixels is not None
    }


def draw_verdict(canvas: Image.Image, score: float, calibration: Calibration, title: str) -> None:
    """The verdict, the severity, the score and a title in the uppermost `HEADER` pixels."""
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
    """One picture of an inspected image: the verdict, three or four tiles and a colour bar."""
    shown = tiles(inspection, calibration, TILE)
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
    ticks = {0.0: calibration.high, 0.5: calibration.pixel_threshold, 1.0: calibration.low}
    for position, value in ticks.items():
        y = HEADER + position * (height - 14) - 2
        draw.text((left + BAR + 4, y), f"{value:.3g}", fill=INK, font=small)
    return canvas


def stack(panels: list[Image.Image]) -> Image.Image:
    """Panels one below the other in one picture."""
    width = max(picture.width for picture in panels)
    canvas = Image.new("RGB", (width, sum(picture.height for picture in panels)), BACKGROUND)
    top = 0
    for picture in panels:
        canvas.paste(picture, (0, top))
        top += picture.height
    return canvas
