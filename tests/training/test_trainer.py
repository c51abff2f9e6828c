"""Run folders: what is written, what is read back, what is refused."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from kdiff.config.parts import Part
from kdiff.config.sampling import Sampling
from kdiff.config.training import TrainConfig
from kdiff.data import Normalisation
from kdiff.files.tensors import load_tensors
from kdiff.run.build import build_model, load_dataset
from kdiff.run.generate import balanced_labels, generate
from kdiff.run.metrics import read_metrics
from kdiff.run.run import load_run
from kdiff.sampling import draw_noise
from kdiff.training.trainer import train_run

NETWORKS = """
import torch
from torch import nn

class Base(nn.Module):
    def __init__(self, size):
        super().__init__()
        self.layer = nn.Linear(size, size)

    def forward(self, z, t, y=None):
        return self.layer(z.flatten(1)).reshape(z.shape)

class OnlyShape(Base):
    def __init__(self, shape, scale=1.0):
        super().__init__(torch.Size(shape).numel())
        self.given = {"shape": shape, "scale": scale}

class WithClasses(Base):
    def __init__(self, num_classes, shape):
        super().__init__(torch.Size(shape).numel())
        self.given = {"shape": shape, "num_classes": num_classes}

class Anything(Base):
    def __init__(self, shape, **options):
        super().__init__(torch.Size(shape).numel())
        self.given = {"shape": shape, **options}

class OfImages(Base):
    def __init__(self, image_size, channels, num_classes=0):
        super().__init__(torch.Size([channels, *image_size]).numel())
        self.given = {"image_size": image_size, "channels": channels, "num_classes": num_classes}

class Wrong(Base):
    def __init__(self, shape):
        super().__init__(3)
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """120 samples (3, 2) with values 0 … 20, classes in the proportions 3 : 2 : 0 : 1 (: 0)."""
    generator = np.random.default_rng(0)
    y = np.array([0, 0, 0, 1, 1, 3] * 20)
    x = np.clip(10 + 2 * y[:, None, None] + generator.normal(size=(120, 3, 2)), 0, 20)
    path = tmp_path_factory.mktemp("data") / "mine.npz"
    np.savez(path, x=x.astype(np.float32), y=y)
    return path


@pytest.fixture(scope="module")
def config(data) -> TrainConfig:
    return TrainConfig(
        data={"name": str(data), "value_range": [0, 20], "num_classes": 5},
        network="MLP(width=16, depth=2)",
        target="learned(init=0.4)",
        timesteps="uniform(stratified=true)",
        steps=20,
        batch_size=16,
        learning_rate=0.02,
        warmup=2,
        ema=[0.9, 0.5],
        log_every=5,
        checkpoint_every=10,
    )


