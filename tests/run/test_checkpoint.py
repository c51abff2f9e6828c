"""Checkpoints come back as they were, or are refused by name; a failed one leaves nothing."""

from __future__ import annotations

import json
import re
import shutil

import pytest
import torch
from torch import nn

from kdiff.config.training import LoopConfig
from kdiff.files.tensors import load_tensors, load_weights, save_tensors
from kdiff.run import checkpoint as module_under_test
from kdiff.run.averages import EMA
from kdiff.run.checkpoint import NotSaved, check_checkpoint, ema_file, list_checkpoints, load_optimizer, save_checkpoint
from kdiff.training.loop import fit
from kdiff.training.optimiser import make_optimizer

CONFIG = LoopConfig(steps=6, batch_size=8, warmup=0, ema=[0.5, 0.9], checkpoint_every=3, log_every=4)


class Parts:
    """A trained module with its averages and optimiser, saved at step 12."""

    def __init__(self, folder, make_objective, samples) -> None:
        self.folder = folder
        self.objective = make_objective()
        self.optimizer = make_optimizer(self.objective, CONFIG)
        self.module = self.objective.module
        self.ema = EMA(self.module, CONFIG.ema)
        for step in range(3):
            self.objective(*samples)[0].backward()
            self.optimizer.step()
            self.ema.update(step)
        self.sums = {"loss": torch.tensor(1.25), "steps": torch.tensor(3.0)}
        self.path = self.save(12)

    def save(self, step):
        return save_checkpoint(self.folder, step, self.module, self.ema, self.optimizer, self.sums)


@pytest.fixture
def parts(tmp_path, make_objective, samples) -> Parts:
    return Parts(tmp_path / "checkpoints", make_objective, samples)


def test_a_checkpoint_comes_back_as_it_was(parts, make_objective):
    assert parts.path == parts.folder / "step_00000012"
    assert check_checkpoint(parts.path)["step"] == 12
    other = make_objective(seed=5)
    optimizer = make_optimizer(other, CONFIG)
    load_weights(other.module, load_tensors(parts.path / "model.safetensors"), parts.path)
    state = parts.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in other.module.state_dict().items())
    assert torch.equal(other.module.target.w, parts.module.target.w)
    sums = load_optimizer(optimizer, load_tensors(parts.path / "optimizer.safetensors"))
    assert sums == parts.sums
    mine, theirs = optimizer.state_dict()["state"], parts.optimizer.state_dict()["state"]
    assert mine.keys() == theirs.keys()
    assert len(mine) == len(list(other.module.parameters()))
    for index, values in theirs.items():
        assert set(values) == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(mine[index][name], value) for name, value in values.items())
    for decay in CONFIG.ema:
        saved = load_tensors(parts.path / ema_file(decay))
        assert all(torch.equal(saved[name], value) for name, value in parts.ema.averages[decay].items())
        assert "target.w" in saved


def test_there_are_safetensors_and_json_and_nothing_else(parts):
    names = sorted(path.name for path in parts.path.iterdir())
    assert names == ["ema_0.5.safetensors", "ema_0.9.safetensors", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert [path.name for path in parts.folder.iterdir()] == ["step_00000012"]
    state = json.loads((parts.path / "state.json").read_text())
    assert set(state["files"]) == set(names) - {"state.json"}
    assert all(facts["bytes"] == (parts.path / name).stat().st_size for name, facts in state["files"].items())


def test_decays_that_look_alike_have_files_of_their_own():
    names = [ema_file(decay) for decay in (0.0, 0.999, 0.9999, 0.9999999, 0.99999991)]
    assert len(set(names)) == 5
    assert names[1] == "ema_0.999.safetensors"
    assert ema_file(0) == ema_file(0.0)


def test_checkpoints_are_listed_oldest_first(parts):
    for step in (100, 5, 99_999_999):
        parts.save(step)
    (parts.folder / "notes.txt").write_text("")
    (parts.folder / "step_notes.txt").write_text("")
    assert [int(path.name[5:]) for path in list_checkpoints(parts.folder)] == [5, 12, 100, 99_999_999]
    assert list_checkpoints(parts.folder / "nowhere") == []


FILES = ("model.safetensors", "ema_0.5.safetensors", "optimizer.safetensors")


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_refused_by_name(parts, name):
    file = parts.path / name
    whole = file.read_bytes()
    for length in (0, 7, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:length])
        for digests in (True, False):
            with pytest.raises(ValueError, match=f"{re.escape(str(file))} is truncated"):
                check_checkpoint(parts.path, digests)
        with pytest.raises(ValueError, match=f"{re.escape(str(file))} is truncated"):
            load_tensors(file)


