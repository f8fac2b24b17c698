import csv
import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from threading import Event

import psutil
import pytest
from conftest import REPO, TINY, run_script
from PIL import Image

import benchmark
from benchmarks.results import mean_row, table, write_results
from benchmarks.scripts import Stopped, script
from data.sample import write_sample
from runs.distributed import child_environment
from utils.config import load_config
from utils.errors import UserError

LIGHT = [*TINY, "--set", "unet.encoder=scratch"]
LONG = 40  # epochs that leave time to interrupt them
ON_LINUX = pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A root folder with two categories."""
    root = tmp_path_factory.mktemp("two")
    for name in ("slate", "tile"):
        write_sample(root, name, size=64, train=6, good=2, defects=1, quiet=True)
    return root


def flags(root, epochs):
    return ["--data-root", str(root), "--models", "unet", *LIGHT, "--epochs", str(epochs)]


def read_csv(folder):
    with (folder / "results.csv").open() as stream:
        return list(csv.DictReader(stream))


def log(folder, category="tile"):
    file = folder / f"outputs/benchmark/unet/{category}/train.log"
    return file.read_text() if file.exists() else ""


def wait_until(condition, process=None, seconds=90):
    """Wait for a condition; fails if it does not come true, or the process ends before."""
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(0.05)


def scripts_below(folder):
    """Ids of the processes that work in the folder of a cell, without those that have ended."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cwd().startswith(f"{folder}/outputs"):
                found.append(process.pid)
    return found


def made(model="unet", category="tile", error=None, **numbers):
    """A row of which all numbers are 1 but for those given."""
    names = ["image_auroc", "image_auroc_low", "image_auroc_high", "pixel_auroc", "pixel_ap"]
    names += ["aupro_0.3", "fit_seconds", "ms_per_image", "fit_peak_mib", "eval_peak_mib"]
    row = {"model": model, "category": category, "error": error}
    if error is None:
        row |= dict.fromkeys([*names, "checkpoint_mib"], 1.0) | numbers
    return row


