"""Export a trained detector to one ONNX file, which gives its verdicts without torch.

    python export.py                                the newest run
    python export.py --category wood --half         weights in 16 bits
    python export.py --checkpoint checkpoints/<run> --int8
    python infer.py --checkpoint checkpoints/<run>/<run>.onnx part.png

The file takes images [B, 3, H, W], float32 RGB in [0, 1], and gives anomaly_map [B, 1, H, W],
score [B] and, where the detector has one, reconstruction. Its metadata hold the settings, the
thresholds and the range of colours. It is compared with the checkpoint on real images before it is
kept. --half and --int8 carry the thresholds over to the scores of the smaller file, and say what it
costs in AUROC and gains in speed.
"""

if __name__ == "__main__":  # before what takes long to import: Ctrl-C is quiet from here on
    from utils.interrupt import quiet_start

    quiet_start()

import argparse
from pathlib import Path

from inspection.open_run import chosen_categories, named_run, parse_checked
from runs.folders import FORMAT, named_checkpoint, run_name
from utils.errors import UserError, answer_early, run_script
from utils.flags import add_setting_flags, script_parser


def parse_args() -> argparse.Namespace:
    """Flags of the command line."""
    parser = script_parser(__doc__)
    parser.add_argument(
        "--checkpoint", type=named_checkpoint, metavar="RUN", help="run folder or its last.pt"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="default: checkpoints/<run>/<run>.onnx"
    )
    smaller = parser.add_mutually_exclusive_group()
    smaller.add_argument("--half", action="store_true", help="weights and sums in float16")
    smaller.add_argument("--int8", action="store_true", help="convolutions in 8 bits")
    add_setting_flags(parser, ["--model", "--category", "--data-root"])
    return parse_checked(parser)


if __name__ == "__main__":
    answer_early(parse_args)  # --help and wrong flags, before the slow imports

import signal
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.images import ImageError, read_ahead
from data.mvtec import Category
from data.tiles import read_tiles
from evaluation.metrics import auroc
from evaluation.pseudo_defects import PseudoImage, pseudo_split
from inspection.inspector import Inspection, Inspector
from inspection.onnx_export import write_half, write_int8, write_metadata, write_onnx
from inspection.onnx_inspector import OnnxInspector
from inspection.torch_inspector import TorchInspector
from utils.calibration import Calibration
from utils.config import Config

TOLERANCE = 1e-4
"""Largest difference to the checkpoint, as a share of the largest value."""

CHECKED = 16
"""Images that an export is compared with its checkpoint on."""

MAPPED = 8
"""Good images of a part, about, on which a smaller file's scores are compared with the whole's."""

RANGE_IMAGES = 64
"""Good images at most that set the ranges of --int8."""


class Agreement(NamedTuple):
    """How an export compares with its checkpoint.

    Attributes:
        map_difference: largest difference of the maps, as a share of the largest value.
        score_difference: the same of the scores.
        verdicts: how many of the verdicts are equal.
        images: how many images were compared.
    """

    map_difference: float
    score_difference: float
    verdicts: int
    images: int


def check_output(file: Path) -> None:
    """Raise `UserError` if an export cannot go by this name, or would replace another file."""
    if file.suffix != ".onnx":
        raise UserError(f"--output is {file} but should end in .onnx, by which exports are known")
    if file.exists() and FORMAT.encode() not in file.read_bytes():
        raise UserError(f"{file} is none of export.py, and is not overwritten; name another file")


def compare(
    ours: Inspector, reference: Inspector, images: list[tuple[str, np.ndarray]]
) -> Agreement:
    """Inspect the same images, uint8 [H, W, 3], each with its part, with both."""
    pairs = [(ours.inspect(image), reference.inspect(image)) for _, image in images]

    def difference(values: list[tuple[np.ndarray, np.ndarray]]) -> float:
        largest = max(float(np.abs(right).max()) for _, right in values)
        return max(float(np.abs(left - right).max()) for left, right in values) / max(
            largest, 1e-12
        )

    return Agreement(
        difference([(a.anomaly_map, b.anomaly_map) for a, b in pairs]),
        difference([(np.array(a.score), np.array(b.score)) for a, b in pairs]),
        sum(
            ours.calibrations[part].is_defect(a.score)
            == reference.calibrations[part].is_defect(b.score)
            for (part, _), (a, b) in zip(images, pairs, strict=True)
        ),
        len(pairs),
    )


