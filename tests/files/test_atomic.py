"""Files and folders appear whole or not at all."""

from __future__ import annotations

import errno
import json
import math
import os
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from kdiff.files import atomic
from kdiff.files.atomic import finite, new_file, new_folder, read_json, write_json, write_text


class Broken(Exception):
    pass


def fail(*args, **kwargs):
    raise Broken


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_text_is_written_and_replaced(tmp_path):
    path = tmp_path / "a.txt"
    for text in ("first äöü ∥\n", ""):
        write_text(path, text)
        assert path.read_bytes() == text.encode()
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("where", ["os.fsync", "pathlib.Path.replace"])
@pytest.mark.parametrize("existing", [None, "old"])
def test_a_failing_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, where, existing):
    path = tmp_path / "a.txt"
    if existing:
        path.write_text(existing)
    before = contents(tmp_path)
    monkeypatch.setattr(where, fail)
    with pytest.raises(Broken):
        write_text(path, "new")
    assert contents(tmp_path) == before


def test_names_of_files_that_are_not_utf8_come_back_from_json_and_yaml(tmp_path):
    names = [os.fsdecode(b"caf\xe9 \xff"), "ä"]
    write_json(tmp_path / "a.json", names)
    assert read_json(tmp_path / "a.json") == names
    write_text(tmp_path / "a.yaml", yaml.safe_dump(names, allow_unicode=True))
    assert yaml.safe_load((tmp_path / "a.yaml").read_text(encoding="utf-8")) == names


def test_what_json_has_no_number_for_becomes_null(tmp_path):
    value = {"a": math.nan, "b": [math.inf, 1, (-math.inf, 2.5)], "c": {"d": math.nan, "e": "NaN", "f": None, "g": True}}
    expected = {"a": None, "b": [None, 1, [None, 2.5]], "c": {"d": None, "e": "NaN", "f": None, "g": True}}
    assert finite(value) == expected
    path = tmp_path / "a.json"
    write_json(path, value)
    assert read_json(path) == expected == json.loads(path.read_text(), parse_constant=fail)
    assert isinstance(read_json(path)["c"]["g"], bool)


def test_a_value_that_is_no_json_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    before = contents(tmp_path)
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert contents(tmp_path) == before


@pytest.mark.parametrize("damage", [b'{"a": 1', b"", b"\xff\xfe{}"])
def test_damaged_json_is_named(tmp_path, damage):
    path = tmp_path / "facts.json"
    with pytest.raises(ValueError, match=r"facts\.json is missing"):
        read_json(path)
    path.write_bytes(damage)
    with pytest.raises(ValueError, match=r"facts\.json is damaged"):
        read_json(path)


def test_a_folder_appears_when_it_is_full_and_replaces_the_old_one(tmp_path):
    target = tmp_path / "made" / "here"
    for text in ("one", "two"):
        with new_folder(target) as aside:
            (aside / "sub").mkdir()
            (aside / "sub" / "a.txt").write_text(text)
            (aside / f"{text}.txt").write_text("")
            assert not (target / f"{text}.txt").exists()
    assert contents(tmp_path) == {"made/here/sub/a.txt": b"two", "made/here/two.txt": b""}
    assert os.listdir(target.parent) == ["here"]


@pytest.mark.parametrize("error", [Broken, KeyboardInterrupt])
@pytest.mark.parametrize("existing", [False, True])
def test_a_folder_that_fails_in_the_middle_leaves_the_old_one_and_nothing_else(tmp_path, error, existing):
    target = tmp_path / "folder"
    if existing:
        target.mkdir()
        (target / "a.txt").write_text("old")
    before = sorted(tmp_path.rglob("*")), contents(tmp_path)

    def fill() -> None:
        with new_folder(target) as aside:
            (aside / "a.txt").write_text("new")
            raise error

    with pytest.raises(error):
        fill()
    assert (sorted(tmp_path.rglob("*")), contents(tmp_path)) == before


def test_a_folder_whose_files_cannot_be_flushed_does_not_appear(tmp_path, monkeypatch):
    monkeypatch.setattr("os.fsync", fail)

    def fill() -> None:
        with new_folder(tmp_path / "folder") as aside:
            (aside / "a.txt").write_text("new")

    with pytest.raises(Broken):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_files_have_the_permissions_of_the_user_s_other_files(tmp_path):
    """Also those of safetensors, which nobody else may read as that library writes them."""
    (tmp_path / "other").touch()
    with new_file(tmp_path / "a.safetensors") as aside:
        save_file({"x": torch.ones(1)}, aside)
    with new_folder(tmp_path / "b") as folder:
        save_file({"x": torch.ones(1)}, folder / "b.safetensors")
    expected = (tmp_path / "other").stat().st_mode
    assert [(tmp_path / name).stat().st_mode for name in ("a.safetensors", "b/b.safetensors")] == [expected] * 2


def test_leftovers_of_a_killed_process_are_not_mixed_in(tmp_path):
    left = tmp_path / f".folder.partial-{os.getpid()}"
    left.mkdir()
    (left / "old.txt").write_text("")
    with new_folder(tmp_path / "folder") as aside:
        (aside / "new.txt").write_text("")
    assert contents(tmp_path) == {"folder/new.txt": b""}


@pytest.mark.parametrize("write", [lambda path: write_text(path, "new"), new_folder], ids=["file", "folder"])
def test_the_new_name_is_flushed_to_disk_too(tmp_path, monkeypatch, write):
    """Without this, a power cut after the rename can lose a checkpoint that was reported."""
    flushed, path = [], tmp_path / "new"
    monkeypatch.setattr(atomic.os, "fsync", lambda handle: flushed.append((os.fstat(handle).st_ino, path.exists())))
    written = write(path)
    if written is not None:
        with written as inside:
            (inside / "below").mkdir()
            write_text(inside / "below" / "a.txt", "")
            below = (inside / "below").stat().st_ino
        assert (below, False) in flushed
    assert path.exists()
    assert flushed[-1] == (tmp_path.stat().st_ino, True)
    assert (path.stat().st_ino, False) in flushed


def test_a_file_system_that_cannot_flush_names_is_no_error(tmp_path, monkeypatch):
    def fsync(handle):
        if os.fstat(handle).st_ino == tmp_path.stat().st_ino:
            raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(atomic.os, "fsync", fsync)
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new"


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.txt'"):
        write_text(tmp_path / "a.txt", "new")
    with pytest.raises(OSError, match=r"No space left on device: '.*b'"), new_folder(tmp_path / "b") as inside:
        (inside / "a.txt").write_text("")
    assert list(tmp_path.iterdir()) == []
