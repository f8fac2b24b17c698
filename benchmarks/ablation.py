"""What each part of the method is worth: one training a row, all with the same budget.

    python -m benchmarks.ablation --category tile --size 256 --epochs 20 --set unet.width=16

Rows: copy training, each kind of corruption alone (mask with the masked inference), all of them,
the same at full size alone, what may be added (several corruptions in an image, more weight of what
was corrupted, a gate), DRAEM by its defaults here and by the paper's weights, and each term of the
anomaly map alone, scored anew from the run of all. Every row is measured twice: on defects
synthesised on held-out good images (the pseudo AUROC, by which settings may be chosen) and on the
test split. At the end stands how well the first ranking agrees with the second.

Rows that are finished are kept in outputs/ablation/<category>.json: started again, it goes on where
it stopped.
"""

import argparse
import json
import shutil
from pathlib import Path

from scipy.stats import spearmanr

from utils.config import (
    add_setting_flags,
    load_config,
    overrides_from,
    with_absolute_paths,
    write_config,
)
from utils.errors import UserError, run_script
from utils.files import write_whole
from utils.scripts import as_flags, read_metrics, script, training_seconds

FULL = "all corruption, all terms"

TRAININGS = {
    "copy training": {"corruption": "none", "unet.gate": False},
    "mask": {"corruption": "mask", "score.cells": [8], "unet.gate": False},
    "stain": {"corruption": "stain"},
    "perlin": {"corruption": "perlin"},
    "crack": {"corruption": "crack"},
    "cut_paste": {"corruption": "cut_paste"},
    FULL: {},
    "all, at full size alone": {"unet.scales": [1]},
    "all, several at once": {"corruption.more": 3},
    "all, corrupted parts weigh more": {"loss.corrupted": 10},
    "all, with a gate": {"unet.gate": True},
    "DRAEM": {"model": "draem"},
    "DRAEM, the paper's weights": {"model": "draem", "loss.focal": 1, "loss.balance": 0},
}
"""Rows that train a network: settings that differ from those given."""

ONLY = {"score.msgms": 0, "score.ssim": 0, "score.l1": 0, "score.colour": 0}

SCORINGS = {
    "all corruption, MSGMS alone": ONLY | {"score.msgms": 1},
    "all corruption, SSIM alone": ONLY | {"score.ssim": 1},
    "all corruption, L1 alone": ONLY | {"score.l1": 1},
    "all corruption, colour alone": ONLY | {"score.colour": 1},
    "all, globally": {"score.standardise": "global"},
    "all, by position": {"score.standardise": "position"},
    "all, highest pixel": {"score.reduce": "max"},
}
"""Rows that score the run of all corruption anew."""


def train(flags: list[object], folder: Path) -> Path:
    """Train in `folder`; returns the run."""
    printed = script("train.py", *flags, cwd=folder).printed
    return folder / printed.rsplit("--checkpoint ", 1)[1].strip()


def score_anew(run: Path, settings: dict, folder: Path) -> Path:
    """A copy of a finished run that is scored with other settings."""
    copy = folder / "checkpoints" / f"{run.name}-anew"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(run, copy)
    script("train.py", "--resume", copy, *as_flags(settings), cwd=folder)
    return copy


def measure(run: Path, folder: Path) -> dict:
    """Metrics of a run on the test split, and its pseudo AUROC."""
    metrics = {}
    for name, flags in {"pseudo": ["--synthetic"], "test": []}.items():
        output = folder / "measured" / name
        script("eval.py", "--checkpoint", run, "--output", output, *flags, cwd=folder)
        metrics[name] = read_metrics(output)
    return {
        "seconds": training_seconds(run),
        "pseudo_auroc": metrics["pseudo"]["image_auroc"],
        "pseudo_pixel_auroc": metrics["pseudo"]["pixel_auroc"],
        **metrics["test"],
    }


def table(rows: dict[str, dict]) -> str:
    """The rows in Markdown, and the rank correlation of the pseudo and the true AUROC below."""
    lines = [
        "| row | image AUROC (95% interval) | pixel AUROC | AUPRO 0.3 | pseudo AUROC "
        "| training | ms an image |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in rows.items():
        interval = f"({row['image_auroc_low']:.3f} to {row['image_auroc_high']:.3f})"
        lines.append(
            f"| {name} | {row['image_auroc']:.3f} {interval} | {row['pixel_auroc']:.3f} "
            f"| {row['aupro_0.3']:.3f} | {row['pseudo_auroc']:.3f} "
            f"| {row['seconds']:.0f} s | {row['ms_per_image']:.0f} |"
        )
    if len(rows) > 2:
        for what, pseudo in {
            "image_auroc": "pseudo_auroc",
            "pixel_auroc": "pseudo_pixel_auroc",
        }.items():
            found = spearmanr(
                [row[pseudo] for row in rows.values()], [row[what] for row in rows.values()]
            )
            lines.append(
                f"\nrank correlation of pseudo and true {what.replace('_auroc', ' AUROC')}: "
                f"{found.statistic:.2f} over {len(rows)} settings"
            )
    return "\n".join(lines)


def main() -> int:
    """Run the rows that are missing and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_setting_flags(parser)
    config = load_config(overrides=overrides_from(parser.parse_args()))
    folder = Path("outputs/ablation").resolve() / config.data.category
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".json")
    state = json.loads(file.read_text()) if file.exists() else {"settings": None, "rows": {}}
    settings = config.model_dump(mode="json")
    if state["settings"] not in (None, settings):
        raise UserError(f"{file} was begun with other settings; delete it to start anew")
    given = folder / "settings.yaml"
    write_config(with_absolute_paths(config), given)

    rows = state["rows"]
    for name, changes in (TRAININGS | SCORINGS).items():
        if name in rows:
            continue
        print(f"{name} ...", flush=True)
        if name in TRAININGS:
            run = train(["--config", given, *as_flags(changes)], folder)
        else:
            run = score_anew(Path(rows[FULL]["run"]), changes, folder)
        rows[name] = measure(run, folder) | {"run": str(run)}
        write_whole(file, json.dumps({"settings": settings, "rows": rows}, indent=2))
    print(table(rows))
    return 0


if __name__ == "__main__":
    run_script(main)
