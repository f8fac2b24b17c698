"""Images of train/good that may be defective: which they are, and how a run does without them.

- `write_suspects` names the images whose out-of-fold score is unlikely for a good part.
- `exclude` keeps the most suspicious share, `data.contaminated`, from all that is learned.

docs/contaminated.md shows figures.
"""

import csv
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path

import numpy as np
import torch

from data.good_images import DecodedImages, Fold, GoodImages, by_category, in_folds
from inspection.calibration import out_of_fold
from inspection.output import panel_names
from inspection.panel import COMPRESSION, panel
from inspection.threshold import Calibration, suspicion
from inspection.torch_inspector import TorchInspector
from models import build_model
from training import distributed
from training.loop import pick_micro_batch, seed_step
from training.run import Run
from utils.config import Config, changed
from utils.device import place
from utils.errors import UserError
from utils.files import CSV_ENCODING, new_file, new_folder, write_whole

# Of the detector that ranks the images, whatever is trained on them: PatchCore on the packaged
# backbone, for it is quick and no network learns the defects among them by heart.
RANKING = {
    "model": "patchcore",
    "patchcore.paper": False,
    "backbone": {"name": "auto", "layers": "auto", "weights": None},
    "train.crop": 0,
}

# Share of the folds that have to hold something like a patch, for it to be ordinary: more than have
# a defect of one kind.
FOLD_SHARE = 0.25

COLUMNS = ["file", "category", "excluded", "score", "one_in", "severity"]
MARK = ".written"  # in a folder of suspects: digest of what train.py wrote


def exclude(run: Run, images: DecodedImages) -> DecodedImages:
    """Leave out the most suspicious of the good images that are new to a run, before it learns.

    Of each category the share `data.contaminated`, those with the highest ranks; of shots of one
    part all go that have one among them. Sets `run.good`, with others held out.

    Args:
        run: new, or with images added to it.
        images: its good images, decoded.

    Returns:
        The images that stay.

    Raises:
        UserError: if less than two parts of a category stay.
    """
    good, known = run.good, len(run.checkpoint.good.names)
    share, excluded = run.config.data.contaminated, []
    if not share or len(good.names) == known:
        return images
    # One process ranks them: on GPUs the last bits differ, and all have to leave out the same.
    ranks = rank(run.config, images, good, run.device) if distributed.is_writer() else None
    ranks = distributed.gather(ranks)[0]
    groups = np.array(good.groups)
    for category, own in good.by_category().items():
        new = own[own >= known]
        of_group = {group: ranks[new[groups[new] == group]].max() for group in groups[new]}
        new = sorted(new, key=lambda one: (-of_group[groups[one]], groups[one]))  # noqa: B023
        count = round(share * len(new))
        while 0 < count < len(new) and groups[new[count]] == groups[new[count - 1]]:
            count += 1
        excluded += new[:count]
        if len(np.unique(groups[np.setdiff1d(own, excluded)])) < 2:
            raise UserError(
                f"data.contaminated={share:g} leaves too few good images of {category} to learn "
                "from and to calibrate on; lower it"
            )
        run.say(f"left out: {count} of {len(new)} good images of {category}, by data.contaminated")
    kept = np.setdiff1d(np.arange(len(images)), excluded)
    names, groups = [good.names[one] for one in kept], groups[kept].tolist()
    # Held out again, of those that stay: all that was held out may be left out.
    share = run.config.calibration.holdout if any(good.held_out) else 0
    run.good = run.checkpoint.good.extended(names, groups, share, run.config.seed)
    run.good.excluded = good.excluded + [good.names[one] for one in excluded]
    return images.only(kept)


def rank(
    config: Config, images: DecodedImages, good: GoodImages, device: torch.device
) -> np.ndarray:
    """Return a score [N] of each good image, higher for those that are less like the others.

    It is the score of PatchCore without the image's fold, but that the distance of a patch is that
    to a quarter of the folds: defects of one kind, which are in few of them, would hide one another
    if the single nearest patch decided.
    """
    model = place(build_model(changed(config, RANKING)), device)
    model.load_pretrained()
    for bank in model.banks:
        bank.fold_share = FOLD_SHARE
    at_once = 1 if device.type == "cpu" else pick_micro_batch(model.config, device)
    folds = in_folds(images, good, at_once, device)
    seed_step(config.seed, epoch=0, step=0)
    with model.caching():
        for fold in folds:
            for batch in fold:
                model.collect(batch, fold.number)
        model.eval().finish(folds)
        return out_of_fold(model, images, good, folds, doing="ranking")[0]


