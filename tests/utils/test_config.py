import argparse
import math
import subprocess
import sys

import pytest
from conftest import REPO, assert_one_line, run_script

from models import build_model, refuse_unread
from training.run import resumed_config
from utils.config import Config, default_config, differences, load_config
from utils.errors import UserError
from utils.files import read_yaml
from utils.flags import add_setting_flags, assignment, overrides_from


def test_config_yaml_alone_holds_the_defaults_and_explains_them():
    text = (REPO / "config.yaml").read_text()
    leaves = [line for line in text.splitlines() if ": " in line.split("#")[0]]
    assert all("#" in line for line in leaves)
    with pytest.raises(ValueError, match="required"):
        Config()
    sections = read_yaml(REPO / "config.yaml")
    for key, value in load_config().model_dump().items():
        assert not isinstance(value, dict) or value.keys() == sections[key].keys()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.lrr", 1, ["train.lrr", "train.lr?"]),
        ("epochs", 3, ["unknown setting epochs", "train.epochs"]),
        ("train.epochs", "many", ["train.epochs is 'many'", "valid integer"]),
        ("train.epochs", 0, ["train.epochs", "greater than or equal to 1"]),
        ("train.lr", float("nan"), ["train.lr", "finite"]),
        ("score.reduce", "maxx", ["score.reduce", "did you mean max?"]),
        ("unet.norm", "batch", ["unknown setting unet.norm"]),
        ("data.size", [16, 64], ["data.size", "32"]),
        ("train.micro_batch", "aut", ["train.micro_batch", "auto"]),
        ("train", 3, ["train is 3", "group of settings"]),
        ("calibration.group", "part(", ["calibration.group is 'part('", "a regular expression"]),
        ("data.size", [64], ["data.size is [64]", "[height, width]"]),
        ("data.category", "", ["data.category", "the name of a folder"]),
        ("data.category", "a/b", ["data.category is 'a/b'", "--data-root"]),
        ("data.category", "/tmp/tile", ["data.category", "--data-root"]),
        ("corruption.kinds", "clean+stian", ["corruption.kinds", "did you mean stain?"]),
        ("corruption.kinds", 3, ["corruption.kinds is 3", "a list"]),
        ("patchcore.paper", "both", ["patchcore.paper is 'both'", "true or false"]),
        ("seed", {"a": 1}, ["unknown setting seed.a", "did you mean seed?"]),
        ("device", "cuda:x", ["device is 'cuda:x'", "cuda:1"]),
        ("loss", {"l1": 0, "ssim": 0, "focal": 0}, ["all 0", "raise one"]),
    ],
)
def test_wrong_settings_are_named(key, value, words):
    with pytest.raises(UserError) as caught:
        load_config(overrides={key: value})
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


KEYS = [
    f"{section}.{name}" if isinstance(values, dict) else section
    for section, values in read_yaml(REPO / "config.yaml").items()
    for name in (values if isinstance(values, dict) else [""])
]
VALUES = ["null", "''", "-1", "0", "1e9", "1e300", "1e-320", ".nan", "nan", ".inf", "[]", "{}",
          "{a: 1}", "true", "2020-01-01", "9" * 400, "x" * 100_000]  # fmt: skip


@pytest.mark.parametrize("key", KEYS)
def test_any_value_of_any_setting_is_taken_or_refused_by_name(key):
    section, _, name = key.rpartition(".")
    for value in VALUES:
        try:
            config = load_config(overrides=dict([assignment(f"{key}={value}")]))
        except UserError as error:
            line = str(error)
            assert key in line
            assert "\n" not in line
            assert len(line) < 500
            continue
        taken = getattr(getattr(config, section) if section else config, name)
        assert not isinstance(taken, int | float) or math.isfinite(taken)
        assert taken is not True or key in ("patchcore.paper", "draem.sharper")
        assert value not in ("[]", "{}", "{a: 1}", ".nan", ".inf", "''"), taken


def test_padim_needs_two_images():
    with pytest.raises(UserError, match="data.limit is 1"):
        build_model(load_config(overrides={"model": "padim", "data.limit": 1}))


def test_there_are_no_more_settings_than_a_page_holds():
    assert len(KEYS) <= 45


def test_size_is_a_side_or_a_pair():
    assert load_config(overrides={"data.size": 256}).data.size == (256, 256)
    assert load_config(overrides={"data.size": [64, 96]}).data.size == (64, 96)


