import json
import subprocess
import sys

import pytest
import torch
from conftest import REPO, TINY, run_script


@pytest.mark.parametrize("batch", [4, 9])  # 10 images: a last step of two, and of a single one
def test_two_processes_train_the_same_model(tmp_path, dataset, batch):
    alone, together = tmp_path / "alone", tmp_path / "together"
    alone.mkdir()
    together.mkdir()
    flags = ["--data-root", str(dataset), *TINY, "--epochs", "2", "--device", "cpu"]
    flags += ["--batch", str(batch), "--set", "train.micro_batch=2", "--set", "unet.norm=none"]
    flags += [
        "--set",
        "corruption=none",
        "--set",
        "unet.residual=false",
    ]  # each process draws corruption of its own
    assert run_script("train.py", *flags, cwd=alone).returncode == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run(
        [*launch, str(REPO / "train.py"), *flags],
        cwd=together,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr
    (run,) = (together / "checkpoints").iterdir()
    (reference,) = (alone / "checkpoints").iterdir()
    first, second = (torch.load(folder / "last.pt") for folder in (reference, run))
    for key in first["model"]:
        assert torch.allclose(first["model"][key], second["model"][key], atol=2e-5), key
    for one, two in zip(first["history"], second["history"], strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
    assert result.stdout.count("epoch 2/2") == 1  # one process prints and writes
    assert run_script("eval.py", cwd=together).returncode == 0
    (metrics,) = together.glob("outputs/*/eval/metrics.json")
    assert 0 <= json.loads(metrics.read_text())["image_auroc"] <= 1
