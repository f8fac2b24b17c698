import os

import pytest

from data.listing import expand, list_images
from utils.errors import UserError


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def names(folder):
    return [str(path.relative_to(folder)) for path in list_images(folder)]


def test_subfolders_count_and_clutter_does_not(tmp_path, capsys):
    touch(tmp_path, "b.png", "monday/a.png", "cam1/x/c.JPG", ".hidden.png", "._b.png", ".DS_Store",
          "Thumbs.db", ".ipynb_checkpoints/b-checkpoint.png", "__MACOSX/monday/._a.png",
          "monday/__MACOSX/d.png", "@eaDir/b.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/a.png",
          "monday/@EADIR/a.png", "@Recycle/a.png", "@Recently-Snapshot/a.png", "lost+found/a.png",
          "$RECYCLE.BIN/S-1-5/a.png", "System Volume Information/a.png",
          "trashbox/a.png", "DfsrPrivate/ConflictAndDeleted/a.png")  # fmt: skip
    assert names(tmp_path) == ["b.png", "cam1/x/c.JPG", "monday/a.png"]
    assert capsys.readouterr().err == ""
    assert list_images(tmp_path / "nowhere") == []


def test_what_is_passed_over_is_told_in_a_line(tmp_path, capsys):
    touch(tmp_path, "a.png", "b.heic", "c/d.HEIC", "e.csv", "README")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nothing")
    (tmp_path / "folder.png").mkdir()
    assert names(tmp_path) == ["a.png"]
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    for words in ("2 .heic", "1 .csv", "1 without a suffix", "2 no regular file", "png, jpg"):
        assert words in line
    list_images(tmp_path)
    assert capsys.readouterr().err == ""  # once


def test_photographs_of_other_formats_are_named_first(tmp_path, capsys):
    touch(tmp_path, *(f"{n}.{suffix}" for suffix in ("a", "b", "c", "d", "e", "f") for n in "12"))
    touch(tmp_path, "photo.heic")
    list_images(tmp_path)
    assert ": 1 .heic, 2 .a, 2 .b, 2 .c, 2 .d, 4 of other kinds;" in capsys.readouterr().err


def test_patterns_reach_into_clutter_only_by_its_name(tmp_path):
    touch(tmp_path, "a/1.png", "a/@eaDir/2.png", ".hidden/3.png")
    assert expand([str(tmp_path / "**/*.png")]) == [tmp_path / "a/1.png"]
    assert expand([str(tmp_path / "a/*")]) == [tmp_path / "a/1.png"]
    assert expand([str(tmp_path / "a/@eaDir/*.png")]) == [tmp_path / "a/@eaDir/2.png"]


def test_links_are_followed_but_not_round(tmp_path):
    touch(tmp_path, "elsewhere/a.png", "here/b.png")
    (tmp_path / "here/link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "here/back").symlink_to(tmp_path / "here")
    assert names(tmp_path / "here") == ["b.png", "link/a.png"]


def test_expand_takes_files_folders_and_patterns_once(tmp_path):
    touch(tmp_path, "a.png", "b.jpg", "deep/c.png", "deep/er/d.bmp", "deep/e.txt")
    assert expand([str(tmp_path / "deep")]) == [tmp_path / "deep/c.png", tmp_path / "deep/er/d.bmp"]
    assert expand([str(tmp_path / "*.*"), str(tmp_path / "a.png")]) == [
        tmp_path / "a.png",
        tmp_path / "b.jpg",
    ]
    assert expand([str(tmp_path / "d*")]) == expand([str(tmp_path / "deep")])
    for nothing in ("gone.png", "*.bmp"):  # whoever reads it reports it
        assert expand([str(tmp_path / nothing)]) == [tmp_path / nothing]
    with pytest.raises(UserError, match="is empty"):
        expand([""])
    with pytest.raises(UserError, match=r"^rtsp://me:\*\*\*@host/live is no file; .*--camera"):
        expand(["rtsp://me:secret@host/live"])