def test_failed_cell_is_recorded_and_tried_again_without_training(two, tmp_path, monkeypatch):
    root = tmp_path / "data"
    shutil.copytree(two, root)
    shutil.move(root / "slate/test", tmp_path / "test")
    result = run_script("benchmark.py", *flags(root, 1), "--jobs", 2, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("1 of 2 cells failed")
    output = tmp_path / "outputs/benchmark"
    slate, tile = read_csv(output)
    assert slate["error"].startswith("no images in")
    assert slate["image_auroc"] == ""
    assert 0 <= float(tile["image_auroc_low"]) <= float(tile["image_auroc"]) <= 1
    for name in ("pixel_auroc", "pixel_ap", "aupro_0.3"):
        assert 0 <= float(tile[name]) <= 1
    for name in ("fit_seconds", "ms_per_image", "checkpoint_mib"):
        assert float(tile[name]) > 0
    assert 100 < float(tile["fit_peak_mib"]) < 5000
    assert "mean of 1 of 2" in result.stdout
    assert (output / "results.md").read_text().strip() in result.stdout
    assert Image.open(output / "chart.png").size[0] > 100

    evaluated = (output / "unet/tile/eval.log").stat().st_mtime_ns
    shutil.move(tmp_path / "test", root / "slate/test")
    again = run_script("benchmark.py", *flags(root, 1), cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert read_csv(output)[1] == tile
    assert [row["error"] for row in read_csv(output)] == ["", ""]
    assert [log(tmp_path, name).count("done:") for name in ("slate", "tile")] == [1, 1]
    assert (output / "unet/tile/eval.log").stat().st_mtime_ns == evaluated

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmark.py", *flags(root, 2)])
    with pytest.raises(UserError, match="train.epochs 1, not 2; take another --output, or delete"):
        benchmark.main()


def test_what_is_wrong_is_said_before_anything_runs(two, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for wrong, words in {
        "--models unett": "did you mean unet?",
        "--categories tyle": "did you mean tile?",
        "--set unet.widht=3": "did you mean unet.width?",
        "--for padim padim.chanels=3": "did you mean padim.channels?",
        "--for padin padim.channels=3": "did you mean padim?",
        "--for padim padim.channels": "KEY=VALUE",
        "--for padim padim.channels=0": "padim.channels",
        "--set data.category=tile": "--categories",
        "--for unet data.root=x": "--data-root",
        "--jobs 0": "--jobs",
    }.items():
        monkeypatch.setattr(sys, "argv", ["benchmark.py", "--data-root", str(two), *wrong.split()])
        with pytest.raises(UserError, match="(?s)" + words.replace("?", r"\?")) as caught:
            benchmark.main()
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_settings_of_one_detector_are_its_own(two, tmp_path, monkeypatch):
    monkeypatch.chdir(two)  # paths must hold in the folders of the cells
    own = ["--for", "draem", "train.epochs=3", "--set", "backbone.weights=vit.pt"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--data-root", ".", "--epochs", "2", *own])
    cells = benchmark.chosen_cells(benchmark.parse_args())
    epochs = {cell.config.model: cell.config.train.epochs for cell in cells}
    unread = load_config().train.epochs  # by those that learn in one pass
    assert epochs == {"unet": 2, "draem": 3, "dinomaly": 2} | dict.fromkeys(
        ("patchcore", "padim", "patch_memory"), unread
    )
    assert [cell.config.data.category for cell in cells] == ["slate", "tile"] * len(epochs)
    assert len({cell.folder for cell in cells}) == len(cells)
    assert cells[0].config.data.root == str(two)
    assert cells[0].config.backbone.weights == str(two / "vit.pt")


def test_mean_row():
    rows = [
        made(image_auroc=0.8, fit_seconds=10.0, pixel_ap=0.5),
        made(category="wood", image_auroc=0.9, fit_seconds=20.0, pixel_ap=None),
        made(category="wool", error="no | images"),
        made("padim", image_auroc=0.1),
    ]
    mean = mean_row(rows[:3])
    assert mean["image_auroc"] == pytest.approx(0.85)
    assert mean["fit_seconds"] == pytest.approx(15)
    assert mean["pixel_ap"] is None
    lines = table(rows).splitlines()
    assert lines[2].startswith("| unet | tile | 0.800 (1.000 to 1.000) | 1.000 | 0.500 |")
    assert "failed: no \\| images" in lines[4]
    assert lines[5].startswith("| unet | **mean of 2 of 3** | 0.850 | 1.000 |  | 1.000 | 15.0 |")
    assert lines[6].startswith("| padim | tile | 0.100")
    assert len(lines) == 7  # no mean of a single category
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_results_without_a_single_number(tmp_path):
    write_results([made(error="none")], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"results.csv", "results.md", "chart.png"}


def test_scripts_know_nothing_of_torchrun(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "TORCHELASTIC_RUN_ID"):
        monkeypatch.setenv(name, "7")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    monkeypatch.setenv("OMP_NUM_THREADS", "99")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    environment = child_environment(jobs=3)
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} & set(environment)
    assert "TORCHELASTIC_RUN_ID" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "6"
    assert int(environment["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) // 6)
    assert environment["LOCAL_WORLD_SIZE"] == "6"  # free memory is divided by it


def test_peak_memory_is_that_of_the_script_alone(tmp_path):
    held = bytearray(500 * 2**20)
    for mib in (0, 200):
        (tmp_path / "hold.py").write_text(f"x = bytearray({mib} * 2**20); print(len(x))")
        done = script(tmp_path / "hold.py", cwd=tmp_path)
        assert mib < done.peak_mib < mib + 100
        assert int(done.printed) == mib * 2**20
    assert held


def test_failure_of_a_script_is_its_last_line(tmp_path):
    file, lines = tmp_path / "fail.py", tmp_path / "log"
    for text, reason in {
        "print('a'); raise SystemExit('error: disk full\\n')": "^disk full$",
        "raise SystemExit(3)": "failed with status 3",
        "import os; print('a'); os.kill(os.getpid(), 9)": "killed by SIGKILL",
    }.items():
        file.write_text(text)
        with pytest.raises(UserError, match=reason):
            script(file, cwd=tmp_path, log=lines)
    assert "disk full" in lines.read_text()  # the log of earlier attempts stays
    file.write_text("import time; time.sleep(60)")
    stop = Event()
    stop.set()
    with pytest.raises(Stopped):
        script(file, cwd=tmp_path, log=lines, stop=stop)


@ON_LINUX
def test_interrupted_benchmark_goes_on(two, tmp_path):
    command = [sys.executable, str(REPO / "benchmark.py"), *flags(two, LONG)]
    process = subprocess.Popen(
        command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    wait_until(lambda: "epoch 2/" in log(tmp_path, "slate"), process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert len(errors.strip().splitlines()) == 1
    assert "0 of 2 cells finished" in errors
    assert "same command goes on" in errors
    assert not scripts_below(tmp_path)
    assert f"epoch {LONG}/" not in log(tmp_path, "slate")
    assert read_csv(tmp_path / "outputs/benchmark") == []

    result = subprocess.run(
        [*command, "--categories", "slate"], cwd=tmp_path, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    for epoch in (1, LONG):
        assert log(tmp_path, "slate").count(f"epoch {epoch}/") == 1
    assert log(tmp_path) == ""


@ON_LINUX
def test_processes_share_the_cells_and_one_that_is_killed_takes_its_scripts_along(two, tmp_path):
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    process = subprocess.Popen(
        [sys.executable, "-m", *launch, str(REPO / "benchmark.py"), *flags(two, LONG)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for name in ("slate", "tile"):  # one each
        wait_until(lambda name=name: "epoch 2/" in log(tmp_path, name), process)
    scripts = scripts_below(tmp_path)
    assert len(scripts) == 4  # two, and what starts them
    psutil.Process(process.pid).children()[-1].kill()
    wait_until(lambda: not any(map(psutil.pid_exists, scripts)), process)
    for name in ("slate", "tile"):
        assert f"epoch {LONG}/" not in log(tmp_path, name)  # stopped, not finished

    output, errors = process.communicate(timeout=240)  # started again by torchrun
    assert process.returncode == 0, errors
    rows = read_csv(tmp_path / "outputs/benchmark")
    assert [(row["category"], row["error"]) for row in rows] == [("slate", ""), ("tile", "")]
    assert output.count("| unet | **mean** |") == 1
    for name in ("slate", "tile"):
        assert log(tmp_path, name).count("epoch 1/") == 1
        assert log(tmp_path, name).count(f"epoch {LONG}/") == 1
        assert log(tmp_path, name).count("done:") == 1
