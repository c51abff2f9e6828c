"""One process per run folder; what killed ones left is removed; warnings are kept."""

from __future__ import annotations

import contextlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from kdiff.commands.main import main
from kdiff.config.training import TrainConfig
from kdiff.files.atomic import remove_leftovers
from kdiff.run.build import load_dataset
from kdiff.run.folder import prepare_folder, warn
from kdiff.run.lock import locked
from kdiff.run.run import load_run
from kdiff.training.trainer import train_run

pytestmark = pytest.mark.usefixtures("no_pictures")
CONFIG = TrainConfig(data="spiral(num_samples=100)", network="MLP(width=8, depth=1)", steps=2, batch_size=8)
HOLD = """
import sys
from pathlib import Path
from kdiff.run.lock import locked
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


def trained(folder: Path, **changes):
    return train_run(replace(CONFIG, **changes), folder)


def test_resume_says_when_there_is_nothing_to_resume(tmp_path, capsys):
    argv = ["train", "--data", "spiral(num_samples=100)", "--network", "MLP(width=8, depth=1)", "--steps", "2"]
    argv += ["--batch-size", "8", "--resume", "--out"]
    assert main([*argv, str(tmp_path / "fashion")]) == 0
    assert f"{tmp_path / 'fashion'} holds no run to resume, so a new run begins there\n" in capsys.readouterr().err
    assert main([*argv, str(tmp_path / "fashoin")]) == 0
    err = capsys.readouterr().err
    assert f"fashoin holds no run to resume, so a new run begins there; did you mean --out {tmp_path / 'fashion'}?\n" in err
    assert main([*argv, str(tmp_path / "fashoin")]) == 0
    assert "to resume" not in capsys.readouterr().err


@pytest.mark.parametrize("inside", [".", "checkpoints", "checkpoints/step_00000002", "samples", "new/folder"])
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_does_not_begin_inside_a_run(tmp_path, contents, inside, resume):
    folder = tmp_path / "run"
    trained(folder)
    before = contents(folder)
    message = (
        "already holds a run; continue it by --resume" if inside == "." else "is inside a run folder; to continue that run"
    )
    if inside == "." and resume:
        assert train_run(CONFIG, folder, resume=True).step == 2
        return
    with pytest.raises(ValueError, match=message):
        train_run(replace(CONFIG, steps=3), folder / inside, resume=resume)
    assert contents(folder) == before


@pytest.mark.parametrize("name", ["state.json", "latents.json", "model_index.json"])
def test_a_run_does_not_begin_in_a_folder_of_another_kind(tmp_path, contents, name):
    (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match=r" is a (checkpoint|folder of latents|pipeline of diffusers); choose another folder"):
        train_run(CONFIG, tmp_path)
    assert contents(tmp_path) == {name: b"{}"}


def test_a_folder_of_ones_own_with_a_configuration_may_hold_runs(tmp_path):
    (tmp_path / "config.yaml").write_text("steps: 2\n")
    assert trained(tmp_path / "runs" / "a").step == 2


@pytest.mark.parametrize("shape", ["{run}", "{run}/checkpoints/step_00000002", "{run}/checkpoints"])
@pytest.mark.parametrize("command", ["train", "plan"])
def test_a_run_folder_in_place_of_a_configuration(tmp_path, capsys, shape, command):
    run = tmp_path / "run"
    trained(run)
    given = shape.format(run=run)
    assert main([command, given] if command == "plan" else [command, "--resume", given]) == 2
    expected = f"{given} is {'in ' if given != str(run) else ''}a run folder; to continue that run, type kdiff train"
    assert f"{expected} {run}/config.yaml --out {run} --resume" in capsys.readouterr().err
    assert main(["train", f"{run}/config.yaml", "--out", str(run), "--resume"]) == 0


def recorded(folder: Path) -> list[str]:
    path = folder / "warnings.log"
    return [line.split(" ", 1)[1] for line in path.read_text().splitlines()] if path.exists() else []


def test_more_steps_of_a_cosine_run_are_remarked_with_both_rates(tmp_path):
    cosine = {"schedule": "cosine", "warmup": 0, "learning_rate": 1e-3, "steps": 10, "log_every": 5, "checkpoint_every": 5}
    trained(tmp_path / "run", **cosine)
    with pytest.warns(UserWarning, match="the learning rate goes from") as said:
        train_run(replace(CONFIG, **{**cosine, "steps": 20}), tmp_path / "run", resume=True)
    # Half a cosine: at step 9 of 10 (1 + cos 0.9π)/2 = 0.0245, at step 10 of 20 exactly half.
    expected = "the learning rate goes from 2.45e-05 at step 10 to 0.0005, because the cosine schedule now ends at step 20. "
    assert str(said[0].message).startswith(expected + "To keep the rates of the run, resume it with its own --steps. ")
    assert recorded(tmp_path / "run") == [str(said[0].message)]


@pytest.mark.parametrize(
    "changes", [{"schedule": "constant"}, {"schedule": "constant", "warmup": 50}, {"schedule": "cosine", "steps": 10}]
)
def test_an_unchanged_schedule_is_not_remarked(tmp_path, changes):
    settings = {"log_every": 3, "checkpoint_every": 5, "steps": 20, "learning_rate": 1e-3, **changes}
    trained(tmp_path / "run", **{**settings, "steps": 10})
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "step_00000010")
    (tmp_path / "run" / "finished.json").unlink()
    train_run(replace(CONFIG, **settings), tmp_path / "run", resume=True)
    assert recorded(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("before", "now", "exact"),
    [
        ((1, 2), (2, 1), None),
        ((2, 1), (1, 2), None),
        ((4, 1), (2, 2), None),
        ((2, 1), (1, 1), "--accumulate 2"),
        ((1, 1), (2, 1), "a number of processes that divides 1"),
        ((4, 2), (2, 1), "--accumulate 4"),
        ((1, 1), (1, 2), "--accumulate 1"),
    ],
)
def test_other_micro_batches_are_remarked_and_the_same_ones_are_not(tmp_path, before, now, exact):
    """Processes and `accumulate` may change, as long as their product stays."""
    dataset, run = load_dataset(CONFIG), tmp_path / "run"

    def prepare(processes: int, accumulate: int, resume: bool) -> None:
        prepare_folder(replace(CONFIG, accumulate=accumulate), dataset, run, resume, processes)

    run.mkdir()
    prepare(*before, resume=False)
    prepare(*now, resume=True)
    assert recorded(run) == [], "nothing was trained yet"
    shutil.rmtree(run)
    run.mkdir()
    prepare(*before, resume=False)
    (run / "checkpoints" / "step_00000001").mkdir(parents=True)
    with pytest.warns(UserWarning, match="micro-batches") if exact else contextlib.nullcontext():
        prepare(*now, resume=True)
    cut = (
        f"up to step 1 the batch of a step was cut into {math.prod(before)} micro-batches (processes × accumulate); it is now "
    )
    assert [
        line.startswith(cut) and line.endswith(f"To continue it exactly, resume with {exact}") for line in recorded(run)
    ] == ([True] if exact else [])
    prepare(*now, resume=True)
    assert len(recorded(run)) == bool(exact), "said once"


def test_one_process_continues_what_two_began_to_the_same_bytes(tmp_path, monkeypatch, contents):
    """With the micro-batches of the two; the two themselves are in test_processes.py."""
    settings = {"steps": 6, "checkpoint_every": 3, "keep": 0, "log_every": 3, "accumulate": 2}
    trained(tmp_path / "whole", **settings)
    trained(tmp_path / "run", **{**settings, "steps": 3})
    environment = tmp_path / "run" / "environment.json"
    environment.write_text(json.dumps({**json.loads(environment.read_text()), "processes": 2}))
    config = tmp_path / "run" / "config.yaml"
    config.write_text(config.read_text().replace("accumulate: 2", "accumulate: 1"))
    train_run(replace(CONFIG, **settings), tmp_path / "run", resume=True)
    assert recorded(tmp_path / "run") == []
    runs = [contents(tmp_path / name / "checkpoints" / "step_00000006") for name in ("whole", "run")]
    assert all(runs[0][name] == runs[1][name] for name in runs[0] if name.endswith(".safetensors"))
