"""An evaluation as one self-contained page: no file beside it, nothing from the network."""

import base64
import io
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader
from PIL import Image

from utils.config import Config


def html_report(
    title: str,
    about: str,
    metrics: Mapping[str, float],
    kinds: Sequence[Mapping[str, object]],
    plots: Mapping[str, bytes],
    panels: Mapping[str, Sequence[Image.Image]],
    problems: Sequence[str],
    config: Config,
) -> str:
    """The page, made by report.html.j2.

    Args:
        title: its heading.
        about: a line below it: what was measured.
        metrics: as `measure` computes them, by name.
        kinds: rows of the table of kinds of defect, at least one; they share their keys.
        plots: PNG pictures of curves, by name.
        panels: pictures of the worst cases, by name: lowest_defective, highest_good.
        problems: what went wrong or is missing, such as images that were left out.
        config: settings of the run.
    """
    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
    )
    pages.filters |= {"base64": lambda content: base64.b64encode(content).decode(), "jpeg": _jpeg}
    return pages.get_template("report.html.j2").render(
        title=title,
        about=about,
        m=metrics,
        kinds=kinds,
        plots=plots,
        panels=panels,
        problems=problems,
        settings=yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False),
        made=f"{time.strftime('%Y-%m-%d %H:%M')}, Python {platform.python_version()}",
    )


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
