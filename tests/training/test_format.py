"""Runs and exports of the first stable format, as they were written: later programs read them."""

import json

import numpy as np
import pytest
import torch
import yaml
from fitted import detector

from inspection.onnx_inspector import OnnxInspector, write_model
from inspection.open_run import open_inspector
from training.checkpoint import load_checkpoint
from training.folders import FORMAT, run_config
from utils.config import config_from
from utils.errors import UserError

CONFIG = """
model: padim
seed: 0
device: auto
data: {root: data/mvtec, category: tile, size: [64, 64], resize: squash, region: null, tile: 0,
  limit: 0, depth: auto, max_megapixels: 178.0}
unet: {encoder: efficientnet_lite0, width: 32}
corruption: {kinds: [clean, stain, perlin, crack, cut_paste, remove, displace]}
loss: {l1: 1.0, ssim: 1.0, perceptual: 0.0, vgg16: null, focal: 20.0}
draem: {sharper: false}
backbone: {name: efficientnet_lite0, layers: [1, 2], weights: null}
patchcore: {paper: false, coreset: 0.1}
padim: {channels: 4}
patch_memory: {rotations: 1}
train: {epochs: 75, batch: 24, crop: 0, lr: 0.0001, micro_batch: auto, precision: auto, log: null}
score: {smooth: 0.0078, reduce: top1, least_area: 3}
calibration: {holdout: 0.1, false_alarms: 0.02, group: null}
"""
# Settings that came after it, with what they mean in it.
LATER_SETTINGS = {"data.mm_per_pixel": 0.0, "data.light": 0.0, "data.defects": None}
LATER_SETTINGS |= {"data.contaminated": 0.0}
CALIBRATION = {
    "threshold": 12.5, "median": 8.0, "pixel_threshold": 20.0, "low": 4.0, "high": 36.0,
    "false_alarms": 0.02, "scores": [7.0, 8.0, 9.0], "peaks": [9.0, 10.0, 11.0], "independent": 3,
    "by_hand": False, "digests": ["0a", "0b", "0c"],
}  # fmt: skip
LATER = {"auto": False, "views": [], "profile": {}}  # fields of a calibration, likewise
LEARNED = {
    "chosen": torch.arange(4),
    "count": torch.tensor(12),
    "mean": torch.zeros(256, 4),
    "whitening": torch.eye(4).expand(256, 4, 4).contiguous(),
}
CHECKPOINT = {
    "format": "visual-defect-detection",
    "version": 10,
    "good": {
        "names": ["tile/train/good/0.png", "tile/train/good/1.png", "/elsewhere/2.png"],
        "groups": [0, 1, 1], "folds": [0, 1, 1], "held_out": [False, False, False],
    },
    "optimizer": None,
    "progress": {"epoch": 0, "step": 0, "loss_sum": 0.0, "seconds": 0.0, "first_loss": 0.0,
                 "micro_batch": 0},
    "history": [],
    "calibrations": {"tile": CALIBRATION},
    "versions": {"python": "3.11.7", "torch": "2.9.0"},
}  # fmt: skip


def write(folder, config, **changes):
    """last.pt as it was written; the backbone, which is timm's, is taken as it is today."""
    state = detector("padim", **{"padim.channels": 4}).state_dict()
    backbone = {key: value for key, value in state.items() if key.startswith("backbone.")}
    content = CHECKPOINT | {"config": config, "model": backbone | LEARNED} | changes
    torch.save(content, folder / "last.pt")
    return folder / "last.pt"


def test_a_run_of_the_first_stable_format_is_opened(tmp_path):
    file = write(tmp_path, yaml.safe_load(CONFIG))
    checkpoint = load_checkpoint(file)
    assert checkpoint.config == config_from(yaml.safe_load(CONFIG) | LATER_SETTINGS)
    assert checkpoint.good.held_out == [False, False, False]
    inspector = open_inspector(file, "cpu")
    assert vars(inspector.calibrations["tile"]) == CALIBRATION | LATER
    image = np.random.default_rng(0).integers(0, 256, (80, 90, 3), np.uint8)
    features = inspector.detector.joined_features(torch.zeros(1, 3, 64, 64))
    assert features.shape[-2:] == (16, 16)
    assert inspector.inspect(image).score > 0


def test_settings_and_fields_that_came_later_take_their_defaults(tmp_path):
    config = yaml.safe_load(CONFIG)
    del config["score"]["least_area"], config["patch_memory"]
    calibration = {key: CALIBRATION[key] for key in CALIBRATION if key != "digests"}
    file = write(tmp_path, config, calibrations={"tile": calibration})
    inspector = open_inspector(file, "cpu")
    assert (inspector.config.score.least_area, inspector.config.patch_memory.rotations) == (0, 1)
    assert inspector.calibrations["tile"].digests == []
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert run_config(tmp_path) == inspector.config


@pytest.mark.parametrize(("version", "words"), [(9, "older version"), (11, "newer version")])
def test_other_formats_are_named(tmp_path, version, words):
    file = write(tmp_path, yaml.safe_load(CONFIG), version=version)
    with pytest.raises(UserError, match=f"{words} .format {version}, this one reads 10 to 10"):
        load_checkpoint(file)


def test_an_export_of_the_first_stable_format_is_opened(tmp_path):
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    def value(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    nodes = [
        helper.make_node("ReduceMean", ["images", "channels"], ["anomaly_map"], keepdims=1),
        helper.make_node("ReduceMax", ["anomaly_map", "all"], ["score"], keepdims=0),
    ]
    axes = [
        onnx.numpy_helper.from_array(np.array([1]), "channels"),
        onnx.numpy_helper.from_array(np.array([1, 2, 3]), "all"),
    ]
    outputs = [value("anomaly_map", "batch", 1, 64, 64), value("score", "batch")]
    graph = helper.make_graph(nodes, "g", [value("images", "batch", 3, 64, 64)], outputs, axes)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    about = {
        "format": FORMAT, "version": "7", "model": "padim", "category": "tile", "size": "[64, 64]",
        "thresholds": json.dumps({"tile": 12.5}), "calibrations": json.dumps({"tile": CALIBRATION}),
        "config": json.dumps(yaml.safe_load(CONFIG)), "versions": "{}",
    }  # fmt: skip
    write_model(model, about, tmp_path / "tile.onnx")
    inspector = OnnxInspector(tmp_path / "tile.onnx", "cpu")
    assert inspector.config == config_from(yaml.safe_load(CONFIG) | LATER_SETTINGS)
    assert vars(inspector.calibrations["tile"]) == CALIBRATION | LATER
    assert inspector.inspect(np.full((64, 64, 3), 255, np.uint8)).score == pytest.approx(1)