@pytest.mark.parametrize("name", FILES)
def test_a_changed_byte_is_refused_by_name(parts, name):
    file = parts.path / name
    whole = file.read_bytes()
    for position in (0, 9, len(whole) // 2, len(whole) - 1):
        changed = bytearray(whole)
        changed[position] ^= 1
        file.write_bytes(bytes(changed))
        with pytest.raises(ValueError, match=f"{re.escape(str(file))} is damaged: its checksum"):
            check_checkpoint(parts.path)


def test_any_changed_byte_of_the_state_is_refused(parts):
    file = parts.path / "state.json"
    whole = file.read_bytes()
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 1
        file.write_bytes(bytes(changed))
        with pytest.raises(ValueError, match="step_00000012"):
            check_checkpoint(parts.path)
    file.write_bytes(whole)
    assert check_checkpoint(parts.path)["step"] == 12


@pytest.mark.parametrize("name", [*FILES, "state.json"])
def test_a_missing_file_is_refused_by_name(parts, name):
    (parts.path / name).unlink()
    with pytest.raises(ValueError, match=f"{re.escape(str(parts.path / name))} is missing"):
        check_checkpoint(parts.path)
    if name != "state.json":
        with pytest.raises(ValueError, match=f"{re.escape(str(parts.path / name))} is missing"):
            load_tensors(parts.path / name)


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"format": 2, "step": 12, "files": {}}, r"step_00000012 has format 2; this version of kdiff reads format 1"),
        ({"step": 12, "files": {}}, "has format None"),
        ({"format": 1, "step": 12}, r"state\.json is damaged"),
        ({"format": 1, "step": 13, "files": {}}, r"state\.json is damaged: it says that the step is 13"),
        ([], r"state\.json is damaged"),
    ],
)
def test_a_state_of_another_kind_is_refused(parts, state, message):
    (parts.path / "state.json").write_text(json.dumps(state))
    with pytest.raises(ValueError, match=message):
        check_checkpoint(parts.path)


def test_weights_of_another_network_are_refused_with_what_differs(tmp_path):
    module = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    right = {name: torch.zeros_like(value) for name, value in before.items()}
    without = {name: value for name, value in right.items() if name != "0.bias"}
    cases = {
        r"1 missing \(0\.bias\)$": without,
        r"1 not in this network \(2\.weight\)$": {**right, "2.weight": torch.zeros(1)},
        r"1 of another shape \(0\.weight \(3, 4\) instead of \(3, 2\)\)$": {**right, "0.weight": torch.zeros(3, 4)},
        r"4 missing \(0\.bias, 0\.weight, 1\.bias, …\); 1 not in this network": {"a": torch.zeros(1)},
    }
    for message, tensors in cases.items():
        with pytest.raises(ValueError, match=f"^{re.escape(str(tmp_path))} holds the weights of another network: {message}"):
            load_weights(module, tensors, tmp_path)
        assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    load_weights(module, right, tmp_path)
    assert not any(value.any() for value in module.state_dict().values())


class Broken(Exception):
    pass


@pytest.mark.parametrize("step", [12, 24])
@pytest.mark.parametrize("failing", [1, 2, 3, 4, "write_json", "check"])
def test_a_checkpoint_that_fails_in_the_middle_leaves_the_others_and_nothing_else(
    parts, tmp_path, contents, monkeypatch, step, failing
):
    """At each of its files, after half of that file is written; at the step that is there already, and at a new one."""
    before = sorted(tmp_path.rglob("*")), contents(tmp_path)
    calls = []

    def save(path, tensors) -> None:
        calls.append(path)
        save_tensors(path, tensors)
        if len(calls) == failing:
            path.write_bytes(path.read_bytes()[:50])
            raise Broken

    def fail(*args) -> None:
        raise Broken

    monkeypatch.setattr(module_under_test, "save_tensors", save)
    if failing == "write_json":
        monkeypatch.setattr(module_under_test, "write_json", fail)
    if failing == "check":
        monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(Broken):
        parts.save(step)
    assert (sorted(tmp_path.rglob("*")), contents(tmp_path)) == before


def test_a_full_disk_in_the_middle_of_training_leaves_the_older_checkpoint(
    make_objective, samples, tmp_path, contents, monkeypatch
):
    calls = []

    def save(path, tensors) -> None:
        calls.append(path)
        if len(calls) == 6:
            raise OSError(28, "No space left on device")
        save_tensors(path, tensors)

    monkeypatch.setattr(module_under_test, "save_tensors", save)
    with pytest.raises(NotSaved, match=r"could not be saved: .*No space left.* Make room .* --resume") as caught:
        fit(make_objective(), *samples, CONFIG, folder=tmp_path)
    assert f"The newest saved checkpoint is {tmp_path / 'checkpoints' / 'step_00000003'}." in str(caught.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000003"]
    check_checkpoint(tmp_path / "checkpoints" / "step_00000003")
    fit(make_objective(seed=7), *samples, CONFIG, folder=tmp_path, resume=True)
    (tmp_path / "whole").mkdir()
    fit(make_objective(), *samples, CONFIG, folder=tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    assert len(whole) == 11
    shutil.rmtree(tmp_path / "whole")
    assert contents(tmp_path) == whole


class Odd(nn.Module):
    """Tied weights, an integer buffer, a buffer that is a view, and a transposed weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.third = nn.Parameter(torch.randn(3, 2).T)
        self.register_buffer("count", torch.arange(3))
        self.register_buffer("view", torch.arange(8.0)[::2])


def test_weights_of_every_layout_are_saved_and_each_file_is_a_whole_model(tmp_path):
    module = Odd()
    optimizer = torch.optim.AdamW(module.parameters())
    ema = EMA(module, [0.5])
    with torch.no_grad():
        module.third.add_(1)
    ema.update(100)
    path = save_checkpoint(tmp_path, 1, module, ema, optimizer, {})
    for name in ("model.safetensors", "ema_0.5.safetensors"):
        other = Odd()
        load_weights(other, load_tensors(path / name), path / name)
        offset = 0.5 if name.startswith("ema") else 0.0
        torch.testing.assert_close(other.third, module.third - offset)
        for key in ("first.weight", "second.bias", "count", "view"):
            torch.testing.assert_close(other.state_dict()[key], module.state_dict()[key])
        assert other.second.weight is other.first.weight