def test_flags_override_files(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train:\n  epochs: 5\n  batch: 7\n  lr: 0.5\n")
    parser = argparse.ArgumentParser()
    add_setting_flags(parser)
    arguments = parser.parse_args(["--epochs", "6", "--set", "train.lr=3e-4"])
    config = load_config(file, overrides_from(arguments))
    assert (config.train.epochs, config.train.batch, config.train.lr) == (6, 7, 3e-4)
    assert config.unet == load_config().unet


@pytest.mark.parametrize(
    "text",
    ["a: [", "- 1", "train:\n  lrr: 1", "[" * 5000, "train:\n  lr: 1\nseed: 1\ntrain:\n  batch: 2"],
)
def test_bad_files_are_named(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="bad.yaml") as caught:
        load_config(file)
    assert "\n" not in str(caught.value)


def test_a_typo_in_config_yaml_itself_is_named(tmp_path, monkeypatch):
    file = tmp_path / "config.yaml"
    file.write_text((REPO / "config.yaml").read_text() + "sede: 1\n")
    monkeypatch.setattr("utils.config.CONFIG_FILE", file)
    default_config.cache_clear()
    with pytest.raises(UserError, match="^config.yaml: unknown setting sede; did you mean seed"):
        load_config()


def test_files_may_name_settings_with_dots(tmp_path):
    (tmp_path / "dotted.yaml").write_text("train.epochs: 5\ntrain:\n  batch: 7\n")
    config = load_config(tmp_path / "dotted.yaml")
    assert (config.train.epochs, config.train.batch) == (5, 7)


def test_the_slash_that_a_shell_completes_a_folder_by_is_no_part_of_the_category():
    parser = argparse.ArgumentParser()
    add_setting_flags(parser, ["--category"])
    assert overrides_from(parser.parse_args(["--category", "tile/"])) == {"data.category": "tile"}
    assert load_config(overrides={"data.category": "tile/"}).data.category == "tile"


def test_settings_that_a_detector_does_not_read_are_refused():
    refuse_unread("draem", ["unet.width", "train.lr", "data.size"])
    with pytest.raises(UserError, match=r"unet\.encoder .* draem; it is used by: unet$"):
        refuse_unread("draem", ["unet.encoder"])
    with pytest.raises(UserError, match=r"train\.epochs .* used by: unet, draem"):
        refuse_unread("padim", ["train.epochs"])


def test_resume_may_lengthen_but_not_alter():
    config = load_config()
    assert resumed_config(config, {"train.epochs": 90}).train.epochs == 90
    with pytest.raises(UserError, match="unet.width"):
        resumed_config(config, {"unet.width": 8})
    assert resumed_config(config, {"unet.width": 32}) == config


def test_typos_end_in_one_line(tmp_path):
    result = run_script("train.py", "--set", "train.lrr=1", cwd=tmp_path)
    assert_one_line(result, "train.lrr", "did you mean train.lr?")


SCRIPTS = {
    "train.py": ["--model", "draem", "--set", "unet.encoder=scratch"],
    "infer.py": ["--device", "gpu"],
    "eval.py": ["--model", "unett"],
    "stream.py": ["--category", "a/b", "x.mp4"],
    "export.py": ["--checkpoint", "nowhere"],
    "app.py": ["--device", "gpu"],
    "benchmark.py": ["--models", "padim", "patchcore", "--set", "unet.encoder=scratch"],
    "pretrain.py": ["configs", "--batch", "1"],
}
RUN = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("slow" if {"torch", "matplotlib", "gradio"} & sys.modules.keys() else "fast")
"""


@pytest.mark.parametrize(("script", "wrong"), SCRIPTS.items())
def test_arguments_are_answered_before_anything_slow_is_imported(script, wrong, tmp_path):
    for arguments, status in ((["--help"], 0), (wrong, 2)):
        command = [sys.executable, "-c", RUN, str(REPO / script), *arguments]
        result = subprocess.run(
            command, cwd=tmp_path, env={"PYTHONPATH": str(REPO)}, capture_output=True, text=True
        )
        assert result.returncode == status, result.stderr
        assert result.stdout.endswith("fast\n")
        assert len(result.stderr.splitlines()) == (1 if status else 0), result.stderr


@pytest.mark.parametrize("file", sorted((REPO / "configs").glob("*.yaml")))
def test_recipes_are_valid_differ_from_the_defaults_and_are_read(file):
    config = load_config(file)
    changes = differences(load_config(), config)
    assert changes
    refuse_unread(config.model, changes)
