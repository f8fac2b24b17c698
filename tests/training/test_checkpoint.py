import dataclasses
import os
import pickle
from dataclasses import asdict

import pytest
import torch

from data.good_images import GoodImages
from inspection.threshold import calibrate
from inspection.torch_inspector import read_calibrations
from training import checkpoint as module
from training import folders as runs
from training.checkpoint import Checkpoint, Progress, load_checkpoint, restore, save_checkpoint
from training.folders import find_run, run_name
from utils.config import load_config
from utils.errors import UserError


@pytest.fixture
def checkpoint():
    config = load_config(overrides={"data.category": "wood"})
    return Checkpoint(
        config,
        GoodImages(["wood/train/good/000.png"], [0], [0], [False]),
        {"weight": torch.arange(6.0).reshape(2, 3)},
        {"state": {}, "param_groups": []},
        Progress(epoch=3, step=2, loss_sum=0.1, seconds=1.5, micro_batch=4),
        [{"epoch": 1, "loss": 0.5, "seconds": 2.0}],
        {"wood": asdict(calibrate([0.2, 0.5], [0.3, 0.6], 0.1, 0.02))},
    )


def test_round_trip(tmp_path, checkpoint):
    save_checkpoint(tmp_path, checkpoint)
    loaded = load_checkpoint(tmp_path / "last.pt")
    assert torch.equal(loaded.model.pop("weight"), checkpoint.model.pop("weight"))
    assert loaded == checkpoint


class Evil:
    def __init__(self, victim):
        self.victim = victim

    def __reduce__(self):
        return os.mkdir, (str(self.victim),)


