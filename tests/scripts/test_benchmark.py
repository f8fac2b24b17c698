import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress

import psutil
import pytest
from conftest import REPO, TINY
from PIL import Image

import benchmark
from benchmarks.choice import choose, sentence
from benchmarks.experiment import COLUMNS, Experiment, mean_row, script, table, write_results
from training.distributed import child_environment
from utils.config import load_config
from utils.errors import UserError

LIGHT = [*TINY, "--set", "unet.encoder=scratch"]
CATEGORIES = ["slate", "tile"]
LONG = 40  # epochs that leave time to interrupt them


@pytest.fixture
def two(tmp_path, dataset):
    """A root folder with two categories."""
    for name in CATEGORIES:
        shutil.copytree(dataset / "tile", tmp_path / "two" / name)
    return tmp_path / "two"


@pytest.fixture
def start(tmp_path, two, monkeypatch):
    """Start benchmark.py in this process, in a folder of its own; gives its exit status."""

    def main(*flags):
        root = ["--data-root", str(two), "--models", "unet"]
        monkeypatch.setattr(sys, "argv", ["benchmark.py", *root, *LIGHT, *map(str, flags)])
        return benchmark.main()

    monkeypatch.chdir(tmp_path)
    return main


def read_csv(folder):
    with (folder / "results.csv").open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def when(condition, action, seconds=300):
    """Do something in a thread as soon as a condition holds."""

    def wait():
        end = time.monotonic() + seconds
        while not condition() and time.monotonic() < end:
            time.sleep(0.02)
        action()

    threading.Thread(target=wait, daemon=True).start()


def made(model="unet", category="tile", error=None, **numbers):
    """A row of which all numbers are 1 but for those given."""
    names = ["image_auroc", "image_auroc_low", "image_auroc_high", "pixel_auroc", "pixel_ap"]
    names += [
        "aupro_0.3",
        "f1",
        "false_alarms",
        "fit_seconds",
        "ms_per_image",
        "fit_peak_mib",
        "eval_peak_mib",
    ]
    row = {"model": model, "category": category, "error": error}
    if error is None:
        row |= dict.fromkeys([*names, "checkpoint_mib"], 1.0) | numbers
    return row


def test_failed_cell_is_tried_again_and_finished_ones_stay(start, two, tmp_path, capsys):
    good, elsewhere = two / "slate/test/good", two / "slate/test/ok"
    good.rename(elsewhere)
    damaged = two / "tile/test/good/damaged.png"
    damaged.write_bytes(b"no image")
    assert start("--epochs", 1) == 1
    printed = capsys.readouterr()
    assert printed.err.splitlines()[-1].startswith("1 of 2 cells failed")
    output = tmp_path / "outputs/benchmark"
    slate, tile = read_csv(output)
    assert slate["error"].startswith("good parts to measure on")
    assert slate["image_auroc"] == slate["notice"] == ""
    assert "damaged.png" in tile["notice"]
    assert "unet on tile: finished; " in printed.out
    assert 0 <= float(tile["image_auroc_low"]) <= float(tile["image_auroc"]) <= 1
    for name in ("pixel_auroc", "pixel_ap", "aupro_0.3"):
        assert 0 <= float(tile[name]) <= 1
    for name in ("fit_seconds", "ms_per_image", "checkpoint_mib"):
        assert float(tile[name]) > 0
    for name in ("fit_peak_mib", "eval_peak_mib"):
        assert 100 < float(tile[name]) < 5000
    assert "mean of 1 of 2" in printed.out
    assert (output / "results.md").read_text().strip() in printed.out
    assert Image.open(output / "chart.png").size[0] > 100
    with pytest.raises(UserError, match="train.epochs 1, not 2; take another --output, or delete"):
        start("--epochs", 2)

    elsewhere.rename(good)
    launch = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    again = subprocess.run(
        [sys.executable, "-m", *launch, str(REPO / "benchmark.py"), *sys.argv[1:-1], "1"],
        capture_output=True,
        text=True,
    )
    assert again.returncode == 0, again.stderr
    assert [row["error"] for row in read_csv(output)] == ["", ""]
    assert read_csv(output)[1] == tile
    assert again.stdout.count("| unet | **mean** |") == 1  # one process writes
    for name, evaluated in {"slate": 2, "tile": 1}.items():
        folder = output / "unet" / name
        assert (folder / "train.log").read_text().count("next:") == 1
        lines = (folder / "eval.log").read_text()
        assert lines.count("plots and worst cases") + lines.count("good parts to") == evaluated


