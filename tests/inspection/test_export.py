import json
import os
import re
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import REPO, assert_one_line, run_script
from fitted import fitted, in_folds, known
from PIL import Image

import export
from data.images import read_image
from inspection import onnx_export
from inspection.onnx_inspector import OnnxInspector, write_model
from models import build_model
from utils.config import load_config
from utils.errors import UserError

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
onnxruntime = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def exported(tmp_path_factory, trained):
    """A copy of a run and its export: (folder, run, file, output of export.py)."""
    folder = tmp_path_factory.mktemp("export")
    run = folder / "checkpoints" / trained[1].name
    shutil.copytree(trained[1], run)
    result = run_script("export.py", "--checkpoint", run, cwd=folder)
    assert result.returncode == 0, result.stderr
    return folder, run, run / f"{run.name}.onnx", result.stdout


def clouds(count, seed=0):
    coarse = torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")


def network(model, **overrides):
    """A small network whose batch normalisation has taken its statistics."""
    torch.manual_seed(0)
    settings = {"model": model, "data.size": 64, "unet.width": 4}
    detector = build_model(load_config(overrides=settings | overrides))
    if model == "unet":  # whose weights are installed; others are as good at random here
        detector.load_pretrained()
    with torch.no_grad():
        for _ in range(20):
            detector.train().loss(*detector.prepare(clouds(4, seed=2)))
        detector.eval().finish(in_folds(clouds(4, seed=2), clouds(4, seed=1)))
    return detector


DETECTORS = {
    "unet": lambda: network("unet"),
    "unet from scratch": lambda: network("unet", **{"unet.encoder": "scratch"}),
    "draem": lambda: network("draem"),
    "dinomaly": lambda: network(
        "dinomaly",
        **{
            "backbone.name": "vit_tiny_patch16_224",
            "backbone.layers": [0, 1],
        },
    ),
    "patchcore": lambda: fitted("patchcore", clouds(12)),
    "patchcore with known defects": lambda: fitted(
        "patchcore", clouds(12), defects=known(clouds(3, seed=5).square())
    ),
    "patchcore as in the paper": lambda: fitted(
        "patchcore",
        clouds(12),
        **{"patchcore.paper": True},
    ),
    "padim": lambda: fitted("padim", clouds(12)),
    "patch_memory": lambda: fitted("patch_memory", clouds(12)),
    "fastflow": lambda: network("fastflow"),
}


