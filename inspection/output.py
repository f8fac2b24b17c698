"""Output of an inspection: the printed line, results.jsonl, results.csv and pictures."""

import csv
import io
import json
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

import numpy as np
from PIL import Image

from inspection.inspector import Inspection
from inspection.panel import COMPRESSION, panel, whole_overlay
from inspection.regions import region_labels, regions
from inspection.threshold import Calibration
from utils.config import nearest
from utils.errors import UserError
from utils.files import CSV_ENCODING, LineFile, new_file, printable

KINDS = ("panel", "map", "mask", "overlay")  # of pictures, as `infer.py --save` names them
FILES = ("panel", "map", "map_npy", "mask", "overlay")  # as results do: a map is written twice
MAX_NAME_BYTES = 230  # of a panel or its folder: disks take 255; `_overlay` or a number follow
COLUMNS = ["path", "category", "verdict", "score", "severity", "threshold", "regions"]
BOX = ["x", "y", "width", "height"]  # as the next two, of the strongest region
COLUMNS += [*BOX, "area", "peak", *FILES]
MM_COLUMNS = [*(f"{side}_mm" for side in BOX), "area_mm2"]
PART_COLUMNS = ["part", *COLUMNS[1:6], "views", "usual_views"]


def say(score: float, calibration: Calibration, name: object) -> str:
    """Print the verdict on an image or a part, and return it: good or defect."""
    verdict = calibration.verdict(score)
    mark = "DEFECT" if verdict == "defect" else "good  "
    severity = calibration.severity(score)
    print(f"{mark}  severity {severity:5.2f}  score {score:.5f}  {name}")
    return verdict


def entry(inspection: Inspection, category: str, calibration: Calibration) -> dict[str, Any]:
    """Return the result of an inspection by name, for JSON."""
    return {
        "category": category,
        "verdict": calibration.verdict(inspection.score),
        "score": inspection.score,
        "severity": calibration.severity(inspection.score),
        "threshold": calibration.threshold,
        "regions": [
            region.described(inspection.mm_per_pixel) for region in regions(inspection, calibration)
        ],
    }


@contextmanager
def result_files(
    folder: Path, columns: Sequence[str], stem: str = "results"
) -> Iterator[Callable[[dict[str, Any]], None]]:
    """Open <stem>.jsonl and <stem>.csv in a folder; `FileExistsError` if it holds either.

    Args:
        folder: where.
        columns: of the table.
        stem: results, of images, or parts.

    Yields:
        A function that writes a line of each, given the values by name; raises `OSError` if neither
        line can be written.
    """
    with (
        LineFile(folder / f"{stem}.jsonl") as lines,
        LineFile(folder / f"{stem}.csv", CSV_ENCODING) as table,
    ):

        def write_row(row: dict[str, Any]) -> None:
            text = io.StringIO()
            csv.DictWriter(text, columns).writerow(row)
            table.write(text.getvalue())

        write_row(dict(zip(columns, columns, strict=True)))

        def add(found: dict[str, Any]) -> None:
            lines.write(json.dumps(found) + "\n")
            regions = found.get("regions", [])
            row = found | ({"regions": len(regions)} if "regions" in found else {})
            for strongest in regions[:1]:  # a table has columns for one
                row |= dict(zip(BOX, strongest["box"], strict=True))
                row |= {"area": strongest["area"], "peak": strongest["peak"]}
                if "box_mm" in strongest:
                    in_mm = [*strongest["box_mm"], strongest["area_mm2"]]
                    row |= dict(zip(MM_COLUMNS, in_mm, strict=True))
            try:
                write_row(row)
            except OSError:
                lines.remove_last()  # a result is in both files or in none
                raise

        yield add


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
    # Of lists of parts, not of text: /a/part1 and /a/part2 have only /a in common.
    common = len(os.path.commonprefix(folders))
    return [
        Path(*map(name, folder[common:]), name(path.stem) + ".png")
        for folder, path in zip(folders, paths, strict=True)
    ]


def region_mask(inspection: Inspection, calibration: Calibration) -> np.ndarray:
    """Return the mask of all regions in the original image: bool [H, W]."""
    inside = region_labels(inspection, calibration) > 0
    # 0.5: an edge that was interpolated from 0 to 1 lies where it is half-way
    return inspection.at_original_size(inside, outside=0) > 0.5


def save_pictures(
    kinds: Collection[str],
    name: Path,
    inspection: Inspection,
    calibration: Calibration,
    title: str,
    original: Callable[[], np.ndarray],
) -> dict[str, Path]:
    """Write pictures of an inspected image; no file is overwritten, see `new_file`.

    Args:
        kinds: of `KINDS`.
        name: .png file of the panel; the others lie beside it, as <stem>_map.tif and so on.
        inspection: of the image.
        calibration: gives colours and regions.
        title: of the panel.
        original: reads the image, uint8 [H, W, 3], for the overlay.

    Returns:
        The files by their name in `FILES`.
    """
    files = {}

    def new(file: str, ending: str) -> Path:
        files[file] = new_file(name.with_name(name.stem + ending))
        return files[file]

    if "panel" in kinds:
        _save(panel(inspection, calibration, title), new("panel", ".png"))
    if "map" in kinds:
        # NaN: pixels that a crop left out have no value, not a low one.
        values = inspection.at_original_size(inspection.anomaly_map, outside=np.nan)
        Image.fromarray(values).save(new("map", "_map.tif"))
        np.save(new("map_npy", "_map.npy"), values)
    if "mask" in kinds:
        marked = Image.fromarray(region_mask(inspection, calibration)).convert("L")  # 0 and 255
        _save(marked, new("mask", "_mask.png"))
    if "overlay" in kinds:
        # Of the file itself: `Inspection.image` is small, and black outside of the region.
        pixels = whole_overlay(original(), inspection, calibration)
        _save(Image.fromarray(pixels), new("overlay", "_overlay.png"))
    return files


def _save(picture: Image.Image, file: Path) -> None:
    picture.save(file, compress_level=COMPRESSION)
