import re

import numpy as np
from conftest import run_script
from PIL import Image

from inspection.html_report import html_report
from utils.config import load_config

METRICS = {
    "image_auroc": 0.9, "image_auroc_low": 0.8, "image_auroc_high": 0.95, "pixel_auroc": 0.7,
    "pixel_ap": 0.3, "aupro_0.3": 0.6, "aupro_0.05": 0.4, "f1": 0.5, "oracle_f1": 0.55,
    "recall": 0.25, "precision": 1.0, "threshold": 3.5, "defective_images": 8,
}  # fmt: skip


def test_names_cannot_break_the_page():
    panel = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
    rows = [{"kind": "<script>alert(1)</script>", "images": 1}]
    page = html_report(
        "a & b", "<i>", METRICS, rows, [], {"x": [panel]}, ["left out: <b>.png"], load_config()
    )
    assert "<script" not in page and "<i>" not in page and "<b>.png" not in page
    assert "&lt;script&gt;" in page and "a &amp; b" in page


def test_eval_writes_one_page_that_needs_nothing_else(trained, dataset):
    folder, run, _ = trained
    result = run_script("eval.py", "--checkpoint", run, "--html", "--output", "page", cwd=folder)
    assert result.returncode == 0, result.stderr
    page = (folder / "page/report.html").read_text()
    auroc = re.search(r"IMAGE AUROC +([\d.]+)", result.stdout)[1]
    assert f"image AUROC<b>{float(auroc):.3f}</b>" in page
    kinds = [path.name for path in (dataset / "tile/test").iterdir()]
    assert all(f"<td>{kind}</td>" in page for kind in kinds)
    sources = re.findall(r'(?:src|href)="([^"]*)', page)
    assert len(sources) == 2 + 4 + 3  # curves, defective and good parts
    assert all(source.startswith("data:image/") for source in sources)
    assert "http" not in page and "url(" not in page
    assert "unet.width" not in page and "width: 4" in page  # the settings of the run