@pytest.fixture(scope="module")
def trained(config, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "first"
    train_run(config, folder)
    return folder


@pytest.fixture
def copy(trained, tmp_path) -> Path:
    """A copy of the run that a test may change."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def test_a_run_folder_holds_what_describes_it(config, trained):
    names = sorted(path.name for path in trained.iterdir())
    expected = [".lock", "checkpoints", "config.yaml", "data.json", "environment.json", "finished.json", "metrics.jsonl"]
    assert names == [*expected, "target.json"]
    assert json.loads((trained / "target.json").read_text())["scalars"] == {"k": pytest.approx(0.4)}
    assert TrainConfig(**yaml.safe_load((trained / "config.yaml").read_text())) == replace(config, recipe="balanced")
    data = json.loads((trained / "data.json").read_text())
    dataset = load_dataset(config)
    labels = dataset.part("train")[1]
    assert data["class_counts"] == [int((labels == label).sum()) for label in range(5)]
    assert data["class_counts"][2] == data["class_counts"][4] == 0 < min(data["class_counts"][i] for i in (0, 1, 3))
    assert sum(data["class_counts"]) == data["counts"]["train"] == len(labels)
    assert {name: data[name] for name in dataset.describe()} == dataset.describe()
    environment = json.loads((trained / "environment.json").read_text())
    assert environment["packages"]["torch"] == metadata.version("torch")
    assert environment["threads"] == torch.get_num_threads()
    assert {"command", "date", "python", "platform", "packages", "threads", "device"} == set(environment)
    rows = [json.loads(line) for line in (trained / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [5, 10, 15, 20]
    assert {"loss", "loss_along", "loss_across", "k", "w_gradient", "gradient_norm"} < set(rows[0])
    finished = json.loads((trained / "finished.json").read_text())
    assert finished["last"] == rows[-1]
    assert finished["seconds"] > 0
    assert [path.name for path in sorted((trained / "checkpoints").iterdir())] == ["step_00000010", "step_00000020"]


def test_two_runs_of_a_configuration_are_the_same_bytes(config, trained, tmp_path, contents):
    torch.manual_seed(123)
    train_run(config, tmp_path / "second")
    mine, theirs = contents(tmp_path / "second"), contents(trained)
    assert mine.keys() == theirs.keys()
    differing = {name for name in mine if mine[name] != theirs[name]}
    assert differing <= {"environment.json", "finished.json"}


def test_without_the_split_loss_all_else_is_the_same(config, trained, tmp_path, monkeypatch):
    monkeypatch.setattr("kdiff.training.trainer.principal_directions", None)
    train_run(replace(config, split_loss=False), tmp_path / "whole")
    rows, split = read_metrics(tmp_path / "whole" / "metrics.jsonl"), read_metrics(trained / "metrics.jsonl")
    assert rows[0].keys() == split[0].keys() - {"loss_along", "loss_across"}
    assert [(row["loss"], row["k"]) for row in rows] == [(row["loss"], row["k"]) for row in split]


@pytest.mark.parametrize(
    ("options", "file", "weights"),
    [
        ({}, "step_00000020/ema_0.9", "ema 0.9"),
        ({"ema": 0.9}, "step_00000020/ema_0.9", "ema 0.9"),
        ({"ema": 0.5}, "step_00000020/ema_0.5", "ema 0.5"),
        ({"ema": "none"}, "step_00000020/model", "raw"),
        ({"checkpoint": 10}, "step_00000010/ema_0.9", "ema 0.9"),
        ({"checkpoint": 10, "ema": "none"}, "step_00000010/model", "raw"),
    ],
)
def test_a_run_is_read_back_with_the_weights_that_were_asked_for(trained, options, file, weights):
    run = load_run(str(trained), **options)
    saved = load_tensors(trained / "checkpoints" / f"{file}.safetensors")
    state = run.model.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name].cpu(), value) for name, value in saved.items())
    # k belongs to the weights: it is that of the averaged w, not of the last one.
    assert run.model.target.k == pytest.approx(torch.sigmoid(run.model.target.rate * saved["target.w"]).item(), rel=1e-6)
    assert (run.weights, run.step, run.shape) == (weights, int(file[5:13]), (3, 2))
    assert not run.model.training
    assert [row["step"] for row in run.metrics()] == [5, 10, 15, 20]


def test_the_weights_to_choose_from_differ_in_k(trained):
    choices = [(20, 0.9), (20, 0.5), (20, "none"), (10, 0.9)]
    assert len({load_run(trained, step, ema).model.target.k for step, ema in choices}) == len(choices)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ema": 0.7}, "no averages with decay 0.7; it has: 0.9, 0.5 and none"),
        ({"ema": "last"}, "no averages with decay last; it has: 0.9, 0.5 and none"),
        ({"checkpoint": 15}, "no checkpoint of step 15; it has: 10, 20"),
    ],
)
def test_weights_that_are_not_there_are_refused(trained, options, message):
    with pytest.raises(ValueError, match=message):
        load_run(trained, **options)


def test_folders_that_are_no_run_are_refused(copy, tmp_path):
    with pytest.raises(ValueError, match=r"elsewhere is not a run folder: there is nothing at this place"):
        load_run(tmp_path / "elsewhere")
    checkpoint = copy / "checkpoints" / "step_00000020" / "ema_0.9.safetensors"
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ValueError, match=r"ema_0\.9\.safetensors is damaged: its checksum.* checkpoint 10 is whole: use it"):
        load_run(copy)
    checkpoint.write_bytes(whole[:-1])
    for chosen in (None, 20):
        with pytest.raises(ValueError, match=r"ema_0\.9\.safetensors is truncated.*\(--checkpoint 10\)"):
            load_run(copy, checkpoint=chosen)
    assert load_run(copy, checkpoint=10).step == 10
    other = copy / "checkpoints" / "step_00000010" / "state.json"
    state = other.read_text()
    other.unlink()
    with pytest.raises(ValueError, match=r"state\.json is missing; no other checkpoint of this run is whole: restore one"):
        load_run(copy, checkpoint=10)
    other.write_text(state)
    text = (copy / "config.yaml").read_text()
    for damage, message in {
        text.replace("width: 16", "width: 8"): r"config\.yaml is damaged: network changed since the checkpoint was written",
        text + "speed: 3\n": r"config\.yaml: unknown fields speed",
        text + "  - : [": r"config\.yaml is damaged",
        "just words": r"config\.yaml is damaged",
        text.replace("steps: 20", "steps: 0"): r"config\.yaml: steps is 0",
    }.items():
        (copy / "config.yaml").write_text(damage)
        with pytest.raises(ValueError, match=message):
            load_run(copy, checkpoint=10)
    (copy / "config.yaml").write_text(text)
    (copy / "data.json").unlink()
    with pytest.raises(ValueError, match=r"data\.json is missing"):
        load_run(copy, checkpoint=10)
    shutil.rmtree(copy / "checkpoints")
    (copy / "data.json").write_text("{}")
    with pytest.raises(ValueError, match="no checkpoint yet"):
        load_run(copy)


def test_a_folder_that_holds_a_run_is_left_alone(config, copy, contents):
    before = contents(copy)
    with pytest.raises(ValueError, match="already holds a run; continue it by --resume"):
        train_run(config, copy)
    other = replace(config, batch_size=8, network="MLP(width=8)", steps=30)
    message = "holds a run with other settings: network, batch_size; when a run is resumed, only steps, checkpoint_every"
    with pytest.raises(ValueError, match=message):
        train_run(other, copy, resume=True)
    with pytest.raises(ValueError, match="has reached step 20, but steps is 15"):
        train_run(replace(config, steps=15), copy, resume=True)
    assert contents(copy) == before


def test_bad_configurations_write_nothing(config, tmp_path, monkeypatch):
    (tmp_path / "kdiff_test_wrong.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    for changes, error in [
        ({"network": "MPL"}, ValueError),
        ({"target": 2}, ValueError),
        ({"null_rate": 2}, ValueError),
        ({"data": "no_such_data"}, ValueError),
        ({"network": "kdiff_test_wrong.Wrong"}, RuntimeError),
    ]:
        with pytest.raises(error):
            train_run(replace(config, **changes), tmp_path / "run")
    monkeypatch.delitem(sys.modules, "kdiff_test_wrong")
    assert not (tmp_path / "run").exists()


def test_resuming_a_finished_run_reads_it_back(config, copy, contents):
    before = contents(copy)
    run = train_run(config, copy, resume=True)
    assert run.step == 20
    after = contents(copy)
    assert after == before


def test_resuming_without_a_run_starts_one(config, trained, tmp_path, contents):
    train_run(config, tmp_path / "run", resume=True)
    assert contents(tmp_path / "run" / "checkpoints") == contents(trained / "checkpoints")


def test_a_run_that_was_cut_off_is_resumed_to_the_same_bytes(config, trained, copy, contents):
    """Behind step 10: its later checkpoint and its end are missing, its metrics have run ahead."""
    shutil.rmtree(copy / "checkpoints" / "step_00000020")
    (copy / "finished.json").unlink()
    run = train_run(config, copy, resume=True)
    assert run.step == 20
    mine, theirs = contents(copy), contents(trained)
    assert mine.keys() == theirs.keys()
    assert {name for name in mine if mine[name] != theirs[name]} <= {"environment.json", "finished.json"}
    # Cut off between its last checkpoint and its end: the end is written, with the last line of metrics.
    (copy / "finished.json").unlink()
    train_run(config, copy, resume=True)
    finished = json.loads((copy / "finished.json").read_text())
    assert finished["last"] == json.loads((trained / "finished.json").read_text())["last"]


def test_more_steps_make_a_finished_run_go_on(config, copy, monkeypatch):
    config = replace(config, steps=30)
    began = json.loads((copy / "environment.json").read_text())

    def stop(*args, **kwargs) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("kdiff.training.trainer.fit", stop)
        with pytest.raises(KeyboardInterrupt):
            train_run(config, copy, resume=True)
    assert not (copy / "finished.json").exists(), "a run that goes on is not finished"
    run = train_run(config, copy, resume=True)
    assert run.step == run.config.steps == 30
    finished, environment = (json.loads((copy / f"{name}.json").read_text()) for name in ("finished", "environment"))
    assert finished["last"]["step"] == 30
    assert environment["date"] == began["date"], "when it began, and not when it was gone on with"
    assert len(environment["resumed"]) == 2


def test_how_a_finished_run_is_sampled_from_may_change(config, copy):
    began = (copy / "environment.json").read_bytes()
    train_run(replace(config, sampling=Sampling(steps=7)), copy, resume=True)
    assert load_run(copy).config.sampling.steps == 7
    assert (copy / "environment.json").read_bytes() == began


def test_options_that_yaml_writes_otherwise_are_no_other_settings(config, tmp_path):
    config = replace(config, betas=(0.9, 0.95), steps=4, checkpoint_every=2)
    config.data = Part(config.data.name, {**config.data.options, "value_range": (0, 20)})
    train_run(config, tmp_path / "run")
    assert train_run(replace(config, steps=6), tmp_path / "run", resume=True).step == 6


def test_changed_data_are_refused(config, copy, tmp_path, contents):
    path = tmp_path / "mine.npz"
    shutil.copy(config.data.name, path)
    text = (copy / "config.yaml").read_text().replace(config.data.name, str(path))
    (copy / "config.yaml").write_text(text)
    run = load_run(copy)
    assert torch.equal(run.dataset().x, load_dataset(config).x)
    arrays = dict(np.load(path, allow_pickle=False))
    arrays["x"][0, 0, 0] += 1
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match=r"are not what .* was trained on: their fingerprint is .*; expected "):
        run.dataset()
    before = contents(copy)
    with pytest.raises(ValueError, match=r"have changed since the run in .* began: their fingerprint is .*; it was "):
        train_run(replace(run.config, steps=30), copy, resume=True)
    assert contents(copy) == before


def test_samples_come_in_the_datas_own_units_whatever_the_batch(trained):
    run = load_run(trained)
    x, y = run.sample(11, seed=3, steps=4)
    assert x.shape == (11, 3, 2)
    noise = draw_noise(11, (3, 2), seed=3)
    normalised = run.model.sample(noise, y=y, steps=4)
    torch.testing.assert_close(x, normalised * 10 + 10)
    assert run.normalisation.describe() == Normalisation.fit("range", torch.zeros(1), (0, 20)).describe()
    for batch_size in (1, 4, 11, 100):
        other, labels = run.sample(11, seed=3, steps=4, batch_size=batch_size)
        assert torch.equal(labels, y)
        torch.testing.assert_close(other, x, rtol=1e-4, atol=1e-4)
    first, labels = run.sample(5, seed=3, steps=4)
    assert torch.equal(labels, y[:5])
    torch.testing.assert_close(first, x[:5], rtol=1e-4, atol=1e-4)
    assert (run.sample(11, seed=4, steps=4)[0] - x).abs().min(1).values.max() > 1e-2


@pytest.mark.parametrize("counts", [[3, 1], [10, 0, 30, 60], [0, 1, 0], [1] * 10, [5]])
def test_labels_have_the_proportions_in_every_stretch_and_do_not_depend_on_it(counts):
    labels = balanced_labels(range(3000), counts)
    assert labels.dtype == torch.int64
    assert torch.equal(torch.cat([balanced_labels(range(i, i + 250), counts) for i in range(0, 3000, 250)]), labels)
    assert torch.equal(balanced_labels(range(1234, 1241), counts), labels[1234:1241])
    for start, length in [(0, 20), (0, 3000), (17, 100), (1000, 500), (2500, 500)]:
        found = torch.bincount(labels[start : start + length], minlength=len(counts))
        for count, there in zip(counts, found.tolist()):
            expected = length * count / sum(counts)
            # Random labels would be off by √length; a golden-ratio sequence is by O(log length).
            assert abs(there - expected) <= 0.6 + 0.4 * math.log(length)
            assert there == 0 or count > 0


@pytest.mark.parametrize("name", ["OnlyShape(scale=0.5)", "WithClasses", "Anything(extra=3)"])
def test_a_network_of_the_users_own_is_trained_saved_and_read_back(config, tmp_path, monkeypatch, name):
    (tmp_path / "kdiff_test_networks.py").write_text(NETWORKS)
    monkeypatch.syspath_prepend(tmp_path)
    network = f"kdiff_test_networks.{name}"
    given = {
        "OnlyShape": {"shape": (3, 2), "scale": 0.5},
        "WithClasses": {"shape": (3, 2), "num_classes": 5},
        "Anything": {"shape": (3, 2), "extra": 3},
    }[name.partition("(")[0]]
    run = train_run(replace(config, network=network, steps=3, target="data"), tmp_path / "run")
    assert type(run.model.network).__module__ == "kdiff_test_networks"
    assert run.model.network.given == given
    again = load_run(tmp_path / "run", ema="none").model.network
    saved = load_tensors(tmp_path / "run" / "checkpoints" / "step_00000003" / "model.safetensors")
    assert torch.equal(again.layer.weight.cpu(), saved["network.layer.weight"])
    images = build_model(replace(config, network="kdiff_test_networks.OfImages"), "data", (3, 8, 4), 2)
    assert images.network.given == {"image_size": (8, 4), "channels": 3, "num_classes": 2}
    monkeypatch.delitem(sys.modules, "kdiff_test_networks")


def test_data_without_labels_train_and_sample(config, tmp_path):
    config = replace(config, data="sphere(num_samples=100, ambient_dim=5)", steps=4)
    run = train_run(config, tmp_path / "run")
    assert run.class_counts is None
    assert json.loads((tmp_path / "run" / "data.json").read_text())["class_counts"] is None
    assert run.model.null == {}
    x, y = run.sample(6, steps=2)
    assert x.shape == (6, 5)
    assert y is None
    with pytest.raises(ValueError, match=r"trained without labels, so only a weaker model .* can guide it"):
        run.sample(6, steps=2, guidance=2.0)


def test_models_start_from_the_same_weights_whatever_the_target_and_the_global_state(config):
    models = {}
    for number, target in enumerate(["noise", 0.3, "learned", "learned(init=0.9)"]):
        torch.manual_seed(number)
        state = torch.get_rng_state()
        models[target] = build_model(config, target, (3, 2), 4, seed=6)
        assert torch.equal(torch.get_rng_state(), state)
    first = models["noise"].network.state_dict()
    for model in models.values():
        assert all(torch.equal(value, first[name]) for name, value in model.network.state_dict().items())
    other = build_model(config, "noise", (3, 2), 4, seed=7).network.state_dict()
    assert not torch.equal(other["input.weight"], first["input.weight"])
    assert models["noise"].null == {"y": 4}
    assert models["noise"].null_rate == 0.1
    assert repr(models["noise"].timesteps) == "Uniform(stratified=True)"


def test_labels_reach_the_network_with_their_noise(config):
    """Sample i has the noise and the label of number i, in every batch."""
    model = build_model(config, "noise", (3, 2), 4)
    seen = []
    model.network.register_forward_hook(lambda module, args, kwargs, out: seen.append((args[0], kwargs["y"])), with_kwargs=True)
    generate(model, 7, (3, 2), [1, 1, 0, 2], seed=2, batch_size=3, steps=1)
    z, y = (torch.cat(parts) for parts in zip(*seen))
    assert torch.equal(z, draw_noise(7, (3, 2), seed=2))
    assert torch.equal(y, balanced_labels(range(7), [1, 1, 0, 2]))


def test_messages_name_the_folder(config, copy):
    with pytest.raises(ValueError, match=re.escape(str(copy))):
        train_run(config, copy)
