"""What a run shows while it trains, samples and TensorBoard, has no part in what it becomes."""

from __future__ import annotations

import builtins
import importlib.util
import signal
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from kdiff.commands.main import main
from kdiff.config.training import TrainConfig
from kdiff.run.generate import balanced_labels
from kdiff.run.metrics import read_metrics
from kdiff.run.run import load_run
from kdiff.run.signals import Stopped
from kdiff.sampling import draw_noise
from kdiff.training.trainer import train_run

CONFIG = TrainConfig(
    data="digits",
    network="kdiff_test_dropout.Net",
    steps=20,
    batch_size=16,
    ema=[0.9, 0.5],
    log_every=3,
    checkpoint_every=6,
    keep=0,
)
# Dropout, and a layer that counts its calls and averages what it sees: all that sampling could disturb.
NETWORK = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, shape, num_classes):
        super().__init__()
        size = torch.Size(shape).numel()
        self.label = nn.Embedding(num_classes + 1, 16)
        self.into, self.norm = nn.Linear(size, 16), nn.BatchNorm1d(16)
        self.drop, self.out = nn.Dropout(0.2), nn.Linear(16, size)

    def forward(self, z, t, y):
        h = self.norm(self.into(z.flatten(1)) + self.label(y) + t[:, None])
        return self.out(self.drop(torch.relu(h))).reshape(z.shape)
