"""Writing a detector as one ONNX file: RGB in [0, 1] in; map, score and reconstruction out."""

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from inspection.inspector import Inspector
from inspection.onnx_inspector import VERSION, as_input, described, write_model
from inspection.threshold import Calibration
from models.detector import Detector
from training.folders import FORMAT
from utils.errors import UserError
from utils.optional_packages import need

OUTPUTS = ["anomaly_map", "score", "reconstruction"]
MAX_GIB = 2.0  # a protobuf, and so an ONNX file, holds no more


class _Outputs(nn.Module):
    """A detector whose prediction is a plain tuple, without a missing reconstruction."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return tuple(output for output in self.detector(images) if output is not None)


@torch.no_grad()
def write_onnx(detector: Detector, file: Path) -> None:
    """Write the graph of a detector in evaluation mode, for batches of any length.

    Args:
        detector: on the CPU.
        file: where to write.

    Raises:
        UserError: if onnx or onnxscript is not installed, or the detector is too large for a file.
    """
    # Before the export, which takes a minute: need() names the requirements file of a missing one.
    need("onnx")
    need("onnxscript")
    gib = sum(tensor.nbytes for tensor in detector.state_dict().values()) / 2**30
    if gib > MAX_GIB:
        raise UserError(
            f"the detector takes {gib:.1f} GiB and an ONNX file holds at most {MAX_GIB:g}; "
            "train one with a lower --size or, for padim, fewer padim.channels"
        )
    example = torch.rand(2, 3, *detector.config.data.size)  # 2: a batch of 1 would become fixed
    # A graph has a fixed number of outputs; detectors without a reconstruction have two.
    count = sum(output is not None for output in detector(example))
    with _quiet():
        torch.onnx.export(
            _Outputs(detector),
            (example,),
            str(file),
            input_names=["images"],
            output_names=OUTPUTS[:count],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,  # the older exporter traces, and would fix loops at their first length
            external_data=False,  # one file: weights beside it would be forgotten when copied
            verbose=False,
        )


def write_metadata(file: Path, run: Inspector, calibrations: dict[str, Calibration]) -> None:
    """Add to the file the settings of a run, calibrations, versions and a digest."""
    onnx = need("onnx")
    config = run.config
    # Most entries are for people and other programs; `OnnxInspector` reads config and calibrations.
    about = {
        "format": FORMAT,
        "version": str(VERSION),
        "model": config.model,
        "category": config.data.category,
        "size": json.dumps(config.data.size),
        **described(calibrations),
        "config": config.model_dump_json(),
        "known_defects": json.dumps(run.known_defects),
        "versions": json.dumps({"torch": str(torch.__version__), "onnx": onnx.__version__}),
    }
    write_model(onnx.load(str(file)), about, file)


def write_half(source: Path, file: Path) -> None:
    """Write the graph with weights and sums in float16; inputs and outputs stay float32."""
    onnx = need("onnx")
    # keep_io_types: whoever runs the file feeds and reads float32, as of the whole one
    from onnxruntime.transformers.float16 import convert_float_to_float16

    with _quiet():
        onnx.save(convert_float_to_float16(onnx.load(str(source)), keep_io_types=True), str(file))


def write_int8(source: Path, file: Path, images: Iterator[np.ndarray]) -> None:
    """Write the graph with the convolutions of its networks in 8 bits (static quantisation).

    The rest, from their outputs to the map, stays float32: an anomaly is a small difference.

    Args:
        source: a file of `write_onnx`.
        file: where to write.
        images: good images, uint8 [h, w, 3], that set the range of the activations.
    """
    onnx = need("onnx")
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Reader(CalibrationDataReader):
        def get_next(self) -> dict[str, np.ndarray] | None:
            image = next(images, None)
            return None if image is None else {"images": as_input(image[None])}

    # Blurs of the map are convolutions too; their weights are constants, not the detector's.
    learned = [
        node.name
        for node in onnx.load(str(source)).graph.node
        if node.op_type in ("Conv", "ConvTranspose") and node.input[1].startswith("detector.")
    ]
    with _quiet():
        quantize_static(
            # per_channel: a scale for each filter, whose ranges differ by orders of magnitude
            str(source),
            str(file),
            Reader(),
            nodes_to_quantize=learned,
            per_channel=True,
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the converters, which report their progress; errors are raised all the same."""
    # Of every logger: torch and onnxruntime report through several of their own.
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
