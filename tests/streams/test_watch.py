import os
import shutil
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from brightness import SIZE
from frames import save
from PIL import Image

from data.images import ImageError
from streams import watch as watch_module
from streams.source import Gap
from streams.watch import Watch
from utils.errors import UserError


def look(watch, times=2):
    """Names and images, or errors, of so many looks into a folder."""
    frames = [frame for _ in range(times) for frame in watch._images(watch._arrived())]
    return [(Path(frame.about["path"]).name, frame.image) for frame in frames]


def look_for(watch, seconds):
    """Names and images, or errors, that come within a time."""
    end, found = time.monotonic() + seconds, []
    while time.monotonic() < end:
        found += look(watch, times=1)
        time.sleep(0.01)
    return found


def test_half_written_files_are_waited_for(tmp_path):
    save(tmp_path / "whole.png", 10)
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    source = tmp_path / "source.txt"
    Image.fromarray(noise).save(source, format="png")
    data = source.read_bytes()
    watch, late = Watch(tmp_path, settle=0.3), tmp_path / "late.png"
    late.write_bytes(data[: len(data) // 2])
    assert [name for name, _ in look_for(watch, 0.5)] == ["whole.png"]
    with late.open("ab") as stream:
        stream.write(data[len(data) // 2 :])
    assert look_for(watch, 0.1) == []  # has just changed
    ((name, image),) = look_for(watch, 0.5)
    assert name == "late.png"
    assert np.array_equal(image, noise)


def test_a_file_of_full_length_that_is_filled_slowly_gets_one_verdict(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    source, late = tmp_path / "source.txt", tmp_path / "late.bmp"
    Image.fromarray(noise).save(source, format="bmp")
    data = source.read_bytes()
    third = len(data) // 3
    late.write_bytes(data[:third] + bytes(len(data) - third))
    watch, seen = Watch(tmp_path, settle=0.3), []
    for part in (slice(third, 2 * third), slice(2 * third, None)):
        seen += look_for(watch, 0.15)
        with late.open("r+b") as stream:
            stream.seek(part.start)
            stream.write(data[part])
    ((name, image),) = seen + look_for(watch, 0.6)
    assert name == "late.bmp"
    assert np.array_equal(image, noise)


def test_what_arrives_in_one_look_comes_in_order_of_writing(tmp_path):
    watch = Watch(tmp_path, settle=0)
    for name, written in (("c", 1000), ("b", 3000), ("a", 3000), ("d", 2000)):
        save(tmp_path / f"{name}.png", 10, written)
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".hidden.png").touch()
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")  # would hang whoever reads it
    assert [name for name, _ in look(watch)] == ["c.png", "d.png", "a.png", "b.png"]
    save(tmp_path / "old.png", 10, written=1)
    assert [name for name, _ in look(watch)] == ["old.png"]


def test_a_bad_file_is_reported_once_and_the_rest_go_on(tmp_path):
    watch, bad = Watch(tmp_path, settle=0.1), tmp_path / "bad.png"
    bad.write_text("no image")
    save(tmp_path / "good.png", 10)
    assert [name for name, _ in look_for(watch, 0.2)] == ["good.png"]
    ((name, error),) = look_for(watch, 0.4)
    assert name == "bad.png"
    assert isinstance(error, ImageError)
    save(bad, 20)  # mended
    ((name, image),) = look_for(watch, 0.3)
    assert image[0, 0, 0] == 20


def test_deleted_files_are_forgotten(tmp_path):
    watch = Watch(tmp_path, settle=0)
    for number in range(30):
        save(tmp_path / "now.png", number)
        (tmp_path / f"{number}.png").write_text("half")
        look(watch, times=1)
        look(watch, times=1)
        (tmp_path / f"{number}.png").unlink()
        (tmp_path / "now.png").rename(tmp_path / "last.png")
    assert set(watch.yielded) | set(watch.waiting) <= {"now.png", "last.png", "29.png"}
    (tmp_path / "last.png").unlink()
    save(tmp_path / "other.png", 1)
    look(watch)
    assert set(watch.yielded) | set(watch.waiting) == {"other.png"}


def test_a_file_deleted_before_it_is_read_is_no_failure(tmp_path):
    for name in ("a.png", "b.png"):
        save(tmp_path / name, 10)
    watch = Watch(tmp_path, settle=0)
    assert look(watch, times=1) == []
    (tmp_path / "a.png").unlink()
    assert [name for name, _ in look(watch)] == ["b.png"]
    save(tmp_path / "b.png", 20)
    watch = Watch(tmp_path, settle=0)
    look(watch, times=1)
    ready = watch._arrived()
    (tmp_path / "b.png").unlink()  # between the look and the reading
    assert ready == ["b.png"]
    assert watch._read("b.png") is None


class Reading:
    """A watch that is read in a thread, as `in_turn` does; what it gave is in `frames`."""

    def __init__(self, watch):
        self.frames, self.stopping = [], threading.Event()
        self.watch = watch
        self.thread = threading.Thread(target=self._read)

    def __enter__(self):
        self.thread.start()
        return self

    def _read(self):
        for frame in self.watch.frames(self.stopping):
            self.frames.append(frame)
            self.watch.finished(frame)

    def wait(self, count):
        end = time.monotonic() + 10
        while len(self.frames) < count and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.05)  # for more than there should be
        assert len(self.frames) == count

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()


@pytest.mark.parametrize("unmounted", [False, True])
def test_a_share_that_drops_is_waited_for(tmp_path, monkeypatch, unmounted):
    monkeypatch.setattr(watch_module, "POLL", 0.01)
    folder, away = tmp_path / "share", tmp_path / "away"
    folder.mkdir()
    save(folder / "a.png", 10)
    with Reading(Watch(folder, settle=0)) as reading:
        reading.wait(1)
        folder.rename(away)
        if unmounted:  # leaves an empty folder
            folder.mkdir()
            time.sleep(0.1)
            folder.rmdir()
        reading.wait(2)
        time.sleep(0.1)
        away.rename(folder)
        save(folder / "b.png", 20)
        reading.wait(4)
    first, gone, gap, last = [frame.image for frame in reading.frames]
    assert isinstance(gone, ImageError) and str(folder) in str(gone)
    assert isinstance(gap, Gap) and gap.seconds >= 0.1
    assert (first[0, 0, 0], last[0, 0, 0]) == (10, 20)  # and a.png not again


def test_a_gap_that_is_not_over_at_the_end_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(watch_module, "POLL", 0.01)
    (tmp_path / "share").mkdir()
    with Reading(Watch(tmp_path / "share", settle=0)) as reading:
        shutil.rmtree(tmp_path / "share")
        reading.wait(1)
    assert isinstance(reading.frames[-1].image, Gap)


def test_a_new_start_goes_on_where_the_former_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(watch_module, "POLL", 0.01)
    folder, output = tmp_path / "arriving", tmp_path / "out"
    folder.mkdir()
    output.mkdir()

    def names(again=False, count=1):
        watch = Watch(folder, settle=0)
        watch.open()
        watch.resume(output, again)
        with Reading(watch) as reading:
            reading.wait(count)
        return [Path(frame.name).name for frame in reading.frames]

    save(folder / "a.png", 10, written=1000)
    save(folder / "b.png", 10, written=2000)
    assert names(count=2) == ["a.png", "b.png"]
    save(folder / "b.png", 30)  # while nobody looks
    save(folder / "c.png", 30, written=3000)
    assert sorted(names(count=2)) == ["b.png", "c.png"]
    assert names(count=0) == []
    assert sorted(names(again=True, count=3)) == ["a.png", "b.png", "c.png"]
    (state,) = output.iterdir()
    state.write_text("{")
    with pytest.raises(UserError, match="--again"):
        names()


def test_what_is_handed_out_but_not_inspected_comes_again(tmp_path):
    save(tmp_path / "a.png", 10)
    output = tmp_path / "out"
    output.mkdir()
    for _ in range(2):  # the first start was killed before the line was written
        watch = Watch(tmp_path, settle=0)
        watch.resume(output, again=False)
        assert [name for name, _ in look(watch)] == ["a.png"]
        watch._save(every=0)


@pytest.mark.skipif(os.name != "posix", reason="makes names of odd bytes")
def test_folders_and_files_of_any_name_are_watched(tmp_path):
    for name in (b"caf\xe9", b"n" * 245, "größe".encode()):
        folder = tmp_path / os.fsdecode(name)
        folder.mkdir()
        save(folder / os.fsdecode(b"\xe9.png"), 10)
        for count in (1, 0):
            watch = Watch(folder, settle=0)
            watch.open()
            watch.resume(tmp_path, again=False)
            with Reading(watch) as reading:
                reading.wait(count)


def test_a_state_that_cannot_be_saved_stops_nothing(tmp_path, capsys):
    save(tmp_path / "a.png", 10)
    watch = Watch(tmp_path, settle=0)
    watch.resume(tmp_path / "gone", again=False)
    with Reading(watch) as reading:
        reading.wait(1)
    assert watch.disk.failed
    assert capsys.readouterr().err.count("cannot write") == 1