def test_interrupted_benchmark_goes_on(start, tmp_path, capsys):
    folder = tmp_path / "outputs/benchmark/unet/slate"

    def log():
        with suppress(FileNotFoundError):
            return (folder / "train.log").read_text()
        return ""

    when(lambda: "epoch 2/" in log(), lambda: os.kill(os.getpid(), signal.SIGINT))
    assert start("--epochs", LONG) == 130
    assert "same command goes on" in capsys.readouterr().err
    assert f"epoch {LONG}/" not in log()
    assert "--resume" in log()  # it saved and stopped by itself
    assert not (folder / "row.json").exists()

    assert start("--epochs", LONG, "--categories", "slate") == 0
    for epoch in (1, LONG):
        assert log().count(f"epoch {epoch}/") == 1
    assert not (folder.parent / "tile").exists()


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
        "--for unet model=padim": "--models",
        "--for unet data.root=x": "no dataset",
    }.items():
        monkeypatch.setattr(sys, "argv", ["benchmark.py", "--data-root", str(two), *wrong.split()])
        with pytest.raises(UserError, match="(?s)" + words.replace("?", r"\?")) as caught:
            benchmark.main()
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == [two]
    (tmp_path / "chart.png").touch()
    monkeypatch.setattr(
        sys, "argv", ["benchmark.py", "--data-root", str(two), "--output", str(tmp_path)]
    )
    with pytest.raises(UserError, match="chart.png is none of benchmark.py"):
        benchmark.main()


def test_settings_of_one_detector_are_its_own(two, tmp_path, monkeypatch):
    monkeypatch.chdir(two)  # paths must hold in the folders of the cells
    own = ["--for", "draem", "train.epochs=3", "--set", "backbone.weights=vit.pt"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "--data-root", ".", "--epochs", "2", *own])
    cells = benchmark.chosen_cells(benchmark.parse_args())
    epochs = {cell.config.model: cell.config.train.epochs for cell in cells}
    unread = load_config().train.epochs  # by those that learn in one pass
    assert epochs == {"unet": 2, "draem": 3, "dinomaly": 2, "fastflow": 2} | dict.fromkeys(
        ("patchcore", "padim", "patch_memory"), unread
    )
    assert [cell.config.data.category for cell in cells] == ["slate", "tile"] * len(epochs)
    assert len({cell.folder for cell in cells}) == len(cells)
    assert cells[0].config.data.root == str(two)
    assert cells[0].config.backbone.weights == str(two / "vit.pt")


def test_a_recipe_is_for_the_detector_that_it_names(two, tmp_path, monkeypatch):
    common, recipe = tmp_path / "common.yaml", tmp_path / "recipe.yaml"
    common.write_text("data: {size: 96}\ntrain: {epochs: 4, batch: 3, lr: 1}\n")
    recipe.write_text("model: fastflow\ndata: {size: 160}\ntrain: {epochs: 5}\n")
    default = load_config().train.lr
    flags = ["--config", str(common), str(recipe), "--models", "unet", "fastflow", "--epochs", "6"]
    flags += ["--lr", str(default)]  # a flag holds even where it says what config.yaml does
    monkeypatch.setattr(
        sys, "argv", ["benchmark.py", "--data-root", str(two), "--categories", "tile", *flags]
    )
    unet, fastflow = (cell.config for cell in benchmark.chosen_cells(benchmark.parse_args()))
    assert (unet.data.size, unet.train.epochs, unet.train.batch) == ((96, 96), 6, 3)
    assert (fastflow.data.size, fastflow.train.epochs, fastflow.train.batch) == ((160, 160), 6, 3)
    assert unet.train.lr == fastflow.train.lr == default
    recipe.write_text("model: fastflow\nunet: {width: 16}\n")
    with pytest.raises(UserError, match="unet.width"):
        benchmark.chosen_cells(benchmark.parse_args())


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
    assert lines[5].startswith(
        "| unet | **mean of 2 of 3** | 0.850 | 1.000 |  | 1.000 | 1.000 | 15.0 |"
    )
    assert lines[6].startswith("| padim | tile | 0.100")
    assert len(lines) == 7  # no mean of a single category
    assert len({line.replace("\\|", "").count("|") for line in lines}) == 1


def test_the_fastest_of_those_that_cannot_be_told_from_the_best_is_taken(tmp_path):
    best = made("unet", image_auroc=0.98, image_auroc_low=0.96, ms_per_image=70.0)
    close = made("padim", image_auroc=0.97, image_auroc_low=0.95, image_auroc_high=0.99,
                 ms_per_image=51.0, fit_seconds=13.0, false_alarms=0.021)  # fmt: skip
    worse = made("draem", image_auroc=0.9, image_auroc_low=0.85, image_auroc_high=0.95,
                 ms_per_image=5.0)  # fmt: skip
    rows = [best, close, worse]
    assert [one["model"] for one in choose(rows)] == ["padim", "unet"]
    said = sentence(rows, tmp_path)
    assert said.startswith("take padim: image AUROC 0.970 (0.950 to 0.990, test images)")
    assert "2.1% false alarms, 51 ms an image, fitted in 13 s" in said
    assert "unet 0.980 at 70 ms" in said
    assert said.endswith(f"python train.py --config {tmp_path / 'padim/tile/settings.yaml'}")
    # A perfect detector has an interval without width: the other's is asked.
    perfect = made("unet", ms_per_image=70.0)
    assert [one["model"] for one in choose([perfect, close])] == ["unet"]
    almost = close | {"image_auroc": 0.998, "image_auroc_high": 1.0}
    assert [one["model"] for one in choose([perfect, almost])] == ["padim", "unet"]
    # By the means, whose interval is narrower; one that failed somewhere is no choice.
    wood = [row | {"category": "wood", "drawn_defects": True} for row in (best, close)]
    ends = choose([best, close, *wood])[0]
    assert ends["image_auroc_low"] == pytest.approx(0.97 - 0.02 / 2**0.5)
    several = sentence([best, close, worse, *wood], tmp_path)
    assert "mean of 2 categories, test images and drawn defects)" in several
    assert "draem" not in several
    spaced = tmp_path / "my results"
    assert f"--config '{spaced / 'padim/tile/settings.yaml'}'" in sentence(rows, spaced)
    assert sentence([best], tmp_path) == ""
    assert sentence([made(error="none"), made("padim", error="none")], tmp_path).startswith("no ")


