"""A folder that is taken away from a command: nothing more is written there, whatever stands in its place now."""

from __future__ import annotations

import copy
import os
import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kdiff.commands.main import main
from kdiff.config.training import LoopConfig, TrainConfig
from kdiff.export.diffusers_folder import export
from kdiff.model import KDiff
from kdiff.report.run_pictures import SampleGrids
from kdiff.run.lock import FolderReplaced, Place, check_held, check_locks, locked, locks_around
from kdiff.run.run import Run, load_run
from kdiff.training import loop
from kdiff.training.loop import fit
from kdiff.training.trainer import train_run

CONFIG = LoopConfig(steps=12, batch_size=8, warmup=0, ema=[0.9], log_every=5, checkpoint_every=4, keep=0)
RUN = TrainConfig(data="spiral(num_samples=100)", network="MLP(width=8, depth=1)", steps=8, batch_size=8, log_every=4)


def removed(folder: Path) -> None:
    shutil.rmtree(folder)


def removed_with_its_parent(folder: Path) -> None:
    shutil.rmtree(folder.parent)


def moved(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def replaced(folder: Path) -> None:
    """By another training, as if it were there already."""
    shutil.copytree(folder, folder.with_name("other"))
    shutil.rmtree(folder)
    folder.with_name("other").rename(folder)


def replaced_by_a_link(folder: Path) -> None:
    shutil.copytree(folder, folder.with_name("other"))
    shutil.rmtree(folder)
    folder.symlink_to(folder.with_name("other"))


def replaced_by_a_file(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_text("mine")


def emptied(folder: Path) -> None:
    """As `rm -r run/*` does, which leaves hidden files."""
    for path in folder.iterdir():
        if path.name != ".lock":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def unlocked(folder: Path) -> None:
    (folder / ".lock").unlink()


WAYS = [removed, removed_with_its_parent, moved, replaced, replaced_by_a_link, replaced_by_a_file, emptied, unlocked]


@pytest.mark.parametrize("change", WAYS)
@pytest.mark.parametrize("at", [7, 9, 11])  # before a checkpoint, before a line, in the last step
def test_nothing_is_written_after_the_folder_was_taken_away(make_objective, samples, tmp_path, contents, change, at):
    folder = tmp_path / "runs" / "run"
    objective, there = make_objective(), {}

    def act(call: int) -> None:
        if call == at:
            change(folder)
            there.update(contents(tmp_path))

    objective.module.network.before = act
    message = rf"{folder} was removed or replaced .* --out NEW_PLACE"
    with locked(folder), pytest.raises(FolderReplaced, match=message):
        fit(objective, *samples, CONFIG, folder=folder)
    assert contents(tmp_path) == there
    assert change is not removed or not folder.exists()
    assert len(objective.module.network.calls) <= at + 4, "the next line of metrics finds out"


def test_the_command_ends_with_code_1_and_the_second_run_stays_whole(tmp_path, monkeypatch, capsys, contents):
    folder, steps = tmp_path / "run", loop.Steps.run
    there: dict[str, bytes] = {}

    def run(self, step: int, *more: object, **named: object) -> None:
        steps(self, step, *more, **named)
        if step == 5 and self.config.seed == 1:
            shutil.rmtree(folder)
            # A second training in the place of the first: it is not refused, for the first one's lock has gone.
            train_run(replace(RUN, seed=2), folder)
            there.update(contents(folder))

    monkeypatch.setattr(loop.Steps, "run", run)
    argv = ["train", "--data", RUN.data, "--network", str(RUN.network), "--steps", "8", "--batch-size", "8"]
    assert main([*map(str, argv), "--log-every", "4", "--seed", "1", "--out", str(folder)]) == 1
    err = capsys.readouterr().err
    assert f"kdiff train: error: {folder} was removed or replaced while this process wrote in it" in err
    assert "Traceback" not in err
    assert contents(folder) == there
    assert train_run(replace(RUN, seed=2), folder, resume=True).config.seed == 2


def test_a_picture_is_not_drawn_into_another_folder(tmp_path):
    folder, drawn = tmp_path / "run", []

    def draw(run) -> None:
        drawn.append(run.step)
        replaced(folder)

    with pytest.raises(FolderReplaced):
        train_run(replace(RUN, sample_every=3), folder, on_sample=draw)
    assert drawn == [3]


def test_what_is_still_there_is_accepted(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    check_held(tmp_path)  # not locked by this process: it has only to exist
    with locked(folder):
        check_held(folder)
        check_held(Path(os.path.relpath(folder)))
        monkeypatch.chdir(folder)
        check_held(Path("../run"))
        with pytest.raises(FolderReplaced):
            check_held(folder, "config.yaml")
    shutil.rmtree(folder)
    with pytest.raises(FolderReplaced):
        check_held(folder)
    with locked(folder):
        check_held(folder)


def test_a_folder_that_is_replaced_before_the_first_step_is_left_alone(make_objective, samples, tmp_path, contents):
    folder = tmp_path / "run"
    with locked(folder):
        (folder / "metrics.jsonl").write_text("of another run")
        replaced(folder)
        there = contents(tmp_path)
        with pytest.raises(FolderReplaced):
            fit(make_objective(), *samples, CONFIG, folder=folder)
    assert contents(tmp_path) == there


# A run that is only read, and is taken away before its results are written


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the run R and the run OTHER, which has another seed; read only."""
    folder = tmp_path_factory.mktemp("runs")
    train_run(RUN, folder / "R")
    train_run(replace(RUN, seed=1), folder / "OTHER")
    return folder


def replaced_by_other(run: Path) -> None:
    shutil.rmtree(run)
    shutil.copytree(run.with_name("OTHER"), run)


def overwritten_by_other(run: Path) -> None:
    """In the same folder, as by `rm -r R/*; cp -r OTHER/* R`."""
    emptied(run)
    shutil.copytree(run.with_name("OTHER"), run, dirs_exist_ok=True)


def link_turned(run: Path) -> None:
    shutil.rmtree(run)
    run.symlink_to(run.with_name("OTHER"))


TAKEN = [removed, moved, replaced_by_other, overwritten_by_other, link_turned, replaced_by_a_file]
COMMANDS = {
    "evaluate": ["--num-samples", "60", "--exact", "false"],
    "sample": ["--num", "4"],
    "sweep": ["--num-samples", "60", "--steps", "2", "--solver", "euler"],
    "report": [],
}


def sampled_after(monkeypatch: pytest.MonkeyPatch, calls: int, act: Callable[[], None]) -> None:
    """Act once a model has sampled that many times."""
    usual, done = KDiff.sample, []

    def sample(self, *args, **options):
        found = usual(self, *args, **options)
        done.append(True)
        if len(done) == calls:
            act()
        return found

    monkeypatch.setattr(KDiff, "sample", sample)


@pytest.mark.parametrize("change", TAKEN)
@pytest.mark.parametrize("command", COMMANDS)
def test_nothing_of_a_run_is_written_where_it_no_longer_stands(
    runs, tmp_path, monkeypatch, capsys, contents, command, change
) -> None:
    folder, there = Path(shutil.copytree(runs, tmp_path / "runs")) / "R", {}

    def act() -> None:
        change(folder)
        there.update(contents(tmp_path))

    sampled_after(monkeypatch, 1, act)
    assert main([command, str(folder), *COMMANDS[command]]) == 1
    out, err = capsys.readouterr()
    assert f"kdiff {command}: error: {folder} was removed or replaced after this process had read its run" in err
    assert "partial" not in err
    assert out == ""
    assert contents(tmp_path) == there
    assert folder.exists() == (change not in (removed, moved))


@pytest.mark.parametrize("change", [removed, replaced_by_other])
def test_a_sweep_makes_no_folder_again_between_its_settings(runs, tmp_path, monkeypatch, capsys, contents, change) -> None:
    folder, there = Path(shutil.copytree(runs, tmp_path / "runs")) / "R", {}

    def act() -> None:
        assert list((folder / "sweeps" / "settings").iterdir())
        change(folder)
        there.update(contents(tmp_path))

    sampled_after(monkeypatch, 2 + 10 + 1, act)  # two trials, the first setting, and a group of the second
    assert main(["sweep", str(folder), "--num-samples", "60", "--steps", "2", "3", "--solver", "euler"]) == 1
    assert f"{folder} was removed or replaced" in capsys.readouterr().err
    assert contents(tmp_path) == there


@pytest.mark.parametrize("command", ["sample", "sweep"])
def test_results_elsewhere_are_written_although_the_run_has_gone(runs, tmp_path, monkeypatch, command) -> None:
    folder = Path(shutil.copytree(runs, tmp_path / "runs")) / "R"
    sampled_after(monkeypatch, 1, lambda: removed(folder))
    assert main([command, str(folder), *COMMANDS[command], "--out", str(tmp_path / "out" / "x")]) == 0
    assert list((tmp_path / "out").rglob("*.json"))
    assert not folder.exists()


def test_a_sweep_whose_own_folder_is_removed_says_so(runs, tmp_path, monkeypatch, capsys) -> None:
    sampled_after(monkeypatch, 2, lambda: removed(tmp_path / "out"))
    assert main(["sweep", str(runs / "R"), *COMMANDS["sweep"], "--out", str(tmp_path / "out")]) == 1
    assert f"{tmp_path / 'out'} was removed or replaced while this process wrote in it" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_picture_in_training_is_not_drawn_into_a_folder_replaced_meanwhile(runs, tmp_path, monkeypatch, contents) -> None:
    folder = Path(shutil.copytree(runs, tmp_path / "runs")) / "R"
    run = load_run(folder)
    sampled_after(monkeypatch, 1, lambda: replaced_by_other(folder))
    with pytest.raises(FolderReplaced):
        SampleGrids()(run)
    assert contents(folder) == contents(runs / "OTHER")


@pytest.mark.parametrize("change", [removed, replaced_by_other])
def test_nothing_is_exported_into_a_run_that_has_gone(runs, tmp_path, contents, change) -> None:
    folder = Path(shutil.copytree(runs, tmp_path / "runs")) / "R"
    run = load_run(folder)
    change(folder)
    there = contents(tmp_path)
    with pytest.raises(FolderReplaced):
        export(run, folder / "diffusers")
    assert contents(tmp_path) == there
    assert (export(run, tmp_path / "elsewhere") / "kdiff.json").exists()


def test_a_run_that_is_resumed_or_evaluated_meanwhile_still_stands_there(runs, tmp_path) -> None:
    folder = Path(shutil.copytree(runs, tmp_path / "runs")) / "R"
    run = load_run(folder)
    train_run(replace(RUN, steps=12, keep=1), folder, resume=True)  # writes config.yaml again and removes the checkpoint
    (folder / "evaluation.json").write_text("{}")
    run.place.check()
    load_run(folder).place.check()


def test_a_place_can_be_copied_and_is_closed(runs, tmp_path) -> None:
    folder = Path(shutil.copytree(runs / "R", tmp_path / "R"))
    run = load_run(folder)
    number = run.place._number
    other = replace(run, folder=runs / "OTHER")
    copies: list[Run] = [copy.copy(run), copy.deepcopy(run), other]
    kept = pickle.loads(pickle.dumps(run.place))
    removed(folder)
    for place in (run.place, kept, *(each.place for each in copies[:2])):
        with pytest.raises(FolderReplaced):
            place.check()
        place.check(tmp_path / "elsewhere")
    other.place.check()
    del run, copies, place
    if number is not None:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(number)
    Place(tmp_path / "nothing").check()  # nothing was read there


@pytest.mark.parametrize("change", [removed, moved, replaced, unlocked])
def test_a_worker_finds_out_what_happened_to_a_folder_that_its_parent_holds(tmp_path, change) -> None:
    folder = tmp_path / "a" / "out"
    with locked(folder):
        locks = locks_around(folder / "runs" / "velocity")
        assert list(locks) == [folder]
        assert locks_around(tmp_path / "a" / "output") == {}
        check_locks(pickle.loads(pickle.dumps(locks)))
        change(folder)
        with pytest.raises(FolderReplaced, match=f"{folder} was removed or replaced"):
            check_locks(locks)
    assert locks_around(folder / "runs") == {}
