"""The files that `infer.py --save` writes of an inspected image."""

import os
import re
from collections.abc import Callable, Collection, Sequence
from pathlib import Path, PurePath

import numpy as np
from PIL import Image

from inspection.inspector import Inspection
from inspection.panel import COMPRESSION, panel, whole_overlay
from inspection.regions import region_labels
from inspection.threshold import Calibration
from utils.config import nearest
from utils.errors import UserError
from utils.files import new_file, printable

KINDS = ("panel", "map", "mask", "overlay")
FILES = ("panel", "map", "map_npy", "mask", "overlay")
"""What results call them: a map is written twice."""

MAX_NAME_BYTES = 230
"""Bytes in the name of a panel or of its folder: disks take 255; `_overlay` or a number follow."""


def named_kinds(text: str) -> tuple[str, ...]:
    """Return the kinds of pictures that `--save` names; raises `UserError` for an unknown one."""
    kinds = () if text == "none" else tuple(text.split(","))
    for kind in kinds:
        if kind not in KINDS:
            raise UserError(
                f"--save is {text!r} but should be none, or some of {','.join(KINDS)}"
                + nearest(kind, list(KINDS))
            )
    return kinds


def panel_names(paths: Sequence[PurePath]) -> list[Path]:
    """Return names for panels of images, in folders that lie to one another as the images' do.

    Two may be the same, as those of part.jpg and part.png are.

    Args:
        paths: absolute, and free of `..`.

    Returns:
        Relative paths of .png files, of characters and lengths that a disk takes.
    """

    def name(part: str) -> str:
        plain = re.sub(r"[\\/:]", "", printable(part))  # of a drive, too: D:\ becomes D
        return plain.encode()[:MAX_NAME_BYTES].decode(errors="ignore")

    folders = [path.parent.parts for path in paths]
    common = len(os.path.commonprefix(folders))
    return [
        Path(*map(name, folder[common:]), name(path.stem) + ".png")
        for folder, path in zip(folders, paths, strict=True)
    ]


def mask(inspection: Inspection, calibration: Calibration) -> np.ndarray:
    """Where the regions are in the original image: bool [H, W]."""
    inside = region_labels(inspection, calibration) > 0
    return inspection.at_original_size(inside, unseen=0) > 0.5


def save_pictures(
    kinds: Collection[str],
    name: Path,
    inspection: Inspection,
    calibration: Calibration,
    title: str,
    original: Callable[[], np.ndarray],
) -> dict[str, Path]:
    """Write what is asked for; nothing that is there is overwritten, see `new_file`.

    Args:
        kinds: of `KINDS`.
        name: .png file of the panel; the others lie beside it, as <stem>_map.tif and so on.
        inspection: of the image.
        calibration: gives colours and regions.
        title: of the panel.
        original: reads the image, uint8 [H, W, 3], for the overlay.

    Returns:
        The files, by what results call them (`FILES`).
    """
    files = {}

    def new(file: str, ending: str) -> Path:
        files[file] = new_file(name.with_name(name.stem + ending))
        return files[file]

    if "panel" in kinds:
        _save(panel(inspection, calibration, title), new("panel", ".png"))
    if "map" in kinds:
        values = inspection.at_original_size(inspection.anomaly_map, unseen=np.nan)
        Image.fromarray(values).save(new("map", "_map.tif"))
        np.save(new("map_npy", "_map.npy"), values)
    if "mask" in kinds:
        marked = Image.fromarray(mask(inspection, calibration)).convert("L")  # 0 and 255
        _save(marked, new("mask", "_mask.png"))
    if "overlay" in kinds:
        pixels = whole_overlay(original(), inspection, calibration)
        _save(Image.fromarray(pixels), new("overlay", "_overlay.png"))
    return files


def _save(picture: Image.Image, file: Path) -> None:
    picture.save(file, compress_level=COMPRESSION)
