"""Damaged checkpoints, few kept ones and full disks: what is whole stays, and the run goes on from it."""

from __future__ import annotations

import json
import resource
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch

from kdiff.commands.main import _short_warnings, main
from kdiff.config.training import LoopConfig, TrainConfig
from kdiff.files import tensors as tensors_module
from kdiff.files.tensors import save_tensors
from kdiff.run.checkpoint import NotSaved, check_checkpoint, keep_newest, list_checkpoints
from kdiff.run.run import load_run
from kdiff.training.loop import fit
from kdiff.training.trainer import train_run

pytestmark = pytest.mark.usefixtures("no_pictures")
CONFIG = LoopConfig(steps=50, batch_size=8, warmup=0, ema=[0.9], log_every=7, checkpoint_every=10, keep=0)
RUN = TrainConfig(
    data="spiral(num_samples=100)",
    network="MLP(width=8, depth=1)",
    steps=30,
    batch_size=8,
    ema=[0.9],
    log_every=7,
    checkpoint_every=10,
)


@pytest.fixture
def whole(make_objective, samples, tmp_path) -> Path:
    """A trained folder with checkpoints 10, 20, … 50."""
    folder = tmp_path / "whole"
    folder.mkdir()
    fit(make_objective(), *samples, CONFIG, folder=folder)
    return folder