def write_suspects(run: Run, calibrations: dict[str, Calibration], folds: Sequence[Fold]) -> None:
    """Write panels and a table of suspects, and of images left out, into suspects/ of the run.

    Prints a line about them; without any there is neither line nor folder. The folder of an earlier
    start is removed, unless somebody has changed anything in it.

    Args:
        run: finished and saved.
        calibrations: of each category.
        folds: of its good images.
    """
    former, good, table = run.folder / "suspects", run.good, []
    if (former / MARK).is_file() and (former / MARK).read_text() == _digest(former):
        shutil.rmtree(former)
    likely = {category: suspicion(one) for category, one in calibrations.items()}
    found = _found(good, calibrations, likely, Path(run.config.data.root).absolute())
    if not found:
        return
    folder, pictures = new_folder(former), panel_names([path for path, *_ in found])
    inspector = TorchInspector(run.folder / "last.pt", run.config.device)
    for picture, (path, name, category, fold, score) in zip(pictures, found, strict=True):
        # Without its fold: a memory bank holds the very patches of the image.
        with nullcontext() if fold is None else inspector.detector.without(folds[fold]):
            inspection = inspector.inspect(inspector.read(path))
        if score is not None:  # that of a network has been moved to where held-out images lie
            inspection = inspection._replace(score=score)
        calibration, score = calibrations[category], inspection.score
        file = new_file(folder / picture)
        panel(inspection, calibration, name).save(file, compress_level=COMPRESSION)
        one_in = round(1 / max(likely[category][0](score), 1e-9))
        excluded = "yes" if fold is None else "no"
        table.append([name, category, excluded, score, one_in, calibration.severity(score)])
    table.sort(key=lambda row: (row[2], -row[-1]))
    how = {"encoding": CSV_ENCODING, "errors": "backslashreplace", "newline": ""}
    with (folder / "suspects.csv").open("w", **how) as stream:
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *table])
    write_whole(folder / MARK, _digest(folder))
    count = sum(row[2] == "no" for row in table)
    learned, excluded = len(good.names), len(good.excluded)
    share = min(0.5, (count + excluded) / (learned + excluded))
    print(
        f"suspects: {count} of {learned} good images score as hardly any good part does, beside "
        f"{excluded} left out; see {folder}, remove what is defective and train again"
        + (f", or set data.contaminated={share:.2g}" if count else "")
    )


def _found(
    good: GoodImages,
    calibrations: dict[str, Calibration],
    likely: dict[str, tuple[Callable[[float], float], float]],
    root: Path,
) -> list[tuple[Path, str, str, int | None, float | None]]:
    """Return the suspects and the images left out: path, name, category, fold and score of each.

    Images left out have neither fold nor score; those that were removed since are not returned.

    Args:
        good: names and groups of the good images.
        calibrations: of each category.
        likely: `suspicion` of each calibration.
        root: folder that holds the categories.
    """
    found, names = [], [*good.names, *good.excluded]
    for category, own in by_category(names).items():
        learned = own[own < len(good.names)]
        # By `calibration.group` a part has one score, and all its images are suspects with it.
        parts = np.unique(np.array(good.groups)[learned], return_inverse=True)[1]
        scores = np.array(calibrations[category].scores)[parts].tolist()
        above, limit = likely[category]
        for one, score in zip_longest(own.tolist(), scores):
            path, fold = root / names[one], None if score is None else good.folds[one]
            belongs = path.is_file() if score is None else above(score) < limit
            if belongs:
                found.append((path, names[one], category, fold, score))
    return found


def _digest(folder: Path) -> str:
    """Return a digest of all files in a folder but its mark, and of their names."""
    digest = sha256()
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != MARK:
            digest.update(os.fsencode(path.relative_to(folder)))
            digest.update(sha256(path.read_bytes()).digest())
    return digest.hexdigest()
