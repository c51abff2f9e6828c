"""One process per run folder; what killed ones left is removed; warnings are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kdiff.commands.main import main
from kdiff.config.training import TrainConfig
from kdiff.files.atomic import remove_leftovers
from kdiff.run.folder import locked, warn
from kdiff.run.run import load_run
from kdiff.training.trainer import train_run

CONFIG = TrainConfig(data="spiral(num_samples=100)", network="MLP(width=8, depth=1)", steps=2, batch_size=8)
HOLD = """
import sys
from pathlib import Path
from kdiff.run.folder import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder `run`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_process_is_refused_at_once_and_a_killed_one_blocks_nobody(tmp_path, holder, capsys):
    folder = tmp_path / "run"
    with pytest.raises(ValueError, match=r"another process is training in .*run; wait for it, stop it .* by --out"):
        train_run(CONFIG, folder)
    assert [path.name for path in folder.iterdir()] == [".lock"]
    (folder / "config.yaml").write_text("steps: 2\n")
    # Where there is a run, not even its data are read first.
    assert main(["train", "--data", "no_such_data", "--resume", "--out", str(folder)]) == 2
    assert "kdiff train: error: another process is training in" in capsys.readouterr().err
    (folder / "config.yaml").unlink()
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (folder / ".lock").exists()
    assert train_run(CONFIG, folder).step == 2
    with locked(folder):  # reading needs no lock
        assert load_run(folder).step == 2


def test_the_lock_is_given_back_after_a_failure(tmp_path):
    folder = tmp_path / "run"
    with pytest.raises(ZeroDivisionError), locked(folder):
        raise ZeroDivisionError
    train_run(CONFIG, folder)
    with pytest.raises(ValueError, match="already holds a run"):
        train_run(CONFIG, folder)
    with locked(folder), pytest.raises(ValueError, match="another process"), locked(folder):
        pass
    with locked(folder):
        pass


@pytest.fixture
def dead() -> int:
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_leftovers_of_killed_processes_are_removed_and_no_others(tmp_path, dead):
    mine = [
        f".config.yaml.partial-{dead}",
        f".metrics.jsonl.partial-{os.getpid()}",
        f"checkpoints/.step_00000010.partial-{dead}",
        f"samples/.step_00000010_seed_0.png.partial-{dead}",
    ]
    others = [
        f"samples/.set.json.partial-{os.getppid()}",
        "checkpoints/step_00000010",
        ".notes.partial-copy",
        f"a.partial-{dead}",
    ]
    for name in [*mine, *others]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        if "checkpoints" in name:
            path.mkdir()
            (path / "model.safetensors").write_text("half")
        else:
            path.write_text("half")
    with locked(tmp_path):
        assert {path for path in tmp_path.rglob("*") if "partial" in path.name} == {
            tmp_path / name for name in others if "partial" in name
        }
    assert (tmp_path / "checkpoints" / "step_00000010" / "model.safetensors").exists()


def test_removing_leftovers_says_which(tmp_path, dead):
    assert remove_leftovers(tmp_path / "nowhere") == []
    (tmp_path / f".a.partial-{dead}").mkdir()
    (tmp_path / f".a.partial-{dead}" / f".b.partial-{dead}").write_text("")
    assert remove_leftovers(tmp_path) == [tmp_path / f".a.partial-{dead}"]
    assert list(tmp_path.iterdir()) == []


def test_warnings_are_said_and_kept(tmp_path):
    for text in ("one thing", "another"):
        with pytest.warns(UserWarning, match=text):
            warn(tmp_path, text)
    lines = (tmp_path / "warnings.log").read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["one thing", "another"]
    with pytest.warns(UserWarning, match="full"):
        warn(Path(os.devnull) / "nowhere", "the disk is full")
