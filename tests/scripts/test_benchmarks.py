import importlib
import sys

import pytest
from conftest import REPO

from models.unet import UNetAutoencoder
from utils.config import load_config

MODULES = ["busy", "compare_anomalib", "contaminated", "few_images", "known_defects", "light"]
MODULES += ["terms", "tiles", "train_step", "verdict"]


@pytest.mark.parametrize("name", MODULES)
def test_benchmarks_can_be_imported_and_show_their_docstring(name, monkeypatch, capsys):
    module = importlib.import_module(f"benchmarks.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as caught:
        module.main()
    assert caught.value.code == 0
    assert f"python -m benchmarks.{name}" in capsys.readouterr().out


def test_settings_of_benchmarks_are_settings_of_today():
    assert load_config(overrides=importlib.import_module("benchmarks.tiles").SETTINGS)


def test_the_list_of_benchmarks_is_complete():
    programs = {
        file.stem for file in (REPO / "benchmarks").glob("*.py") if "def main()" in file.read_text()
    }
    assert programs == set(MODULES)


def test_terms_are_measured_by_kind_of_defect_on_both_splits(trained, monkeypatch, capsys):
    folder, run, _ = trained
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["terms", str(run)])
    assert importlib.import_module("benchmarks.terms").main() == 0
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if "|" in line]
    drawn, test = lines[: len(lines) // 2], lines[len(lines) // 2 :]
    for table, kind in ((drawn, "scratch"), (test, "crack")):
        heading, _, *rows = table
        assert kind in heading
        assert [row[0].removeprefix("| ") for row in rows] == [*UNetAutoencoder.TERMS, "all"]
        assert all(0 <= float(value.rstrip(" |")) <= 1 for row in rows for value in row[1:])