def test_without_test_images_defects_are_drawn(start, two, tmp_path):
    shutil.rmtree(two / "tile/test")
    assert start("--epochs", 1, "--categories", "tile") == 0
    (row,) = read_csv(tmp_path / "outputs/benchmark")
    assert row["drawn_defects"] == "True" and 0 <= float(row["image_auroc"]) <= 1
    assert "| tile (drawn defects) |" in (tmp_path / "outputs/benchmark/results.md").read_text()


def test_one_model_for_several_categories_has_a_row_of_means(start, tmp_path):
    assert start("--epochs", 1, "--categories", "slate,tile") == 0
    (row,) = read_csv(tmp_path / "outputs/benchmark")
    assert row["category"] == "slate,tile" and row["image_auroc_low"] == ""
    assert all(float(row[name]) >= 0 for name in COLUMNS)
    evaluated = tmp_path / "outputs/benchmark/unet/slate,tile/eval"
    parts = [json.loads((evaluated / name / "metrics.json").read_text()) for name in CATEGORIES]
    for name in ("image_auroc", "f1"):
        assert float(row[name]) == pytest.approx(sum(part[name] for part in parts) / 2)


@pytest.mark.parametrize("content", ["[]", "{}", "null", "3", "{", '{"error": 1}'])
def test_a_row_that_no_benchmark_wrote_is_computed_again(content, tmp_path):
    (tmp_path / "row.json").write_text(content)
    assert Experiment(load_config(), tmp_path).row() is None


def test_a_second_benchmark_with_the_same_output_is_refused(start, tmp_path):
    output = tmp_path / "outputs/benchmark"
    output.mkdir(parents=True)
    code = "import sys, filelock as f; lock = f.FileLock(sys.argv[1]); lock.acquire(); print(1); "
    code += "sys.stdout.flush(); input()"
    command = [sys.executable, "-c", code, output / "benchmark.lock"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes) as other:
        other.stdout.readline()
        with pytest.raises(UserError, match="another benchmark is writing to .* by --output"):
            start("--epochs", 1)
        assert not (output / "unet").exists()
        other.kill()  # which frees the folder
    shutil.rmtree(tmp_path / "two/tile/train")
    assert start("--epochs", 1, "--categories", "tile") == 1  # it ran, with nothing to learn from
    (row,) = read_csv(output)
    assert row["error"].startswith("no images in")


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
    environment = child_environment()
    assert not {"RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR"} & set(environment)
    assert "TORCHELASTIC_RUN_ID" not in environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "6"
    cores = len(psutil.Process().cpu_affinity()) if sys.platform == "linux" else os.cpu_count()
    assert int(environment["OMP_NUM_THREADS"]) == max(1, cores // 2)
    assert environment["LOCAL_WORLD_SIZE"] == "2"  # free memory is divided by it


def test_failure_of_a_script_is_its_last_line(tmp_path):
    file = tmp_path / "fail.py"
    for text, reason in {
        "print('a'); raise SystemExit('error: disk full\\n')": "disk full",
        "import os; print('a'); os.kill(os.getpid(), 9)": f"{file} was killed by SIGKILL",
        "print('a')": None,
    }.items():
        file.write_text(text)
        assert script(file.with_suffix(""), cwd=tmp_path) == reason
    assert "disk full" in (tmp_path / "fail.log").read_text()  # the log of earlier attempts stays


@pytest.mark.skipif(sys.platform != "linux", reason="needs PR_SET_PDEATHSIG")
def test_a_killed_benchmark_takes_its_script_along(tmp_path):
    hold = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    (tmp_path / "hold.py").write_text(hold)
    code = "from benchmarks.experiment import *; script(sys.argv[1], cwd=Path())"
    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "hold"], cwd=REPO) as parent:
        log = tmp_path / "hold.log"
        while not (log.exists() and log.read_text().endswith("\n")):
            assert parent.poll() is None
            time.sleep(0.02)
        child = psutil.Process(int(log.read_text()))
        parent.kill()
    child.wait(10)
