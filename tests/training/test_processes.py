"""Training on two processes: one run folder, every process with samples and noise of its own, as two micro-batches have."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import accelerate
import pytest
import torch

from kdiff.config.training import LoopConfig
from kdiff.run.processes import PLACES, SETTINGS, make_accelerator
from kdiff.run.run import load_run
from kdiff.training.loop import fit
from kdiff.training.trainer import train_run

SHORT = LoopConfig(steps=3, batch_size=12, warmup=0, accumulate=2)
ASKED = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4",
    "ACCELERATE_MIXED_PRECISION": "bf16",
    "ACCELERATE_DYNAMO_BACKEND": "EAGER",
    "ACCELERATE_USE_FSDP": "true",
    "ACCELERATE_USE_DEEPSPEED": "true",
    "ACCELERATE_USE_MEGATRON_LM": "true",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "true",
}


def trained(objective, samples):
    """The metrics and the weights after three steps."""
    metrics = fit(objective, *samples, SHORT).metrics
    return metrics, {name: value.clone() for name, value in objective.module.state_dict().items()}


@pytest.fixture
def usual(make_objective, samples):
    return trained(make_objective(), samples)


def assert_equal(found, usual):
    assert found[0] == usual[0]
    assert all(torch.equal(found[1][name], value) for name, value in usual[1].items())


@pytest.mark.parametrize("name", ASKED)
def test_what_a_launcher_asks_for_is_ignored_with_a_word(make_objective, samples, usual, monkeypatch, name):
    monkeypatch.setenv(name, ASKED[name])
    with pytest.warns(UserWarning, match=f"{name}={ASKED[name]} in the environment is ignored") as said:
        assert_equal(trained(make_objective(), samples), usual)
    assert len(said) == 1
    assert os.environ[name] == ASKED[name], "the environment itself stays as it is"


def test_every_setting_that_this_accelerate_reads_changes_nothing(make_objective, samples, usual, monkeypatch):
    code = "".join(path.read_text(encoding="utf-8") for path in Path(accelerate.__file__).parent.rglob("*.py"))
    names = set(re.findall(rf"\b(?:{'|'.join(SETTINGS)})[A-Z0-9_]*[A-Z0-9]\b", code)) - set(PLACES)
    assert names > {*ASKED, "ACCELERATE_DYNAMO_MODE", "ACCELERATE_FP8_BACKEND"}
    for name in names:
        monkeypatch.setenv(name, ASKED.get(name, "true"))
    with pytest.warns(UserWarning, match="ignored"):
        assert_equal(trained(make_objective(), samples), usual)


def test_an_earlier_accelerator_of_the_process_changes_nothing(make_objective, samples, usual):
    earlier = make_accelerator("no")
    type(earlier.state)._reset_state()
    earlier = accelerate.Accelerator(gradient_accumulation_steps=4, dynamo_backend="eager")
    with earlier.accumulate(torch.nn.Linear(1, 1)):
        assert not earlier.sync_gradients
    assert_equal(trained(make_objective(), samples), usual)


def test_settings_that_ask_for_nothing_are_not_mentioned(recwarn, monkeypatch):
    """As `accelerate launch` leaves them."""
    neutral = {"GRADIENT_ACCUMULATION_STEPS": "1", "MIXED_PRECISION": "no", "DYNAMO_BACKEND": "NO", "USE_CPU": "True"}
    for name, value in neutral.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
    assert make_accelerator("bf16").mixed_precision == "bf16"
    assert not [each for each in recwarn if "ignored" in str(each.message)]


def test_a_process_that_shards_is_refused(monkeypatch):
    monkeypatch.setitem(accelerate.PartialState._shared_state, "distributed_type", accelerate.DistributedType.FSDP)
    with pytest.raises(ValueError, match=r"an accelerator for FSDP.*kdiff trains whole models only"):
        make_accelerator("no")


def test_gradients_are_not_kept_beside_the_buckets_they_are_exchanged_in() -> None:
    """As `kdiff plan` counts them: once."""
    handler = make_accelerator("no").ddp_handler
    assert handler is not None
    assert handler.gradient_as_bucket_view


def test_two_processes_train_one_run(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "kdiff", "train", "--out", "run", "--steps", "4"]
    command += ["--data", "spiral(num_samples=200)", "--network", "MLP(width=16, depth=1)", "--log_every", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    run = load_run(tmp_path / "run")
    assert run.step == 4
    assert [row["step"] for row in run.metrics()] == [2, 4]
    assert (run.folder / "training.png").exists()
    assert json.loads((run.folder / "environment.json").read_text())["processes"] == 2
    # More steps in one process: said if the batch is cut otherwise, and not if it is cut the same.
    more = replace(run.config, steps=5)
    for name in ("other", "same"):
        shutil.copytree(tmp_path / "run", tmp_path / name)
    with pytest.warns(UserWarning, match=r"cut into 2 micro-batches .* now cut into 1, .* resume with --accumulate 2"):
        train_run(more, tmp_path / "other", resume=True)
    train_run(replace(more, accumulate=2), tmp_path / "same", resume=True)
    # The same samples, times and noise, and the same mean of gradients, on one process.
    alone = train_run(replace(run.config, accumulate=2), tmp_path / "alone")
    for row, other in zip(run.metrics(), alone.metrics(), strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)


SHARDED = """
import sys

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from kdiff import KDiff, LearnedK
from kdiff.networks import MLP
from kdiff.run.averages import EMA


def step(model, optimizer):
    optimizer.zero_grad()
    loss = model.loss(x, t=t, noise=n)
    loss.backward()
    optimizer.step()
    return loss.detach()


def make():
    torch.manual_seed(0)
    return KDiff(MLP((4,), width=8, depth=2), LearnedK(0.7))


dist.init_process_group("gloo", init_method=f"file://{sys.argv[1]}", rank=int(sys.argv[2]), world_size=2)
whole, sharded = make(), make()
early = EMA(sharded, [0.5])
fully_shard(sharded, mesh=init_device_mesh("cpu", (2,)))
if dist.get_rank() == 1:  # one process alone, and the one that holds nothing of w
    assert "rate=10, sharded" in repr(sharded)
averages = [EMA(model, [0.5]) for model in (whole, sharded)]
optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (whole, sharded)]
x, t, n = torch.randn(6, 4), torch.rand(6), torch.randn(6, 4)
torch.testing.assert_close(sharded.velocity(x, 0.5), whole.velocity(x, 0.5))
for number in range(3):
    torch.testing.assert_close(*(step(model, opt) for model, opt in zip((sharded, whole), optimizers)))
    torch.testing.assert_close(sharded.target.k, whole.target.k, rtol=1e-5, atol=0)
    torch.testing.assert_close(*(model.sample(x, steps=2) for model in (sharded, whole)))
    for each in averages:
        each.update(number)
for name, average in averages[1].averages[0.5].items():
    found = average.full_tensor() if hasattr(average, "full_tensor") else average
    torch.testing.assert_close(found, averages[0].averages[0.5][name])
try:
    early.update(0)
except ValueError as error:
    assert "make EMA(module, decays) after that" in str(error), error
else:
    raise AssertionError("averages of a module that was sharded later must not stand still")
dist.destroy_process_group()
"""


def test_a_model_that_is_sharded_in_a_loop_of_ones_own(tmp_path):
    command = [sys.executable, "-c", SHARDED, str(tmp_path / "meeting")]
    options = {"env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen([*command, rank], **options) for rank in "01"]
    errors = [process.communicate(timeout=300)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
