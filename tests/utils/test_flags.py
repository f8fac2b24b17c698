"""Flags of every script, as typed by hand or by a script whose variable is not set."""

import pytest
from conftest import assert_one_line, run_script

FLAGS = {
    "train.py": ["--config", "--resume", "--add", "--data-root", "--category"],
    "infer.py": ["--checkpoint", "--output", "--data-root", "--category", "--save"],
    "eval.py": ["--checkpoint", "--output", "--data-root"],
    "calibrate.py": ["--good", "--defects", "--data-root", "--threshold"],
    "export.py": ["--checkpoint", "--output", "--data-root"],
    "stream.py": ["--checkpoint", "--output", "--watch", "--video", "--heartbeat"],
    "benchmark.py": ["--config", "--output"],
    "pretrain.py": ["--output"],
}
PAIRS = [(script, flag) for script, flags in FLAGS.items() for flag in flags]


@pytest.mark.parametrize(("script", "flag"), PAIRS)
def test_an_empty_value_is_not_this_folder(script, flag, trained, tmp_path):
    more = ["."] if script == "pretrain.py" else []
    if script == "calibrate.py":
        more = [trained[1]]
    if script == "stream.py" and flag != "--watch":
        more = ["--watch", "."]
    result = run_script(script, *more, flag, "", cwd=tmp_path)
    assert_one_line(result, flag.lstrip("-").replace("data-root", "data.root"))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("setting", ["data.region=", "backbone.weights= ", "train.lr="])
def test_a_setting_without_a_value_is_not_null(setting, tmp_path):
    result = run_script("train.py", "--set", setting, cwd=tmp_path)
    assert_one_line(result, setting.strip(), "has no value", "=null")


def test_wrong_flags_are_one_line(tmp_path):
    for flags in (["--nonsense"], ["--batch"], ["--batch", "many"], ["--outp", "x"]):
        assert_one_line(run_script("infer.py", *flags, cwd=tmp_path), flags[0], "")
    assert_one_line(run_script("infer.py", "--nonsense", cwd=tmp_path), "infer.py --help")


@pytest.mark.parametrize(
    "flags",
    [
        ["--checkpoint", "rtsp://u:S3cret@h/x"],
        ["--checkpoint", "u:S3cret@h/x"],
        ["--data-root", "https://h/x?api_key=S3cret"],
        ["--data-root", "smb://u%3AS3cret@h/x"],
    ],
)
def test_no_error_shows_a_password(flags, trained, tmp_path):
    run = [] if "--checkpoint" in flags else ["--checkpoint", trained[1]]
    result = run_script("infer.py", *run, *flags, cwd=tmp_path)
    assert_one_line(result, "***")
    assert "S3cret" not in result.stderr + result.stdout


@pytest.mark.parametrize("script", ["infer.py", "eval.py", "calibrate.py", "export.py"])
@pytest.mark.parametrize("flags", [["--category", "bolt"], ["--model", "padim"]])
def test_flags_that_do_not_fit_the_named_run_are_refused(script, flags, trained, tmp_path):
    named = [trained[1]] if script == "calibrate.py" else ["--checkpoint", trained[1]]
    more = ["--threshold", "7"] if script == "calibrate.py" else []
    result = run_script(script, *named, *flags, *more, cwd=tmp_path)
    assert_one_line(result, flags[0], flags[1], "unet" if flags[0] == "--model" else "tile")
