"""An evaluation as one self-contained page: no file beside it, nothing from the network."""

import base64
import html
import io
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from PIL import Image

from utils.config import Config

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1f2328; margin: 0 auto; max-width: 70rem;
       padding: 1rem 1.25rem 3rem; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: .5rem 0 0; }
h2 { font-size: 1.15rem; margin: 2.25rem 0 .5rem; border-bottom: 1px solid #d0d7de; }
.about, .note { color: #59636e; overflow-wrap: anywhere; }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr));
           gap: .75rem; margin: 1.25rem 0; }
.figure { border: 1px solid #d0d7de; border-radius: .5rem; padding: .6rem .8rem; }
.figure b { display: block; font-size: 1.5rem; line-height: 1.3; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; }
th, td { text-align: left; padding: .3rem 1.25rem .3rem 0; border-bottom: 1px solid #d0d7de;
         white-space: nowrap; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; align-items: flex-start; }
.plots img { flex: 0 1 auto; min-width: 0; max-width: min(100%, 32rem); }
.panel img { width: 100%; min-width: 52rem; display: block; margin-bottom: .5rem; }
pre { background: #f6f8fa; border-radius: .5rem; padding: .8rem; overflow-x: auto;
      font-size: .85rem; }
@media print { .panel, .figure, tr { break-inside: avoid; } .panel img { min-width: 0; } }
"""


def html_report(
    title: str,
    about: str,
    metrics: Mapping[str, float],
    defects: Sequence[Mapping[str, object]],
    plots: Sequence[Path],
    panels: Mapping[str, Sequence[Image.Image]],
    problems: Sequence[str],
    config: Config,
) -> str:
    """The page.

    Args:
        title: its heading.
        about: a line below it: what was measured.
        metrics: as eval.py computes them, by name.
        defects: rows of the table of defects, which share their keys.
        plots: PNG files of curves; those that do not exist are left out.
        panels: pictures of the worst cases, by heading.
        problems: what went wrong, such as images that were left out.
        config: settings of the run.
    """
    m = metrics
    figures = {
        "image AUROC": (f"{m['image_auroc']:.3f}", _interval(m)),
        "pixel AUROC": (f"{m['pixel_auroc']:.3f}", f"pixel AP {m['pixel_ap']:.3f}"),
        "AUPRO to 0.3": (f"{m['aupro_0.3']:.3f}", f"to 0.05: {m['aupro_0.05']:.3f}"),
        "F1 at the threshold": (f"{m['f1']:.3f}", f"best possible (oracle) {m['oracle_f1']:.3f}"),
        "defective parts found": (f"{m['recall']:.1%}", f"of {m['defective_images']}"),
        "defect verdicts right": (f"{m['precision']:.1%}", f"threshold {m['threshold']:.4g}"),
    }
    tiles = "".join(
        f'<div class="figure">{html.escape(name)}<b>{html.escape(value)}</b>'
        f'<span class="note">{html.escape(note)}</span></div>'
        for name, (value, note) in figures.items()
    )
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        f'<div class="about">{html.escape(about)}</div>',
        f'<div class="figures">{tiles}</div>',
    ]
    if problems:
        lines = "".join(f"<li>{html.escape(problem)}</li>" for problem in problems)
        parts.append(f"<h2>Left out</h2><ul>{lines}</ul>")
    parts.append("<h2>By kind of defect</h2>" + _table(defects))
    drawn = "".join(
        f'<img alt="{html.escape(plot.stem)}" src="{_data_uri(plot.read_bytes(), "png")}">'
        for plot in plots
        if plot.exists()
    )
    parts.append(f'<h2>Curves</h2><div class="plots">{drawn}</div>')
    for heading, pictures in panels.items():
        shown = "".join(
            f'<img alt="{html.escape(heading)}" src="{_data_uri(_jpeg(picture), "jpeg")}">'
            for picture in pictures
        )
        parts.append(f'<h2>{html.escape(heading)}</h2><div class="scroll panel">{shown}</div>')
    every = [{"metric": name, "value": f"{value:.6g}"} for name, value in metrics.items()]
    parts.append("<h2>All figures</h2>" + _table(every))
    settings = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)
    parts.append(f"<h2>Settings of the run</h2><pre>{html.escape(settings)}</pre>")
    made = f"{time.strftime('%Y-%m-%d %H:%M')}, Python {platform.python_version()}"
    parts.append(f'<p class="note">Written {made}</p>')
    body = "\n".join(parts)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body>{body}</body></html>\n"
    )


def _interval(metrics: Mapping[str, float]) -> str:
    low, high = metrics["image_auroc_low"], metrics["image_auroc_high"]
    return f"95% interval {low:.3f} to {high:.3f}"


def _table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows that share their keys as a table; all columns but the first hold numbers."""
    if not rows:
        return '<p class="note">none</p>'

    def line(cells: list[str], tag: str) -> str:
        first, *rest = (html.escape(cell) for cell in cells)
        numbers = "".join(f'<{tag} class="number">{cell}</{tag}>' for cell in rest)
        return f"<tr><{tag}>{first}</{tag}>{numbers}</tr>"

    lines = [line(list(rows[0]), "th")]
    lines += [line([str(value) for value in row.values()], "td") for row in rows]
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
