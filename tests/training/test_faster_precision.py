"""The precision of a training: chosen once and kept by the run, resumed by the byte, and the scale of float16."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kdiff.config.studies import CompareConfig
from kdiff.config.training import TrainConfig
from kdiff.files.tensors import load_tensors
from kdiff.run import precision_choice
from kdiff.run.folder import read_run_config
from kdiff.run.metrics import read_metrics
from kdiff.studies.comparison import plan
from kdiff.training.choosing import faster_precision
from kdiff.training.loop import TrainingDiverged, fit
from kdiff.training.objective import ClassificationObjective
from kdiff.training.trainer import train_run


@pytest.fixture
def config(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(200, 6)).astype(np.float32))
    network = "MLP(width=16, depth=2)"
    return TrainConfig(
        data=str(tmp_path / "x.npy"), network=network, steps=4, batch_size=16, split_loss=False, warmup=0, log_every=2
    )


@pytest.fixture
def timed(monkeypatch, tmp_path):
    """A machine on which a pass takes these seconds in float32 and bfloat16, and the measurements so far."""
    monkeypatch.setenv("KDIFF_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(precision_choice, "lacks_bfloat16", lambda device: "")
    state = {"float32": 2e-3, "bf16": 1e-3, "counts": []}

    def measure(seconds, batch):
        assert seconds(3, "no") > 0 < seconds(3, "bf16")  # the work itself runs
        state["counts"].append(batch)
        return {"samples": batch, "float32": state["float32"], "bf16": state["bf16"]}

    monkeypatch.setattr(precision_choice, "measure", measure)
    return state


def tensors(folder: Path) -> dict[str, bytes]:
    checkpoint = sorted((folder / "checkpoints").iterdir())[-1]
    return {path.name: path.read_bytes() for path in checkpoint.glob("*.safetensors")}


def test_auto_is_chosen_once_and_the_run_is_that_of_the_precision_itself(config, timed, tmp_path, capsys):
    train_run(replace(config, precision="auto", accumulate=2), tmp_path / "auto", progress="training")
    assert "precision bf16: a forward and backward pass of 8 samples takes 1 ms in bfloat16 and 2 ms" in capsys.readouterr().err
    assert read_run_config(tmp_path / "auto", TrainConfig).precision == "bf16"
    stored = json.loads((tmp_path / "auto" / "environment.json").read_text(encoding="utf-8"))["precision"]
    assert (stored["precision"], stored["float32"], stored["samples"]) == ("bf16", 2e-3, 8)
    train_run(replace(config, precision="bf16", accumulate=2), tmp_path / "bf16")
    assert tensors(tmp_path / "auto") == tensors(tmp_path / "bf16")
    assert timed["counts"] == [8]


@pytest.mark.parametrize("first", ["no", "bf16"])
def test_a_resumed_run_keeps_its_precision_on_a_machine_where_the_other_is_faster(config, timed, tmp_path, first):
    timed["float32"] = 2e-3 if first == "bf16" else 1e-3
    auto = replace(config, precision="auto", checkpoint_every=2)
    train_run(auto, tmp_path / "whole")
    train_run(replace(auto, steps=2), tmp_path / "parts")
    timed["float32"] = 1e-3 if first == "bf16" else 2e-3
    train_run(auto, tmp_path / "parts", resume=True)
    assert read_run_config(tmp_path / "parts", TrainConfig).precision == first
    assert tensors(tmp_path / "parts") == tensors(tmp_path / "whole")
    assert (tmp_path / "parts" / "metrics.jsonl").read_bytes() == (tmp_path / "whole" / "metrics.jsonl").read_bytes()


def test_a_comparison_has_one_precision_for_all_targets_and_keeps_it(config, timed, tmp_path):
    study = CompareConfig(data=config.data, network=config.network, steps=1, batch_size=16, seeds=2, precision="auto")
    jobs = plan(study, tmp_path / "study")[1]
    assert {job.config.precision for job in jobs} == {"bf16"}
    assert timed["counts"] == [16]
    train_run(jobs[0].config, jobs[0].folder)
    timed["float32"] = 1e-3
    assert {job.config.precision for job in plan(replace(study, batch_size=8), tmp_path / "study")[1]} == {"bf16"}
    assert {job.config.precision for job in plan(replace(study, batch_size=8), tmp_path / "other")[1]} == {"no"}


def test_measuring_changes_nothing_of_what_is_trained(make_objective, samples, timed, config):
    objective = make_objective()
    before, state = {name: value.clone() for name, value in objective.state_dict().items()}, torch.get_rng_state()
    found = faster_precision(objective, samples[0], {"y": samples[1]}, config, "a fact")
    assert found.precision == "bf16"
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[name]) for name, value in objective.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.parameters())


class Exploding(nn.Module):
    """A classifier whose gradient overflows in float16 while its loss is scaled by more than `limit`."""

    def __init__(self, limit: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.limit = nn.Linear(4, 3), limit
        self.seen: set[torch.dtype] = set()

    def forward(self, x):
        logits = self.layer(x)
        self.seen.add(logits.dtype)
        if logits.requires_grad:
            logits.register_hook(lambda gradient: gradient * (65504 / self.limit))
        return logits


SMALL = TrainConfig(steps=8, batch_size=24, warmup=0, log_every=2, checkpoint_every=4, ema=[0.9], seed=4)


def test_float16_leaves_out_the_steps_that_overflow_and_resumes_by_the_byte(samples, tmp_path):
    def train(folder, resume=False, **changes):
        folder.mkdir(exist_ok=True)
        network = Exploding(2.0**14)
        config = replace(SMALL, precision="fp16", **changes)
        fit(ClassificationObjective(network), *samples, config, folder=folder, resume=resume)
        return network, read_metrics(folder / "metrics.jsonl")

    network, rows = train(tmp_path / "whole")
    assert network.seen == {torch.float16}
    assert [row["loss_scale"] for row in rows] == sorted((row["loss_scale"] for row in rows), reverse=True)
    assert rows[0]["loss_scale"] < 2.0**16
    assert rows[0]["steps_left_out"] > 0 == rows[-1]["steps_left_out"]
    assert all(np.isfinite(row["gradient_norm"]) for row in rows)
    train(tmp_path / "parts", steps=4)
    train(tmp_path / "parts", resume=True)
    assert tensors(tmp_path / "parts") == tensors(tmp_path / "whole")
    stored = load_tensors(sorted((tmp_path / "whole" / "checkpoints").iterdir())[-1] / "optimizer.safetensors")
    assert stored["sum.scaler.scale"].item() == rows[-1]["loss_scale"]


def test_float16_that_always_overflows_is_a_divergence(samples):
    config = replace(SMALL, precision="fp16", steps=40)
    with pytest.raises(TrainingDiverged, match="loss_scale"):
        fit(ClassificationObjective(Exploding(1e-9)), *samples, config)
