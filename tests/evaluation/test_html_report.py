import re

import numpy as np
from conftest import run_script
from PIL import Image

from evaluation.report import html_report
from utils.config import load_config

NAN = float("nan")
METRICS = {
    "image_auroc": 0.9, "image_auroc_low": 0.8, "image_auroc_high": 0.95, "pixel_auroc": NAN,
    "pixel_ap": NAN, "aupro_0.3": NAN, "aupro_0.05": NAN, "f1": 0.5, "oracle_f1": 0.55,
    "recall": 0.25, "threshold": 3.5, "false_alarms": 0.05, "false_alarms_promised": 0.02,
    "good_called_defective": 1, "good_images": 20, "defects_found": 2, "defective_images": 8,
}  # fmt: skip


def test_names_cannot_break_the_page():
    panels = {"highest_good": [Image.fromarray(np.zeros((8, 8, 3), np.uint8))]}
    kinds = [{"kind": "<script>alert(1)</script>", "images": 1}]
    metrics = METRICS | {"auroc_<i>": 0.5}
    page = html_report(
        "a & b", "<i>", metrics, kinds, {}, panels, ["left out: <b>.png"], load_config()
    ).decode()
    assert "<script" not in page and "<i>" not in page and "<b>.png" not in page
    assert "&lt;script&gt;" in page and "a &amp; b" in page


def test_what_is_undefined_is_excluded():
    page = html_report("", "", METRICS, [{"kind": "oil"}], {}, {}, [], load_config()).decode()
    assert "false alarms<b>5.0%</b>" in page
    assert "1 of 20 good parts, promised 2%" in page
    assert "AUPRO to" not in page and "Notes" not in page
    assert not re.search(r"\bnan\b", page)


def test_eval_writes_one_page_that_needs_nothing_else(trained, dataset):
    folder, run, _ = trained
    result = run_script("eval.py", "--checkpoint", run, "--html", "--output", "page", cwd=folder)
    assert result.returncode == 0, result.stderr
    page = (folder / "page/report.html").read_text(encoding="utf-8")
    auroc = re.search(r"IMAGE AUROC +([\d.]+)", result.stdout)[1]
    assert f"image AUROC<b>{float(auroc):.3f}</b>" in page
    kinds = [path.name for path in (dataset / "tile/test").iterdir()]
    assert all(f"<td>{kind}</td>" in page for kind in kinds)
    sources = re.findall(r'(?:src|href)="([^"]*)', page)
    assert len(sources) == 2 + 4 + 3  # curves, defective and good parts
    assert all(source.startswith("data:image/") for source in sources)
    assert not re.search(r"url\(|@import|<link|<script", page)
    assert "unet.width" not in page and "width: 4" in page  # the settings of the run