@pytest.mark.parametrize("name", DETECTORS)
def test_the_graph_equals_its_model_at_any_batch(name, tmp_path, monkeypatch):
    monkeypatch.setattr("models.memory_bank.GRAPH_ENTRIES", 64)  # several blocks of a small bank
    detector = DETECTORS[name]()
    onnx_export.write_onnx(detector, tmp_path / "graph.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "graph.onnx"))
    for count in (1, 3):
        images = clouds(count, seed=count)
        with torch.no_grad():
            expected = [output for output in detector(images) if output is not None]
        outputs = session.run(None, {"images": images.numpy()})
        assert [output.name for output in session.get_outputs()] == (
            ["anomaly_map", "score", "reconstruction"][: len(expected)]
        )
        for output, wanted in zip(outputs, expected, strict=True):
            difference = np.abs(output - wanted.numpy()).max()
            assert difference <= 1e-4 * wanted.abs().max()


def test_the_file_alone_gives_the_same_verdicts_and_files(exported, dataset):
    folder, run, file, output = exported
    assert "map within" in output
    images = sorted((dataset / "tile/test").glob("*/*.png"))
    by_name = {}
    for checkpoint in (run, file):
        result = run_script(
            "infer.py", "--checkpoint", checkpoint, "--output", f"by_{checkpoint.suffix}", *images,
            cwd=folder,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        lines = (folder / f"by_{checkpoint.suffix}/results.jsonl").read_text().splitlines()
        results = [json.loads(line) for line in lines]
        panels = sorted(
            path.relative_to(folder / f"by_{checkpoint.suffix}")
            for path in (folder / f"by_{checkpoint.suffix}").rglob("*.png")
        )
        by_name[checkpoint.suffix] = (results, panels)
    (ours, our_panels), (theirs, their_panels) = by_name[".onnx"], by_name[""]
    assert our_panels == their_panels
    assert len(ours) == len(images)
    for one, other in zip(ours, theirs, strict=True):
        assert one["verdict"] == other["verdict"]
        assert one["threshold"] == other["threshold"]
        assert one["score"] == pytest.approx(other["score"], rel=1e-4)


def test_eval_measures_an_export(exported, dataset):
    folder, run, file, _ = exported
    for checkpoint in (run, file):
        result = run_script("eval.py", "--checkpoint", checkpoint, "--output", "e", cwd=folder)
        assert result.returncode == 0, result.stderr
        metrics = json.loads((folder / "e/metrics.json").read_text())
        if checkpoint == run:
            expected = metrics
    for name in ("image_auroc", "pixel_auroc", "aupro_0.3", "f1"):
        assert metrics[name] == pytest.approx(expected[name], abs=1e-3)


def test_an_export_inspects_batches(exported, dataset):
    file = exported[2]
    images = [read_image(path) for path in sorted((dataset / "tile/test/oil").glob("*.png"))]
    images.append(images[0][:40])  # of another size
    batch = OnnxInspector(file, "cpu", len(images)).inspect_all(enumerate(images))
    alone = OnnxInspector(file, "cpu", "auto")
    for number, found in batch:
        one = alone.inspect(images[number])
        largest = np.abs(one.anomaly_map).max()
        assert np.abs(found.anomaly_map - one.anomaly_map).max() <= 1e-5 * largest
        assert found.score == pytest.approx(one.score, rel=1e-5)
        assert np.abs(found.reconstruction.astype(int) - one.reconstruction).max() <= 1


INSTALLS = re.findall(r"^pip install (.+)$", (REPO / "docs/deployment.md").read_text("utf-8"), re.M)
"""Packages that the page on deployment names: for infer.py, and further ones for eval.py."""

ONLY = """
import importlib.metadata, re, runpy, sys

def with_needs(names, found):
    for name in names:
        name = re.sub("[-_.]+", "-", name).lower()
        if name not in found:
            try:
                needs = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:  # of another system
                continue
            found.add(name)
            needs = [need for need in needs if "extra ==" not in need]
            with_needs([re.match("[\\w.-]+", need)[0] for need in needs], found)
    return found

there = with_needs(sys.argv[1].split(), set())
others = {
    name for name, packages in importlib.metadata.packages_distributions().items()
    if not {re.sub("[-_.]+", "-", one).lower() for one in packages} & there
}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in others:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

assert "torch" in others and "numpy" not in others
sys.meta_path.insert(0, Missing())
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.parametrize(
    ("script", "packages"),
    [("infer.py", INSTALLS[:1]), ("stream.py", INSTALLS[:1]), ("eval.py", INSTALLS[:2]),
     ("calibrate.py", INSTALLS[:2])],
)  # fmt: skip
def test_a_machine_needs_what_the_page_names_and_no_torch(
    script, packages, exported, dataset, tmp_path
):
    file = shutil.copy(exported[2], tmp_path / "tile.onnx")
    good = dataset / "tile/test/good"
    flags = {
        "infer.py": ["--checkpoint", file, good],
        "stream.py": ["--checkpoint", file, "--watch", good, "--frames", "2", "--panels"],
        "eval.py": ["--checkpoint", file, "--data-root", dataset, "--html"],
        "calibrate.py": [file, "--good", good, "--false-alarms", "0.05"],
    }[script]
    command = [sys.executable, "-c", ONLY, " ".join(packages), str(REPO / script), *map(str, flags)]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(REPO)}
    )
    assert result.returncode == 0, result.stderr
    assert {"eval.py": "IMAGE AUROC", "calibrate.py": "after:"}.get(script, "defective") in (
        result.stdout
    )


def test_a_package_that_is_missing_is_one_line(exported, tmp_path):
    command = [sys.executable, "-c", ONLY, INSTALLS[0], str(REPO / "infer.py"), "--checkpoint"]
    command += [str(exported[1]), str(REPO / "docs/panel.jpg")]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, env={"PYTHONPATH": str(REPO)}
    )
    assert_one_line(result, "the package torch is not installed", "pip install")


@pytest.mark.parametrize("kind", ["half", "int8"])
def test_smaller_files_say_what_they_cost(exported, kind, monkeypatch):
    folder, run, whole, _ = exported
    monkeypatch.setattr(onnx_export, "write_onnx", lambda _, file: shutil.copy(whole, file))
    result = run_script("export.py", "--checkpoint", run, f"--{kind}", cwd=folder)
    assert result.returncode == 0, result.stderr
    file = run / f"{run.name}-{kind}.onnx"
    if kind == "half":  # 8 bits save nothing where there are few weights to save on
        assert file.stat().st_size < whole.stat().st_size
    assert f"in {kind}" in result.stdout and "image AUROC" in result.stdout
    types = {weights.data_type for weights in onnx.load(str(file)).graph.initializer}
    wanted = {"half": onnx.TensorProto.FLOAT16, "int8": onnx.TensorProto.INT8}[kind]
    assert wanted in types
    # Its thresholds are its own: those of the held-out good images as it sees them.
    compact, full = (OnnxInspector(one, "cpu").calibrations["tile"] for one in (file, whole))
    assert compact.scores != full.scores
    assert compact.profile == full.profile != {}


def test_an_export_that_differs_is_not_kept(exported, tmp_path, monkeypatch):
    _, run, whole, _ = exported

    def write_another(detector, file):
        graph = onnx.load(str(whole))
        (head,) = (w for w in graph.graph.initializer if w.name.endswith("head.weight"))
        changed = onnx.numpy_helper.to_array(head) + 0.1
        head.CopyFrom(onnx.numpy_helper.from_array(changed, head.name))
        onnx.save(graph, str(file))

    monkeypatch.setattr(onnx_export, "write_onnx", write_another)
    monkeypatch.setattr(
        sys, "argv", ["export.py", "--checkpoint", str(run), "--output", str(tmp_path / "x.onnx")]
    )
    with pytest.raises(UserError, match="not kept"):
        export.main()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="sends signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_no_file(exported, tmp_path, monkeypatch, number):
    def ended(detector, file):
        file.touch()
        signal.raise_signal(number)

    monkeypatch.setattr(onnx_export, "write_onnx", ended)
    flags = ["--checkpoint", exported[1], "--output", tmp_path / "x.onnx"]
    result = run_script("export.py", *flags, cwd=exported[0])
    assert_one_line(result, "interrupted", status=128 + number)
    assert list(tmp_path.iterdir()) == []


def test_an_export_replaces_exports_alone(exported, tmp_path):
    export.check_output(exported[2])
    export.check_output(tmp_path / "new.onnx")
    (tmp_path / "mine.onnx").touch()
    (tmp_path / "folder.onnx").mkdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    for name in ("mine.onnx", "folder.onnx", "pipe.onnx"):
        with pytest.raises(UserError, match=f"{name} is none of export.py"):
            export.check_output(tmp_path / name)
    with pytest.raises(UserError, match="should end in .onnx"):
        export.check_output(exported[1] / "last.pt")


def test_foreign_files_are_one_line(tmp_path, dataset):
    image = next((dataset / "tile/test/good").glob("*.png"))
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    other = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Identity", ["x"], ["y"])],
            "other",
            [onnx.helper.make_tensor_value_info("x", 1, [1])],
            [onnx.helper.make_tensor_value_info("y", 1, [1])],
        ),
        ir_version=8,
        opset_imports=[onnx.helper.make_opsetid("", 17)],
    )
    onnx.save(other, str(tmp_path / "other.onnx"))
    for name, words in {"broken.onnx": "cannot be run", "other.onnx": "export.py"}.items():
        result = run_script("infer.py", "--checkpoint", name, image, cwd=tmp_path)
        assert_one_line(result, name, words)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("version", None),
        ("version", "x"),
        ("config", "[]"),
        ("config", "[" * 100_000),
        ("calibrations", '{"tile": {"threshold": "x"}}'),
        ("calibrations", "{"),
        ("calibrations", "[" * 100_000),
        ("former_calibrations", "[" * 100_000),
        ("former_calibrations", "1"),
        ("size", None),
    ],
)
def test_metadata_that_are_not_ours_end_in_one_line(exported, tmp_path, key, value):
    model = onnx.load(str(exported[2]))
    about = {prop.key: prop.value for prop in model.metadata_props}
    if key == "size":
        config = json.loads(about["config"])
        config["data"]["size"] = [96, 64]
        about["config"] = json.dumps(config)
    else:
        about[key] = value
    about = {k: v for k, v in about.items() if v is not None}
    write_model(model, about, tmp_path / "tampered.onnx")  # sealed again
    with pytest.raises(UserError, match="tampered.onnx") as caught:
        OnnxInspector(tmp_path / "tampered.onnx", "cpu")
    assert "\n" not in str(caught.value)


def test_a_flipped_bit_in_an_export_is_noticed(exported, tmp_path):
    content = exported[2].read_bytes()
    (head,) = (w for w in onnx.load(str(exported[2])).graph.initializer if "head.weight" in w.name)
    place = content.index(head.raw_data)
    flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    (tmp_path / "flipped.onnx").write_bytes(flipped)
    with pytest.raises(UserError, match="flipped.onnx is damaged"):
        OnnxInspector(tmp_path / "flipped.onnx", "cpu")


def test_an_export_does_not_run_on_the_cpu_where_a_gpu_was_asked_for(exported, monkeypatch):
    names = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    with pytest.raises(UserError, match="no device cuda:1 here"):
        OnnxInspector(exported[2], "cuda:1")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: names)
    assert OnnxInspector(exported[2], "auto").session.get_providers() == names[1:]
    with pytest.raises(UserError, match="cannot start CUDA"):
        OnnxInspector(exported[2], "cuda")


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UserError, match=r"onnxscript.*requirements-deploy\.txt"):
        onnx_export.write_onnx(None, tmp_path / "x.onnx")


def test_input_of_the_graph_is_that_of_the_checkpoint():
    from data.tensors import to_batch
    from inspection.onnx_inspector import as_input

    images = np.stack([Image.effect_noise((20, 12), 90).convert("RGB") for _ in range(2)])
    assert np.array_equal(as_input(images), to_batch(images, torch.device("cpu")).numpy())
