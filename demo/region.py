"""A tab to paint the region of interest: the mask that `data.region` takes in training."""

import tempfile
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from PIL import Image
from scipy.ndimage import binary_fill_holes

from data.region import LEAST
from demo.banner import banner

HOW = (
    "Drop an image, and paint over what is to be learned and inspected, or around it: an outline "
    "is filled. The mask is for a new training, in which it holds for all images."
)


def painted(value: dict[str, Any]) -> np.ndarray:
    """What was painted, and what it encloses, of a value of the editor: bool [H, W]."""
    layers = [layer[..., 3] > 0 for layer in value["layers"]]
    return binary_fill_holes(np.any(layers, axis=0))


def lay_out_region(folder: Path) -> None:
    """Lay the tab out; masks are written below the folder."""

    def write(value: dict[str, Any]) -> tuple[str, Any]:
        mask = painted(value) if value["background"] is not None else np.zeros(1, bool)
        if mask.mean() < LEAST:
            too_little = f"paint over {LEAST:.0%} of an image at least"
            return banner("error", "", too_little), gr.update(visible=False)
        file = Path(tempfile.mkdtemp(dir=folder)) / "region.png"
        Image.fromarray(mask).save(file)
        text = f"of the image; then: python train.py --set data.region={file.name}"
        return (
            banner("plain", f"{mask.mean():.0%}", text),
            gr.update(value=str(file), visible=True),
        )

    gr.Markdown(HOW)
    canvas = gr.ImageMask(
        label="Region",
        sources=["upload"],
        transforms=(),
        brush=gr.Brush(colors=[("#3b82f6", 0.5)], color_mode="fixed"),
        elem_id="canvas",
    )
    with gr.Row():
        make = gr.Button("Make the mask", size="sm", elem_id="make")
        mask = gr.DownloadButton("Download it", size="sm", visible=False, elem_id="mask")
    said = gr.HTML(elem_id="region")
    make.click(write, canvas, [said, mask])
