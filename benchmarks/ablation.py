"""What each part of the method is worth: one training a row, all with the same budget.

    python -m benchmarks.ablation --category tile --size 256 --batch 8 --lr 1e-3 --epochs 40

Rows: the default, an encoder from scratch, each kind of corruption alone and each left out, at most
one corruption an image, no harmless variation, and DRAEM by the paper's weights and by those that
find more. Every row is measured twice: on defects synthesised on held-out good images (the pseudo
AUROC, by which settings may be chosen) and on the test split. At the end stands how well the first
ranking agrees with the second.

Rows that are finished are kept in outputs/ablation/<category>.json: started again, it goes on where
it stopped.
"""

import json
from pathlib import Path

from scipy.stats import spearmanr

from benchmarks.scripts import as_flags, read_metrics, script, training_seconds
from models.reconstruction.corruption import KINDS
from utils.config import load_config, with_absolute_paths, write_config
from utils.errors import UserError, run_script
from utils.files import write_whole
from utils.flags import add_setting_flags, overrides_from, script_parser

ROWS = {
    "default": {},
    "encoder from scratch": {"unet.encoder": "scratch"},
    **{f"{kind} alone": {"corruption.kinds": ["clean", kind]} for kind in KINDS},
    **{
        f"without {kind}": {
            "corruption.kinds": ["clean", *(other for other in KINDS if other != kind)]
        }
        for kind in KINDS
    },
    "one corruption an image": {"corruption.more": 0},
    "no variation": {"unet.variation": 0},
    "DRAEM": {"model": "draem"},
    "DRAEM, sharper": {"model": "draem", "draem.focal": 100, "draem.balance": 8},
}
"""Settings of each row that differ from those given."""


def train(flags: list[object], folder: Path) -> Path:
    """Train in `folder`; returns the run."""
    printed = script("train.py", *flags, cwd=folder).printed
    return folder / printed.rsplit("--checkpoint ", 1)[1].strip()


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
    parser = script_parser(__doc__)
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
    for name, changes in ROWS.items():
        if name in rows:
            continue
        print(f"{name} ...", flush=True)
        run = train(["--config", given, *as_flags(changes)], folder)
        rows[name] = measure(run, folder) | {"run": str(run)}
        write_whole(file, json.dumps({"settings": settings, "rows": rows}, indent=2))
    print(table(rows))
    return 0


if __name__ == "__main__":
    run_script(main)
