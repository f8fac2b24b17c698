import signal

import pytest
import torch
from conftest import assert_one_line, run_script

QUICK = ["--size", 64, "--crop", 32, "--batch", 4]


@pytest.fixture
def photos(dataset):
    return dataset / "tile/train/good"


@pytest.mark.parametrize("model", ["patchcore", "unet"])
def test_detectors_take_what_was_learned(model, photos, dataset, tmp_path):
    result = run_script("pretrain.py", photos, *QUICK, "--epochs", 2, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "--set backbone.weights=checkpoints/efficientnet_lite0.pt" in result.stdout
    state = torch.load(tmp_path / "checkpoints/efficientnet_lite0.pt", weights_only=True)
    name = "blocks.0.0.conv_dw.weight"
    flags = ["--data-root", dataset, "--model", model, "--size", 64, "--batch", 4]
    flags += ["--set", "unet.width=4", "--epochs", 1] if model == "unet" else []
    for weights in ([], ["--set", "backbone.weights=checkpoints/efficientnet_lite0.pt"]):
        result = run_script("train.py", *flags, *weights, cwd=tmp_path)
        assert result.returncode == 0, result.stderr
    first, adapted = (
        next(value for key, value in torch.load(file)["model"].items() if key.endswith(name))
        for file in sorted(tmp_path.glob("checkpoints/*/last.pt"))
    )
    assert torch.equal(adapted, state[name])
    assert not torch.equal(first, adapted)


def test_stopped_early_it_keeps_what_it_has_and_nothing_is_overwritten(
    photos, dataset, tmp_path, monkeypatch
):
    from training import self_supervised

    loss = self_supervised.vicreg_loss

    def interrupted(*embedded):
        signal.raise_signal(signal.SIGINT)
        return loss(*embedded)

    theirs = tmp_path / "plant.pt"
    theirs.write_text("a user's")
    scratch = ["--from-scratch", "--output", theirs]
    with monkeypatch.context() as patch:
        patch.setattr(self_supervised, "vicreg_loss", interrupted)
        result = run_script("pretrain.py", photos, *QUICK, *scratch, cwd=tmp_path)
    assert result.returncode == 130, result.stderr
    assert theirs.read_text() == "a user's"
    go_on = ["--epochs", 1, "--set", "backbone.weights=plant-2.pt"]
    result = run_script("pretrain.py", photos, *QUICK, *go_on, cwd=tmp_path)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("culprit", ["nan", "loss", "statistics"])
def test_a_training_that_diverged_keeps_nothing(culprit, photos, tmp_path, monkeypatch):
    from training import self_supervised

    lr, words = {
        "nan": (1e9, "the loss is not finite"),
        "loss": (10, "the loss rose from"),
        "statistics": (1e-4, "values of bn1.running_var are not finite"),
    }[culprit]
    if culprit == "statistics":  # which the loss in training does not depend on

        def update(batches, model):
            model.encoder.network.bn1.running_var.fill_(torch.inf)

        monkeypatch.setattr(self_supervised, "update_bn", update)
    result = run_script("pretrain.py", photos, *QUICK, "--lr", lr, "--epochs", 2, cwd=tmp_path)
    assert_one_line(result, "training diverged", words, "lower train.lr")
    assert "done" not in result.stdout
    assert list(tmp_path.rglob("*.pt")) == []


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (["--encoder", "resnet81"], ["resnet81", "did you mean resnet"]),
        (["--encoder", "scratch"], ["--from-scratch"]),
        (["--batch", 1], ["--batch"]),
        (["--set", "patchcore.coreset=0.5"], ["patchcore.coreset", "pretrain.py"]),
        (["nowhere"], ["no folder nowhere"]),
    ],
)
def test_mistakes_end_in_one_line(wrong, words, photos, tmp_path):
    assert_one_line(run_script("pretrain.py", photos, *wrong, cwd=tmp_path), *words)
