import json
import os
import subprocess
import sys
import textwrap

import torch
from conftest import REPO, TINY, run_script

LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def launched(script, *arguments, cwd):
    """Run a script in two processes."""
    command = [*LAUNCH, str(script), *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=300)


def test_two_processes_train_one_model(tmp_path, dataset):
    # 10 images in batches of 9: the last step has one image, and one process none at all.
    flags = ["--data-root", dataset, *TINY, "--epochs", 2, "--device", "cpu", "--batch", 9]
    result = launched(REPO / "train.py", *flags, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("epoch 2/2") == 1  # one process prints and writes
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
    assert run_script("eval.py", cwd=tmp_path).returncode == 0
    (metrics,) = tmp_path.glob("outputs/*/eval/metrics.json")
    assert 0 <= json.loads(metrics.read_text())["image_auroc"] <= 1


def test_processes_step_alike_on_the_gradients_of_the_whole_batch(tmp_path):
    script = tmp_path / "steps.py"
    script.write_text(
        textwrap.dedent("""\
        import sys

        import numpy as np
        import torch

        from models import build_model
        from training.loop import train_step
        from training import distributed
        from utils.config import load_config

        CPU = torch.device("cpu")
        distributed.start(CPU)
        torch.manual_seed(0)
        model = build_model(load_config(overrides={"data.size": 64, "unet.width": 4}))
        trainable = [p for p in model.parameters() if p.requires_grad]
        images = np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8)
        # Neither corruption, which each process draws for itself, nor statistics of a batch.
        model.prepare = lambda images: (images, images.flip(3), images[:, :1] > 0.5)
        optimizer, states = torch.optim.SGD(trainable, lr=1e-3), []
        for mode in (False, True):
            model.train(mode)
            loss = train_step(model, optimizer, images, CPU, 2)
            states.append({key: value.clone() for key, value in model.state_dict().items()})
        torch.save((loss, states), f"{sys.argv[1]}-{distributed.rank()}.pt")
        distributed.stop()
        """)
    )
    environment = os.environ | {"PYTHONPATH": str(REPO), "OMP_NUM_THREADS": "1"}
    for command in (LAUNCH, [sys.executable]):
        name = "together" if command is LAUNCH else "alone"
        result = subprocess.run(
            [*command, str(script), name], cwd=tmp_path, capture_output=True, text=True,
            timeout=300, env=environment,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    (loss, first), (other_loss, second) = (
        torch.load(tmp_path / f"together-{rank}.pt") for rank in (0, 1)
    )
    assert loss == other_loss
    for one, other in zip(first, second, strict=True):  # weights and running statistics
        apart = [key for key in one if not torch.equal(one[key], other[key])]
        assert all("num_batches_tracked" in key for key in apart)
    _, alone = torch.load(tmp_path / "alone-0.pt")
    for key, value in alone[0].items():
        assert torch.allclose(first[0][key], value, atol=1e-5), key
    encoder = [key for key in alone[0] if key.startswith("network.encoder")]
    assert all(torch.equal(first[1][key], alone[0][key]) for key in encoder)
    moved = [key for key in first[0] if not torch.equal(first[0][key], first[1][key])]
    assert any("running_mean" in key for key in moved)