@pytest.fixture
def copy(whole, tmp_path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def truncate(checkpoint: Path) -> None:
    file = checkpoint / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def flip(checkpoint: Path) -> None:
    """A byte changed without a change of size."""
    file = checkpoint / "optimizer.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(bytes(data))


def lose(checkpoint: Path) -> None:
    (checkpoint / "ema_0.9.safetensors").unlink()


def garble(checkpoint: Path) -> None:
    (checkpoint / "state.json").write_text('{"format": 1, "st')


# Falling back


@pytest.mark.parametrize("damage", [truncate, flip, lose, garble])
@pytest.mark.parametrize("count", [1, 3])
def test_resuming_falls_back_to_the_newest_whole_checkpoint(make_objective, samples, whole, copy, contents, damage, count):
    damaged = list_checkpoints(copy / "checkpoints")[-count:]
    for path in damaged:
        damage(path)
    objective = make_objective(seed=9)
    with pytest.warns(UserWarning, match=f"continuing from step_000000{50 - 10 * count}, the newest whole") as caught:
        fit(objective, *samples, CONFIG, folder=copy, resume=True)
    assert len(objective.module.network.calls) == 10 * count
    for path in damaged:
        assert str(path) in str(caught[0].message)
        assert (copy / "checkpoints" / f"damaged_{path.name}").is_dir()
    assert (copy / "warnings.log").read_text().count("continuing from") == 1
    mine, theirs = contents(copy), contents(whole)
    assert {name: mine[name] for name in theirs} == theirs
    assert names(copy) == sorted([*names(whole), *(f"damaged_{path.name}" for path in damaged)])
    # It is told once: what was set aside is not looked at again.
    assert len(list_checkpoints(copy / "checkpoints")) == 5
    fit(make_objective(), *samples, CONFIG, folder=copy, resume=True)


def test_damage_to_an_older_checkpoint_is_none_of_resumings_business(make_objective, samples, copy, contents):
    truncate(copy / "checkpoints" / "step_00000030")
    before = contents(copy)
    fit(make_objective(), *samples, CONFIG, folder=copy, resume=True)
    assert contents(copy) == before


def test_with_nothing_whole_nothing_is_touched(make_objective, samples, copy, contents):
    for path in list_checkpoints(copy / "checkpoints"):
        truncate(path)
    before = contents(copy)
    with pytest.raises(ValueError, match=r"no checkpoint of .*copy is whole: .*step_00000050.*step_00000010.* --out"):
        fit(make_objective(), *samples, CONFIG, folder=copy, resume=True)
    assert contents(copy) == before


def test_a_checkpoint_of_a_newer_version_is_no_damaged_one(make_objective, samples, copy, contents):
    state = copy / "checkpoints" / "step_00000050" / "state.json"
    state.write_text(json.dumps({**json.loads(state.read_text()), "format": 2}))
    before = contents(copy)
    with pytest.raises(ValueError, match="has format 2; this version of kdiff reads format 1"):
        fit(make_objective(), *samples, CONFIG, folder=copy, resume=True)
    assert contents(copy) == before


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_with_a_damaged_newest_checkpoint(tmp_path, contents, capsys, finished):
    train_run(RUN, tmp_path / "run")
    before = contents(tmp_path / "run")
    truncate(tmp_path / "run" / "checkpoints" / "step_00000030")
    if not finished:
        (tmp_path / "run" / "finished.json").unlink()
    with pytest.raises(ValueError, match=r"step_00000030.* truncated.*checkpoint 20 is whole"):
        load_run(tmp_path / "run")
    assert load_run(tmp_path / "run", checkpoint=20).step == 20
    argv = ["--data", "spiral(num_samples=100)", "--network", "MLP(width=8, depth=1)", "--steps", "30", "--batch-size", "8"]
    argv += ["--ema", "0.9", "--log-every", "7", "--checkpoint-every", "10", "--out", str(tmp_path / "run"), "--resume"]
    capsys.readouterr()
    with pytest.warns(UserWarning, match="continuing from step_00000020"):
        assert main(["train", *argv]) == 0
    after = contents(tmp_path / "run")
    differing = {name for name in before if after[name] != before[name]}
    assert differing <= {"environment.json", "finished.json"}
    assert load_run(tmp_path / "run").step == 30


def test_a_warning_is_a_line_like_an_error():
    usual = warnings.formatwarning("x", DeprecationWarning, "file.py", 3)
    with _short_warnings("train"):
        assert warnings.formatwarning("it was damaged", UserWarning, "file.py", 3) == "kdiff train: warning: it was damaged\n"
        assert warnings.formatwarning("x", DeprecationWarning, "file.py", 3) == usual
    assert "file.py" in warnings.formatwarning("it was damaged", UserWarning, "file.py", 3)


# Keeping few


@pytest.mark.parametrize(("keep", "left"), [(0, [10, 20, 30, 40, 50]), (1, [50]), (2, [40, 50]), (9, [10, 20, 30, 40, 50])])
def test_the_newest_are_kept(make_objective, samples, whole, tmp_path, contents, keep, left):
    (tmp_path / "run").mkdir()
    fit(make_objective(), *samples, replace(CONFIG, keep=keep), folder=tmp_path / "run")
    assert names(tmp_path / "run") == [f"step_{step:08d}" for step in left]
    mine = contents(tmp_path / "run")
    assert mine == {name: data for name, data in contents(whole).items() if name in mine}


def test_an_old_one_goes_only_when_the_new_one_is_whole(make_objective, samples, tmp_path, monkeypatch):
    seen = []

    def keep_and_look(folder: Path, keep: int) -> None:
        for path in list_checkpoints(folder):
            check_checkpoint(path)
        seen.append([int(path.name[5:]) for path in list_checkpoints(folder)])
        keep_newest(folder, keep)

    monkeypatch.setattr("kdiff.training.loop.keep_newest", keep_and_look)
    fit(make_objective(), *samples, replace(CONFIG, keep=1), folder=tmp_path)
    assert seen == [[10], [10, 20], [20, 30], [30, 40], [40, 50]]


def test_resuming_catches_up_and_never_counts_damaged_ones(make_objective, samples, copy):
    truncate(copy / "checkpoints" / "step_00000050")
    with pytest.warns(UserWarning, match="step_00000040"):
        fit(make_objective(), *samples, replace(CONFIG, steps=40, keep=2), folder=copy, resume=True)
    assert names(copy) == ["damaged_step_00000050", "step_00000030", "step_00000040"]


# Full disks


@contextmanager
def no_files_larger_than(size: int) -> Iterator[None]:
    """Writing more fails with OSError, as on a full disk; half of the file is then there."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_safetensors_cannot_write_is_an_os_error(tmp_path, samples):
    with no_files_larger_than(1000), pytest.raises(OSError, match=r"File too large: '.*a\.safetensors'"):
        save_tensors(tmp_path / "a.safetensors", {"x": samples[0].repeat(10, 1)})


def test_a_real_limit_in_the_middle_of_a_run(make_objective, samples, whole, tmp_path, contents):
    objective, limit = make_objective(), no_files_larger_than(3000)
    objective.module.network.before = lambda call: limit.__enter__() if call == 25 else None
    (tmp_path / "run").mkdir()
    try:
        with pytest.raises(NotSaved, match=r"step_00000030 could not be saved: .*step_00000020\. Make room .* --resume"):
            fit(objective, *samples, CONFIG, folder=tmp_path / "run")
    finally:
        limit.__exit__(None, None, None)
    there = contents(tmp_path / "run")
    assert names(tmp_path / "run") == ["step_00000010", "step_00000020"]
    assert all(there[name] == data for name, data in contents(whole).items() if name in there and name != "metrics.jsonl")
    fit(make_objective(seed=9), *samples, CONFIG, folder=tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == contents(whole)


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), safetensors.SafetensorError("os error 28")])
def test_the_command_says_what_to_do(tmp_path, contents, capsys, monkeypatch, error):
    """The seventh file is the second checkpoint's last."""
    calls, save_file = [], tensors_module.save_file

    def save(tensors, path) -> None:
        calls.append(path)
        if len(calls) == 6:
            path.write_bytes(b"half")
            raise error
        save_file(tensors, path)

    argv = ["train", "--data", "spiral(num_samples=100)", "--network", "MLP(width=8, depth=1)", "--steps", "30"]
    argv += ["--checkpoint-every", "10", "--keep", "1", "--out", str(tmp_path / "run")]
    with monkeypatch.context() as patch:
        patch.setattr(tensors_module, "save_file", save)
        assert main(argv) == 1
    err = capsys.readouterr().err
    assert "kdiff train: error: the checkpoint" in err
    assert "28" in err
    assert "Make room (delete older runs, lower keep) and continue with --resume" in err
    assert "Traceback" not in err
    assert names(tmp_path / "run") == ["step_00000010"]
    check_checkpoint(tmp_path / "run" / "checkpoints" / "step_00000010")
    assert main([*argv, "--resume"]) == 0
    assert names(tmp_path / "run") == ["step_00000030"]


def test_a_line_of_metrics_that_cannot_be_written(make_objective, samples, whole, tmp_path, contents):
    objective, limit = make_objective(), no_files_larger_than(300)
    objective.module.network.before = lambda call: limit.__enter__() if call == 25 else None
    (tmp_path / "run").mkdir()
    try:
        with pytest.raises(NotSaved, match=r"metrics\.jsonl could not be written: .*Make room and continue with --resume"):
            fit(objective, *samples, CONFIG, folder=tmp_path / "run")
    finally:
        limit.__exit__(None, None, None)
    fit(make_objective(seed=9), *samples, CONFIG, folder=tmp_path / "run", resume=True)
    assert contents(tmp_path / "run") == contents(whole)
