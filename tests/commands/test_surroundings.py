"""What a command says if the disk is full, or if names of files are not UTF-8."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kdiff.commands.main import main
from kdiff.config.training import TrainConfig
from kdiff.files import atomic
from kdiff.files.tensors import load_tensors, save_tensors
from kdiff.run.run import load_run
from kdiff.training.trainer import train_run

ARGV = ["train", "--data", "moons(num_samples=60)", "--network", "MLP(width=8, depth=1)", "--steps", "2", "--batch-size", "8"]
BAD = os.fsdecode(b"caf\xe9")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))


@pytest.fixture
def full(monkeypatch):
    """A function that fills the disk: after `room` more files, nothing is written."""

    def fill(room: int, number: int = errno.ENOSPC) -> None:
        left = iter(range(room))
        real = os.fsync

        def fsync(handle: int) -> None:
            if next(left, None) is None:
                raise OSError(number, os.strerror(number))
            real(handle)

        monkeypatch.setattr(atomic.os, "fsync", fsync)

    return fill


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
@pytest.mark.parametrize("room", [0, 2, 4, 8])
def test_a_disk_that_is_full_at_the_start(room, number, full, capsys) -> None:
    full(room, number)
    assert main([*ARGV, "--out", "run"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert os.strerror(number) in line
    assert "run/" in line
    assert "ake room" in line
    assert "--resume" in line


def test_the_command_that_the_message_names_continues(full, monkeypatch, capsys) -> None:
    real = os.fsync
    full(4)
    assert main([*ARGV, "--out", "run"]) == 1
    monkeypatch.setattr(atomic.os, "fsync", real)
    assert main([*ARGV, "--out", "run", "--resume"]) == 0


def test_a_full_disk_ends_other_commands_with_a_sentence(full, capsys) -> None:
    assert main([*ARGV, "--out", "run"]) == 0
    full(0)
    assert main(["sample", "run", "--num", "2", "--out", "drawn"]) == 1
    assert "drawn.json could not be written: No space left on device; make room" in capsys.readouterr().err


def test_a_full_cache_says_how_to_move_it(full, capsys) -> None:
    rng = np.random.default_rng(0)
    Path("photos").mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(f"photos/{i}.png")
    full(0)
    assert main(["train", "--data", "photos", "--out", "run"]) == 1
    err = capsys.readouterr().err
    assert "set KDIFF_CACHE to a folder with enough space" in err
    assert err.count("cannot write to the cache in") == 1
    assert not Path("run/config.yaml").exists()


# Names


@pytest.mark.parametrize(
    "argv",
    [
        [*ARGV, "--out", BAD],
        [*ARGV, "--out", f"{BAD}/run"],
        ["train", "--data", f"{BAD}.npz", "--out", "run"],
        ["info", BAD],
        ["sample", "run", "--out", BAD],
        ["compare", f"{BAD}.npz", "--seeds", "1"],
        ["encode", "photos", "--autoencoder", BAD],
    ],
    ids=ascii,
)
def test_names_that_are_not_utf8_are_refused_before_anything_is_written(argv, tmp_path, capsys) -> None:
    assert main(argv) == 2
    err = capsys.readouterr().err
    assert r"caf\xe9" in err
    assert "is not valid UTF-8; rename the file or folder" in err
    assert list(tmp_path.iterdir()) == []


def test_the_library_refuses_them_too(tmp_path) -> None:
    with pytest.raises(ValueError, match="not valid UTF-8"):
        train_run(TrainConfig(data="moons(num_samples=60)", steps=2), tmp_path / BAD)
    for refused in (lambda: save_tensors(tmp_path / BAD, {}), lambda: load_tensors(tmp_path / BAD)):
        with pytest.raises(ValueError, match="not valid UTF-8"):
            refused()
    assert list(tmp_path.iterdir()) == []


def test_names_of_images_and_classes_need_not_be_utf8(capsys) -> None:
    rng = np.random.default_rng(0)
    for folder in (f"photos/{BAD}", "photos/b"):
        os.makedirs(folder)
        for i in range(12):
            Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8)).save(f"{folder}/{BAD}{i}.png")
    Path(f"photos/b/{BAD}.png").write_text("no image")
    network = "JiT(patch_size=4, hidden_size=16, depth=1, num_heads=2, context_tokens=0)"
    with pytest.warns(UserWarning, match=r"1 of 25 images cannot be read"):
        assert (
            main(["train", "--data", "photos", "--network", network, "--steps", "2", "--batch-size", "4", "--out", "run"]) == 0
        )
    assert load_run("run").data["class_names"] == ["b", BAD]
    for command in ("info", "report"):
        assert main([command, "run"]) == 0


def test_a_working_folder_need_not_be_utf8(monkeypatch, tmp_path) -> None:
    (tmp_path / BAD).mkdir()
    monkeypatch.chdir(tmp_path / BAD)
    assert main([*ARGV, "--out", "run"]) == main(["info", "run"]) == main(["report", "run"]) == 0
