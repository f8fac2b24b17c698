"""Tiles, and images fitted into the frame, on the whole way: from training to every script."""

import json

import numpy as np
import pytest
from conftest import run_script
from PIL import Image

from data.images import read_image
from demo.detectors import Detectors
from inspection.open_run import open_inspector
from inspection.panel import pictures_of, whole_overlay

pytest.importorskip("onnxscript")

FLAGS = ["--model", "patchcore", "--size", "64", "--set", "patchcore.coreset=0.05"]


@pytest.fixture(scope="module")
def oblong(tmp_path_factory, dataset):
    """A root whose images, and masks, are 80x56."""
    root = tmp_path_factory.mktemp("oblong")
    for path in dataset.rglob("*.png"):
        copy = root / path.relative_to(dataset)
        copy.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).crop((0, 0, 56, 80)).save(copy)
    return root


@pytest.fixture(scope="module", params=["data.tile=40", "data.resize=pad", "data.resize=crop"])
def work(request, tmp_path_factory, oblong):
    """A working folder with a run and its export: (folder, run, file)."""
    folder = tmp_path_factory.mktemp("work")
    flags = ["--data-root", oblong, *FLAGS, "--set", request.param]
    result = run_script("train.py", *flags, cwd=folder)
    assert result.returncode == 0, result.stderr
    (run,) = (folder / "checkpoints").iterdir()
    result = run_script("export.py", cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, run, run / f"{run.name}.onnx"


def test_an_export_sees_many_tiles_at_once_as_the_checkpoint_sees_each(work, oblong):
    _, run, file = work
    image = read_image(next((oblong / "tile/test/oil").glob("*.png")))
    one, other = open_inspector(run / "last.pt", "cpu", batch=1), open_inspector(file, "cpu")
    assert other.batch == (256 if other.config.data.tile else 1)
    expected, found = (inspector.inspect(image) for inspector in (one, other))
    difference = np.abs(found.anomaly_map - expected.anomaly_map).max()
    assert difference <= 1e-4 * np.abs(expected.anomaly_map).max()
    assert found.score == pytest.approx(expected.score, rel=1e-4)


def test_every_script_says_the_same_of_an_image(work, oblong):
    folder, run, file = work
    parts = oblong / "tile/test/oil"
    inspector = open_inspector(run / "last.pt", "cpu")
    (calibration,) = inspector.calibrations.values()
    paths = sorted(parts.glob("*.png"))
    expected = [inspector.inspect(read_image(path)).score for path in paths]
    for number, checkpoint in enumerate((run / "last.pt", file)):
        output = folder / f"seen-{number}"
        flags = ["--checkpoint", checkpoint, "--output", output]
        result = run_script(
            "stream.py", "--watch", parts, *flags, "--frames", len(paths), "--panels", cwd=folder
        )
        assert result.returncode == 0, result.stderr
        (log,) = output.glob("verdicts-*.jsonl")
        lines = map(json.loads, log.read_text().splitlines())
        scores = {line["path"]: line["score"] for line in lines}
        assert [scores[str(path)] for path in paths] == pytest.approx(expected, rel=1e-4)
        found = Detectors("cpu").inspect(
            str(run / "last.pt") if not number else str(file), paths[0]
        )
        assert found.score == pytest.approx(expected[0], rel=1e-4)
        assert pictures_of(found, calibration, 64)["overlay"].height <= 64
        drawn = whole_overlay(read_image(paths[0]), found, calibration)
        assert drawn.shape == (80, 56, 3)


def test_synthesised_defects_are_told(work):
    folder, run, _ = work
    result = run_script("eval.py", "--checkpoint", run, "--synthetic", cwd=folder)
    assert result.returncode == 0, result.stderr
    assert "pixel AUROC" in result.stdout