"""


@pytest.fixture(autouse=True)
def _network(tmp_path, monkeypatch):
    (tmp_path / "kdiff_test_dropout.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    monkeypatch.delitem(sys.modules, "kdiff_test_dropout", raising=False)


def weights(files: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in files.items() if name == "metrics.jsonl" or name.startswith("checkpoints/")}


# Samples


def test_sampling_while_training_changes_no_byte(tmp_path, contents):
    train_run(CONFIG, tmp_path / "plain")
    steps, pictures = [], []

    def look(run) -> None:
        steps.append(run.step)
        torch.rand(3)  # and draws from the global generator
        pictures.append(run.sample(5, steps=4)[0])
        for parameter in run.model.parameters():
            nn.init.zeros_(parameter)

    train_run(replace(CONFIG, sample_every=4), tmp_path / "watched", on_sample=look)
    assert steps == [4, 8, 12, 16], "for the last step there is the run itself"
    mine, theirs = (weights(contents(tmp_path / name)) for name in ("watched", "plain"))
    assert mine == theirs
    assert len(mine) == 1 + 4 * 5
    assert all((a - b).abs().max() > 0 for a, b in zip(pictures, pictures[1:]))


def test_the_samples_are_those_of_the_averaged_weights_at_that_step(tmp_path):
    seen = {}

    def look(run) -> None:
        assert not run.model.training
        assert [row["step"] for row in run.metrics()] == list(range(3, run.step + 1, 3))
        seen[run.step] = run.sample(7, steps=3), run.weights, run.model.target.k

    train_run(replace(CONFIG, sample_every=6), tmp_path / "run", on_sample=look)
    assert sorted(seen) == [6, 12, 18]
    for step, ((x, y), name, k) in seen.items():
        saved = load_run(tmp_path / "run", checkpoint=step)
        other = saved.sample(7, steps=3)
        assert torch.equal(x, other[0])
        assert torch.equal(y, other[1])
        assert (name, k) == (saved.weights, saved.model.target.k)
        assert torch.equal(y, balanced_labels(range(7), saved.class_counts))


def test_noise_and_labels_are_the_same_every_time(tmp_path):
    starts, labels = [], []

    def look(run) -> None:
        _, y = run.sample(4, steps=2, callback=lambda step, t, z: starts.append(z) if step == 0 else None)
        labels.append(y)

    train_run(replace(CONFIG, sample_every=5), tmp_path / "run", on_sample=look)
    assert len(starts) == 3
    assert all(torch.equal(z, draw_noise(4, (1, 8, 8))) for z in starts)
    assert all(torch.equal(y, labels[0]) for y in labels)


def test_a_resumed_run_goes_on_with_its_samples(tmp_path):
    steps = []
    config = replace(CONFIG, sample_every=5)

    def stop(run) -> None:
        steps.append(run.step)
        if run.step == 10:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train_run(config, tmp_path / "run", on_sample=stop)
    train_run(replace(config, sample_every=2), tmp_path / "run", resume=True, on_sample=lambda run: steps.append(run.step))
    assert steps == [5, 10, 6, 8, 10, 12, 14, 16, 18]


def test_a_stop_at_the_very_step_loses_no_picture(tmp_path, monkeypatch):
    steps, asked = [], iter([False] * 4 + [True])
    monkeypatch.setattr("kdiff.training.loop._asked", lambda *_: signal.SIGTERM if next(asked, False) else 0)
    config = replace(CONFIG, sample_every=5)
    with pytest.raises(Stopped):
        train_run(config, tmp_path / "run", on_sample=lambda run: steps.append(run.step))
    assert steps == []
    train_run(config, tmp_path / "run", resume=True, on_sample=lambda run: steps.append(run.step))
    assert steps == [5, 10, 15]


# TensorBoard


def events(folder) -> dict[str, list[tuple[int, float]]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    reader = accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return {tag: [(event.step, event.value) for event in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def expected(folder) -> dict[str, list[tuple[int, float]]]:
    rows = read_metrics(folder / "metrics.jsonl")
    return {name: [(row["step"], pytest.approx(row[name], rel=1e-6)) for row in rows] for name in rows[0] if name != "step"}


def test_tensorboard_shows_the_lines_of_metrics(tmp_path, contents):
    train_run(CONFIG, tmp_path / "plain")
    train_run(replace(CONFIG, tensorboard=True), tmp_path / "run")
    found = events(tmp_path / "run" / "tensorboard")
    assert {"loss", "k", "gradient_norm", "learning_rate"} <= set(found)
    assert len(found["loss"]) == 7
    assert found == expected(tmp_path / "run")
    assert weights(contents(tmp_path / "run")) == weights(contents(tmp_path / "plain"))
    assert not (tmp_path / "plain" / "tensorboard").exists()


def test_a_resumed_run_has_every_event_once(tmp_path):
    def stop(run) -> None:
        raise InterruptedError

    config = replace(CONFIG, sample_every=11)  # behind the line of step 9 and the checkpoint of step 6
    with pytest.raises(InterruptedError):
        train_run(replace(config, tensorboard=True), tmp_path / "run", on_sample=stop)
    train_run(replace(config, tensorboard=True), tmp_path / "run", resume=True)
    assert events(tmp_path / "run" / "tensorboard") == expected(tmp_path / "run")
    # Switched on in the middle, it has the beginning too.
    with pytest.raises(InterruptedError):
        train_run(config, tmp_path / "late", on_sample=stop)
    train_run(replace(config, tensorboard=True), tmp_path / "late", resume=True)
    assert events(tmp_path / "late" / "tensorboard") == expected(tmp_path / "late")


def test_a_missing_package_is_named_before_anything_is_written(tmp_path, monkeypatch, capsys):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: None if name == "tensorboard" else find(name, *more))
    folder = tmp_path / "run"
    assert main(["train", "--data", "digits", "--tensorboard", "true", "--steps", "2", "--out", str(folder)]) == 2
    assert "pip install 'kdiff[tensorboard]'" in capsys.readouterr().err
    assert not folder.exists()


def test_without_tensorboard_the_package_is_not_imported(tmp_path, monkeypatch):
    usual = builtins.__import__

    def refuse(name, *more):
        assert not name.startswith(("tensorboard", "torch.utils.tensorboard"))
        return usual(name, *more)

    monkeypatch.setattr(builtins, "__import__", refuse)
    train_run(replace(CONFIG, steps=2), tmp_path / "run")
