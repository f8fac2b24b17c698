import pytest
import torch

from models import DETECTORS, build_model
from models.detector import TrainedDetector
from tests.models.pretend_gpu import CUDA, OnGPU, PretendGPU, move
from utils.config import load_config


class OneFold:
    def __init__(self, number, batch):
        self.number, self.batch = number, batch
        self.held_out = self.scored = self

    def __iter__(self):
        return iter([self.batch])

    def __len__(self):
        return 1


@pytest.mark.parametrize("name", DETECTORS)
def test_a_detector_never_mixes_tensors_of_two_devices(name, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (2**34, 2**34))
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: None)
    small = (
        {"backbone.name": "vit_tiny_patch16_224"} if name in ("dinomaly", "patch_memory") else {}
    )
    model = build_model(load_config(overrides={"model": name, "data.size": 64, **small}))
    with PretendGPU(), torch.no_grad():
        move(model)
        batches = [torch.rand(2, 3, 64, 64, device=CUDA) for _ in range(2)]
        if isinstance(model, TrainedDetector):
            model.train()
            assert isinstance(model.loss(*model.prepare(batches[0])), OnGPU)
        else:
            for fold, batch in enumerate(batches):
                model.collect(batch, fold)
        folds = [OneFold(*pair) for pair in enumerate(batches)]
        model.eval().finish(folds)
        with model.without(folds[1]):
            assert isinstance(model(batches[1]).score, OnGPU)
        assert all(isinstance(value, OnGPU) for value in model.state_dict().values())
