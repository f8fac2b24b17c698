"""Changing the calibrations of a finished run, or of an export of one."""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tqdm import tqdm

from data.images import ImageError, pixel_digest, read_ahead
from data.listing import expand
from inspection.inspector import Inspector
from inspection.onnx_inspector import described, write_model
from inspection.threshold import Calibration
from utils.config import Config, changed
from utils.errors import UserError
from utils.files import new_file, write_whole
from utils.optional_packages import need

FORMER = "former-calibration.yaml"  # of a run, for calibrations that others replace; then -2, ...

Found = dict[str, tuple[list[float], list[float], list[str]]]
"""Of each category: scores of images, the highest pixels of their maps, and digests of them."""


def rescored_config(config: Config, overrides: dict[str, Any]) -> Config:
    """Return a finished run's settings with `overrides`; raises `UserError` for learned ones."""
    for key in overrides:
        if not key.startswith("score.") and key != "data.max_megapixels":
            raise UserError(
                f"{key} is learned, or given by a flag of its own; only score.* and "
                "data.max_megapixels can be set without training"
            )
    return changed(config, overrides)


def rescore(inspector: Inspector, config: Config, root: str) -> dict[str, Calibration]:
    """Calibrate all categories of a run again, with scores computed in another way.

    Args:
        inspector: a checkpoint, which gets the settings.
        config: its settings, with others below `score`.
        root: folder that holds the categories; all good images that the run knows are needed.
    """
    # Late, as below: an export needs no torch.
    from data.good_images import decode_all, in_folds
    from inspection.calibration import calibrate_detector

    images, _ = decode_all(inspector.good.paths(root), config.data)
    # All that was learned stays, the normalisation among it, as it does in the checkpoint.
    inspector.detector.config = config
    folds = in_folds(images, inspector.good, inspector.batch, inspector.device)
    return calibrate_detector(inspector.detector, images, inspector.good, folds)


def score_images(inspector: Inspector, names: list[str], what: str, once: bool) -> Found:
    """Inspect the images named, if any; raises `UserError` if one is damaged or all are known.

    Args:
        inspector: the detector.
        names: image files, folders or patterns.
        what: name of the images in messages.
        once: leave out copies of images that a category was calibrated on, or of one another:
            good images that count twice would promise more than they tell.
    """
    if not names:
        return {}
    paths = expand(names)
    found: Found = {inspector.category_of(path): ([], [], []) for path in paths}
    known = {category: set(inspector.calibrations[category].digests) for category in found}

    def distinct() -> Iterator[tuple[tuple[str, str], np.ndarray]]:
        for path, image in tqdm(read_ahead(paths, inspector.read), what, len(paths), disable=None):
            if isinstance(image, ImageError):
                raise UserError(str(image))
            category, digest = inspector.category_of(path), pixel_digest(image)
            if not once or digest not in known[category]:
                known[category].add(digest)
                yield (category, digest), image

    for (category, digest), inspection in inspector.inspect_all(distinct()):
        scores, peaks, digests = found[category]
        scores.append(inspection.score)
        peaks.append(float(inspection.anomaly_map.max()))
        digests.append(digest)
    left = sum(len(digests) for *_, digests in found.values())
    if not left:
        raise UserError(f"all {len(paths)} {what} count already; name others")
    if left < len(paths):
        line = f"left out: {len(paths) - left} of {len(paths)} {what}, which count already"
        print(line, file=sys.stderr)
    return found


def set_calibrations(
    file: Path, changed: dict[str, Calibration], config: Config | None = None
) -> None:
    """Give a run, or an export, other calibrations; the former ones are kept in it.

    Args:
        file: last.pt of a finished run, or an .onnx file of export.py.
        changed: the new ones; categories that are not among them keep theirs.
        config: settings that go with it, of a run; None leaves them as they are.
    """
    if file.suffix == ".onnx":
        _set_in_export(file, changed)
        return
    from training.checkpoint import load_checkpoint, save_checkpoint

    checkpoint = load_checkpoint(file)
    # The former ones are on disk before they are replaced: a kill in between loses none.
    former = yaml.safe_dump(checkpoint.calibrations, sort_keys=False)
    write_whole(new_file(file.parent / FORMER), former)
    calibrations = checkpoint.calibrations | {
        category: asdict(one) for category, one in changed.items()
    }
    after = replace(checkpoint, calibrations=calibrations)
    save_checkpoint(file.parent, after if config is None else replace(after, config=config))


def _set_in_export(file: Path, changed: dict[str, Calibration]) -> None:
    model = need("onnx").load(str(file))
    about = {entry.key: entry.value for entry in model.metadata_props}
    # The file is all there is: the former ones are kept in its metadata, the oldest first.
    former = json.loads(about["calibrations"])
    formers = [*json.loads(about.get("former_calibrations", "[]")), former]
    about |= described({category: Calibration(**one) for category, one in former.items()} | changed)
    write_model(model, about | {"former_calibrations": json.dumps(formers)}, file)