def images_to_check(
    inspector: Inspector, categories: list[Category], good: dict[str, list[Path]]
) -> list[tuple[str, np.ndarray]]:
    """Some images, each with its part, evenly from test splits, or good ones where there is none.

    Args:
        inspector: says which part a category is of, and reads the images.
        categories: those to take them of.
        good: good images of each part.
    """
    parts: dict[Path, str] = {}
    for category in categories:
        part = inspector.part_of(category.folder)
        try:
            parts |= dict.fromkeys((test.path for test in category.test_images()), part)
        except UserError:
            parts |= dict.fromkeys(good[part], part)
    chosen = list(parts)[:: -(-len(parts) // CHECKED)]
    found = read_ahead(chosen, inspector.read)
    images = [(parts[path], image) for path, image in found if not isinstance(image, ImageError)]
    if not images:
        folder = categories[0].folder
        raise UserError(f"none of the images of {folder} could be read to check it with")
    return images


def good_images(paths: list[Path], config: Config) -> Iterator[np.ndarray]:
    """Good images as the detector sees them, uint8 [h, w, C]; damaged ones are left out.

    Of those that it sees in tiles one each, from all over the image in turn.
    """
    reader = read_ahead(paths, lambda path: read_tiles(path, config.data)[0])
    for number, (_, tiles) in enumerate(reader):
        if not isinstance(tiles, ImageError):
            yield tiles[number % len(tiles)]


def calibrated(small: Inspector, whole: Inspector, part: str, paths: list[Path]) -> Calibration:
    """The calibration of the whole detector for a part as a smaller one sees it.

    Both judge good images of it and drawn defects; the line that takes the scores of the one to
    those of the other takes the threshold along, a line for the peaks all that belongs to the map.
    """
    tests = pseudo_split(paths, whole.config.data)
    pairs = []
    for _, read in read_ahead(tests, PseudoImage.read):
        if not isinstance(read, ImageError):
            found = [inspector.inspect(read[0]) for inspector in (whole, small)]
            pairs.append([(one.score, one.anomaly_map.max()) for one in found])
    (scores, peaks), (small_scores, small_peaks) = np.array(pairs).transpose(1, 2, 0)
    return whole.calibrations[part].mapped(
        np.poly1d(np.polyfit(scores, small_scores, 1)),
        np.poly1d(np.polyfit(peaks, small_peaks, 1)),
    )


def measure(inspector: Inspector, category: Category, what: str) -> tuple[float, float]:
    """Image AUROC on the test split (NaN without one) and milliseconds an image."""
    try:
        tests = category.test_images()
    except UserError:
        return float("nan"), float("nan")
    scores: dict[bool, list[float]] = {False: [], True: []}
    milliseconds = []
    reader = read_ahead(tests, lambda test: inspector.read(test.path))
    for test, image in tqdm(reader, what, len(tests), unit="image", disable=None):
        if not isinstance(image, ImageError):
            found: Inspection = inspector.inspect(image)
            scores[test.is_defect].append(found.score)
            milliseconds.append(found.milliseconds)
    return (
        auroc(np.array(scores[False]), np.array(scores[True])),
        float(np.median(milliseconds)) if milliseconds else float("nan"),
    )


def main() -> int:
    """Export, compare, and keep the file only if it agrees; returns the exit status."""
    args = parse_args()
    # SIGTERM, too, takes unfinished files along.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    file = named_run(args)
    reference = TorchInspector(file, "cpu")
    config = reference.config
    categories = chosen_categories(args, reference)
    paths = reference.good.paths(vars(args)["data.root"] or config.data.root)
    good = {part: [paths[place] for place in own] for part, own in reference.good.by_part().items()}
    kind = "half" if args.half else "int8" if args.int8 else ""
    name = "-".join(part for part in (run_name(file), kind) if part)
    output = args.output or file.parent / f"{name}.onnx"
    check_output(output)
    output.parent.mkdir(parents=True, exist_ok=True)

    # 1. The graph, under another name until it has shown that it agrees.
    whole = output.with_name(f".{output.stem}.whole.onnx")
    smaller = output.with_name(f".{output.stem}.smaller.onnx")
    try:
        print(f"{config.model} on {', '.join(good)}, {file}: writing the graph")
        write_onnx(reference.detector, whole)
        write_metadata(whole, reference.detector, reference.calibrations)
        exported = OnnxInspector(whole, "cpu")
        images = images_to_check(reference, categories, good)
        agreement = compare(exported, reference, images)
        report = (
            f"against the checkpoint, on {agreement.images} images: map within "
            f"{agreement.map_difference:.1e}, score within {agreement.score_difference:.1e}, "
            f"{agreement.verdicts} verdicts equal"
        )
        worst = max(agreement.map_difference, agreement.score_difference)
        # Not `worst > TOLERANCE`, which a NaN would pass.
        if not worst <= TOLERANCE or agreement.verdicts < agreement.images:
            raise UserError(
                f"the export is not kept, for it differs too much: {report} (a network that hardly "
                "changes its input leaves nothing but rounding to compare: train it longer)"
            )
        print(report)
        finished = whole

        # 2. A smaller file: thresholds of its own, and what it costs.
        if kind:
            print(f"converting to {kind}")
            if args.half:
                write_half(whole, smaller)
            else:
                some = paths[:: -(-len(paths) // RANGE_IMAGES)]
                write_int8(whole, smaller, good_images(some, config))
            # Sealed anew, or it is not opened.
            write_metadata(smaller, reference.detector, reference.calibrations)
            small = OnnxInspector(smaller, "cpu")
            calibrations = {
                part: calibrated(small, exported, part, own[:: max(1, len(own) // MAPPED)])
                for part, own in good.items()
            }
            write_metadata(smaller, reference.detector, calibrations)
            compact = OnnxInspector(smaller, "cpu")
            (auroc_whole, ms_whole), (auroc_compact, ms_compact) = (
                np.mean([measure(one, category, what) for category in categories], axis=0)
                for one, what in ((exported, "float32"), (compact, kind))
            )
            print(
                f"image AUROC {auroc_whole:.4f} in float32, {auroc_compact:.4f} in {kind}\n"
                f"ms an image {ms_whole:.0f} in float32, {ms_compact:.0f} in {kind}\n"
                f"MiB         {whole.stat().st_size / 2**20:.1f} in float32, "
                f"{smaller.stat().st_size / 2**20:.1f} in {kind}"
            )
            finished = smaller
        finished.replace(output)
    finally:
        whole.unlink(missing_ok=True)
        smaller.unlink(missing_ok=True)
    print(f"done: {output} ({output.stat().st_size / 2**20:.1f} MiB)")
    print(f"next: python infer.py --checkpoint {output}")
    return 0


if __name__ == "__main__":
    run_script(main)
