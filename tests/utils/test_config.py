import argparse

import pytest
from conftest import REPO, assert_one_line, run_script

from utils.config import (
    Config,
    add_setting_flags,
    differences,
    load_config,
    overrides_from,
    read_yaml,
    resumed_config,
)
from utils.errors import UserError


def test_config_yaml_holds_the_defaults():
    assert Config.model_validate(read_yaml(REPO / "config.yaml")) == Config()


def test_config_yaml_names_and_explains_every_setting():
    lines = (REPO / "config.yaml").read_text().splitlines()
    leaves = [line for line in lines if ": " in line.split("#")[0]]
    assert all("#" in line for line in leaves)
    sections = read_yaml(REPO / "config.yaml")
    for key, value in Config().model_dump().items():
        assert isinstance(value, dict) == isinstance(sections[key], dict)
        if isinstance(value, dict):
            assert value.keys() == sections[key].keys()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("train.lrr", 1, ["train.lrr", "train.lr?"]),
        ("epochs", 3, ["unknown setting epochs", "train.epochs"]),
        ("train.epochs", "many", ["train.epochs", "whole number"]),
        ("train.epochs", 0, ["train.epochs", "greater than or equal to 1"]),
        ("train.lr", float("nan"), ["train.lr", "finite"]),
        ("score.reduce", "maxx", ["score.reduce", "did you mean max?"]),
        ("unet.depth", 3, ["unet.depth", "greater than or equal to 4"]),
        ("unet.norm", "batch", ["unknown setting unet.norm"]),
        ("data.size", [16, 64], ["data.size", "32"]),
        ("train.micro_batch", "aut", ["train.micro_batch", "auto"]),
        ("train", 3, ["train is 3", "group of settings"]),
        ("data.category", "", ["data.category", "a name"]),
        ("calibration.group", "part(", ["calibration.group is 'part('", "a regular expression"]),
    ],
)
def test_wrong_settings_are_named(key, value, words):
    with pytest.raises(UserError) as caught:
        load_config(overrides={key: value})
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


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
    assert config.unet == Config().unet


@pytest.mark.parametrize("text", ["a: [", "- 1", "train:\n  lrr: 1"])
def test_bad_files_are_named(tmp_path, text):
    file = tmp_path / "bad.yaml"
    file.write_text(text)
    with pytest.raises(UserError, match="bad.yaml"):
        load_config(file)


def test_resume_may_lengthen_but_not_alter():
    config = Config()
    assert resumed_config(config, {"train.epochs": 90}).train.epochs == 90
    with pytest.raises(UserError, match="unet.width"):
        resumed_config(config, {"unet.width": 8})
    assert resumed_config(config, {"unet.width": 32}) == config


def test_typos_end_in_one_line(tmp_path):
    result = run_script("train.py", "--set", "train.lrr=1", cwd=tmp_path)
    assert_one_line(result, "train.lrr", "did you mean train.lr?")
    assert_one_line(run_script("train.py", "--set", "lr", cwd=tmp_path), "KEY=VALUE")
    result = run_script("train.py", "--model", "unett", cwd=tmp_path)
    assert result.returncode == 2


@pytest.mark.parametrize("file", sorted((REPO / "configs").glob("*.yaml")))
def test_recipes_are_valid_and_differ_from_the_defaults(file):
    assert differences(load_config(), load_config(file))
