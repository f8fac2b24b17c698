import shutil
import signal
import subprocess
import sys

import pytest
import torch
from conftest import REPO, TINY, assert_one_line, run_script

from training import loop

EPOCHS = 20


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory, dataset):
    """Weights of a run of EPOCHS epochs that nothing disturbed."""
    folder = tmp_path_factory.mktemp("unbroken")
    result = run_script("train.py", "--data-root", dataset, *TINY, "--epochs", EPOCHS, cwd=folder)
    assert result.returncode == 0, result.stderr
    return weights(folder)


def only_run(folder):
    (run,) = (folder / "checkpoints").iterdir()
    return run


def weights(folder):
    return torch.load(only_run(folder) / "last.pt")["model"]


def assert_same(first, second):
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def stop_after_some_epochs(dataset, folder, sign):
    """Start training, send the signal once an epoch has been printed; gives the process' output."""
    command = [sys.executable, "-u", str(REPO / "train.py"), "--data-root", str(dataset), *TINY]
    process = subprocess.Popen(
        [*command, "--epochs", str(EPOCHS)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    output = ""
    for line in process.stdout:
        output += line
        if line.startswith("epoch 3/"):
            process.send_signal(sign)
            break
    output += process.stdout.read()
    process.wait(timeout=120)
    assert f"epoch {EPOCHS}/" not in output
    progress = torch.load(only_run(folder) / "last.pt")["progress"]
    assert 2 <= progress["epoch"] < EPOCHS  # an epoch is printed, then saved
    return process.returncode, output


def test_killed_run_resumes_to_the_same_weights(tmp_path, dataset, unbroken):
    status, _ = stop_after_some_epochs(dataset, tmp_path, signal.SIGKILL)
    assert status == -signal.SIGKILL
    result = run_script("train.py", "--resume", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert_same(weights(tmp_path), unbroken)


def test_interrupted_run_says_how_to_go_on_and_does(tmp_path, dataset, unbroken):
    status, output = stop_after_some_epochs(dataset, tmp_path, signal.SIGINT)
    assert status == 130
    run = only_run(tmp_path)
    assert f"python train.py --resume {run.relative_to(tmp_path)}" in output
    assert "Traceback" not in output
    result = run_script("eval.py", "--data-root", dataset, cwd=tmp_path)
    assert_one_line(result, "--resume", "not finished")
    result = run_script("train.py", "--resume", run, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert_same(weights(tmp_path), unbroken)


def test_interrupt_in_mid_epoch_keeps_the_step(tmp_path, dataset, unbroken, monkeypatch):
    import train
    from utils.interrupt import StopRequest

    step, steps = loop.train_step, 0

    def interrupted_step(*arguments):
        nonlocal steps
        steps += 1
        if steps == 8:  # an epoch has three steps
            signal.raise_signal(signal.SIGINT)
        return step(*arguments)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loop, "train_step", interrupted_step)
    flags = ["--data-root", str(dataset), *TINY, "--epochs", str(EPOCHS)]
    monkeypatch.setattr(sys, "argv", ["train.py", *flags])
    previous = signal.getsignal(signal.SIGINT)
    assert train.main() == 130
    assert signal.getsignal(signal.SIGINT) is previous
    progress = torch.load(only_run(tmp_path) / "last.pt")["progress"]
    assert (progress["epoch"], progress["step"]) == (2, 2)
    assert run_script("train.py", "--resume", cwd=tmp_path).returncode == 0
    assert_same(weights(tmp_path), unbroken)

    with pytest.raises(KeyboardInterrupt), StopRequest("stopping"):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)


def test_finished_run_can_be_lengthened(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "COOLDOWN", 1e-9)  # or the rate would have fallen already
    flags = ["--data-root", dataset, *TINY]
    assert run_script("train.py", *flags, "--epochs", 2, cwd=tmp_path).returncode == 0
    result = run_script("train.py", "--resume", "--epochs", 3, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    other = tmp_path / "other"
    other.mkdir()
    assert run_script("train.py", *flags, "--epochs", 3, cwd=other).returncode == 0
    assert_same(weights(tmp_path), weights(other))


def test_resume_refuses_what_would_not_be_the_same_run(trained, dataset, tmp_path):
    folder, run, _ = trained
    result = run_script("train.py", "--resume", run, "--set", "unet.width=8", cwd=folder)
    assert_one_line(result, "unet.width", "--resume")
    result = run_script("train.py", "--resume", run, "--epochs", 1, cwd=folder)
    assert_one_line(result, "has 2 epochs behind it and cannot go back to 1")
    result = run_script("train.py", "--resume", run, "--config", "c.yaml", cwd=folder)
    assert_one_line(result, "--config")
    shutil.copytree(dataset / "tile", tmp_path / "tile")
    (tmp_path / "tile/train/good/000.png").unlink()
    (tmp_path / "tile/train/good/001.png").unlink()
    flags = ["--resume", run, "--data-root", tmp_path, "--epochs", 3]
    result = run_script("train.py", *flags, cwd=folder)
    assert_one_line(result, "000.png", "1 more are gone")