def test_foreign_files_are_refused_and_run_nothing(tmp_path, checkpoint):
    save_checkpoint(tmp_path, checkpoint)
    victim = tmp_path / "victim"
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"weight": torch.zeros(2)}, tmp_path / "other.pt")
    torch.save({"format": module.FORMAT, "evil": Evil(victim)}, tmp_path / "evil.pt")
    (tmp_path / "pickle.pt").write_bytes(pickle.dumps(Evil(victim)))
    whole = (tmp_path / "last.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    torch.save({"format": module.FORMAT, "version": module.VERSION}, tmp_path / "bare.pt")
    torch.save({"format": module.FORMAT, "version": "x"}, tmp_path / "odd.pt")
    for name in (
        "odd.pt",
        "text.pt",
        "other.pt",
        "evil.pt",
        "pickle.pt",
        "cut.pt",
        "bare.pt",
        "none.pt",
    ):
        with pytest.raises(UserError, match=name) as caught:
            load_checkpoint(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("step", "words"), [(1, "newer version .*git pull"), (-1, "older version .*train a new run")]
)
def test_other_versions_are_refused(tmp_path, checkpoint, monkeypatch, step, words):
    monkeypatch.setattr(module, "VERSION", module.VERSION + step)
    save_checkpoint(tmp_path, checkpoint)
    monkeypatch.undo()
    with pytest.raises(UserError, match=words) as caught:
        load_checkpoint(tmp_path / "last.pt")
    assert "\n" not in str(caught.value)


def test_failed_save_leaves_the_old_file(tmp_path, checkpoint, monkeypatch):
    save_checkpoint(tmp_path, checkpoint)
    before = (tmp_path / "last.pt").read_bytes()

    def half_written(content, file):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(torch, "save", half_written)
    with pytest.raises(OSError, match="disk full"):
        save_checkpoint(tmp_path, checkpoint)
    assert (tmp_path / "last.pt").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_a_flipped_bit_in_a_weight_is_noticed(tmp_path, checkpoint):
    checkpoint.model["weight"] = torch.zeros(10_000)
    save_checkpoint(tmp_path, checkpoint)
    content = bytearray((tmp_path / "last.pt").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "last.pt").write_bytes(content)
    with pytest.raises(UserError, match="last.pt is damaged"):
        load_checkpoint(tmp_path / "last.pt")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("config", []),
        ("model", None),
        ("history", "x"),
        ("progress", None),
        ("progress", {"epoch": -7}),
        ("calibrations", 3),
        ("calibrations", {"wood": {"threshold": "x"}}),
        ("calibrations", {"wood": vars(calibrate([0.2], [0.2], float("nan"), 0.02))}),
    ],
)
def test_what_is_of_another_type_ends_in_one_line(tmp_path, checkpoint, key, value):
    save_checkpoint(tmp_path, checkpoint)
    content = torch.load(tmp_path / "last.pt")
    content[key] = content[key] | value if isinstance(value, dict) else value
    torch.save(content, tmp_path / "last.pt")
    with pytest.raises(UserError, match="last.pt is damaged") as caught:
        read_calibrations(tmp_path / "last.pt", load_checkpoint(tmp_path / "last.pt"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("state", [None, {"param_groups": 3}])
def test_a_state_that_does_not_fit_is_refused(tmp_path, checkpoint, state):
    model = torch.nn.Linear(2, 1)
    checkpoint.model, checkpoint.optimizer = model.state_dict(), state
    with pytest.raises(UserError, match="last.pt does not fit"):
        restore(tmp_path / "last.pt", checkpoint, model, torch.optim.Adam(model.parameters()))


def test_newest_run_is_found(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    with pytest.raises(UserError, match="train.py"):
        find_run(None)
    for age, (name, category) in enumerate([("b", "wood"), ("a", "tile"), ("c", "wood")]):
        (tmp_path / name).mkdir()
        config = load_config(overrides={"data.category": category})
        finished = Checkpoint(
            config, GoodImages(), {}, None, Progress(), [], checkpoint.calibrations
        )
        save_checkpoint(tmp_path / name, finished)
        os.utime(tmp_path / name / "last.pt", (1000 - age, 1000 - age))
    assert find_run(None) == tmp_path / "b/last.pt"
    assert find_run(None, category="tile") == tmp_path / "a/last.pt"
    assert find_run(tmp_path / "c") == tmp_path / "c/last.pt"
    assert find_run(tmp_path / "c/last.pt") == tmp_path / "c/last.pt"
    assert run_name(tmp_path / "c/last.pt") == "c"
    assert run_name(tmp_path / "c/c.onnx") == "c.onnx"  # no folder of results is shared
    with pytest.raises(UserError, match="leather"):
        find_run(None, category="leather")


def test_runs_that_cannot_be_used_are_passed_over(tmp_path, checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    for name in ("good", "foreign", "broken_off"):
        (tmp_path / name).mkdir()
        save_checkpoint(tmp_path / name, checkpoint)
    (tmp_path / "foreign/config.yaml").write_text("- 1")
    checkpoint.calibrations = {}
    save_checkpoint(tmp_path / "broken_off", checkpoint)
    os.utime(tmp_path / "good/last.pt", (1, 1))
    assert find_run(None, category="wood") == tmp_path / "good/last.pt"
    said = capsys.readouterr().err
    assert "foreign" in said
    assert "broken_off, which is not finished" in said
    assert find_run(None, finished=False) == tmp_path / "broken_off/last.pt"
    save_checkpoint(tmp_path / "good", checkpoint)  # it is being lengthened
    assert find_run(None).parent.name in ("good", "broken_off")


BAD_FILES = {
    "zeros": bytes(500),
    "utf16": "model: unet".encode("utf-16"),
    "control": b"model: \x07\x1b[31m",
    "latin": "model: für".encode("latin-1"),
    "list": b"- 1",
    "empty": b"",
    "deep": b"[" * 5000,
    "itself": b"train: &a {lr: *a}",
    "number": b"seed: " + b"9" * 5000,
    "twice": b"seed: 1\nseed: 2",
    "no_bool": b"seed: !!bool x",
    "no_number": b'seed: !!int ""',
    "no_time": b"seed: !!timestamp x",
    "no_set": b"seed: !!set [1]",
    "folder": None,
}


@pytest.mark.parametrize("bad", BAD_FILES)
@pytest.mark.parametrize("name", ["config.yaml", "calibration.yaml"])
def test_a_bad_file_is_passed_over(name, bad, tmp_path, checkpoint, monkeypatch, capsys):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    for number, folder in enumerate(("good", "bad")):
        (tmp_path / folder).mkdir()
        config = load_config(overrides={"data.category": "wood" if folder == "good" else "all"})
        save_checkpoint(tmp_path / folder, dataclasses.replace(checkpoint, config=config))
        os.utime(tmp_path / folder / "last.pt", (number, number))
    (tmp_path / "bad" / name).unlink()
    if BAD_FILES[bad] is None:
        (tmp_path / "bad" / name).mkdir()
    else:
        (tmp_path / "bad" / name).write_bytes(BAD_FILES[bad])
    assert find_run(None, category="wood") == tmp_path / "good/last.pt"
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) <= 1
    assert all(f"passed over {tmp_path / 'bad'}: " in line for line in lines)


@pytest.mark.skipif(os.name != "posix", reason="makes a pipe")
def test_a_pipe_among_the_runs_is_not_waited_for(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    for name in ("good", "bad"):
        (tmp_path / name).mkdir()
        save_checkpoint(tmp_path / name, checkpoint)
    os.utime(tmp_path / "good/last.pt", (1, 1))
    (tmp_path / "bad/config.yaml").unlink()
    os.mkfifo(tmp_path / "bad/config.yaml")
    assert find_run(None) == tmp_path / "good/last.pt"


def test_a_run_of_several_categories_is_found_by_one_of_them(tmp_path, checkpoint, monkeypatch):
    monkeypatch.setattr(runs, "ROOT", tmp_path)
    one = next(iter(checkpoint.calibrations.values()))
    for age, (category, known) in enumerate([("all", "bolt,tile"), ("a,b", "a,b"), ("b", "b")]):
        folder = tmp_path / category
        folder.mkdir()
        config = load_config(overrides={"data.category": category})
        calibrations = dict.fromkeys(known.split(","), one)
        save_checkpoint(
            folder, dataclasses.replace(checkpoint, config=config, calibrations=calibrations)
        )
        os.utime(folder / "last.pt", (1000 - age, 1000 - age))
    for category, folder in {"tile": "all", "all": "all", "bolt,tile": "all", "b": "a,b"}.items():
        assert find_run(None, category).parent.name == folder
    assert find_run(None, "b", exact=True).parent.name == "b"
    with pytest.raises(UserError, match="no bolt run"):
        find_run(None, "bolt", exact=True)
