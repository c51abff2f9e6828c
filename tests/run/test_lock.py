"""A folder that is taken away from a training: nothing more is written there, whatever stands in its place now."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from kdiff.commands.main import main
from kdiff.config.training import LoopConfig, TrainConfig
from kdiff.run.lock import FolderReplaced, check_held, locked
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
    folder, steps = tmp_path / "run", loop._Steps.run
    there: dict[str, bytes] = {}

    def run(self, step: int) -> None:
        steps(self, step)
        if step == 5 and self.config.seed == 1:
            shutil.rmtree(folder)
            # A second training in the place of the first: it is not refused, for the first one's lock has gone.
            train_run(replace(RUN, seed=2), folder)
            there.update(contents(folder))

    monkeypatch.setattr(loop._Steps, "run", run)
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
