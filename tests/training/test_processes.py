"""Training on two processes: one run folder, every process with samples and noise of its own, as two micro-batches have."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from kdiff.run.run import load_run
from kdiff.training.loop import make_accelerator
from kdiff.training.trainer import train_run


def test_gradients_are_not_kept_beside_the_buckets_they_are_exchanged_in() -> None:
    """As `kdiff plan` counts them: once."""
    handler = make_accelerator("no").ddp_handler
    assert handler is not None
    assert handler.gradient_as_bucket_view


def test_two_processes_train_one_run(tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "kdiff", "train", "--out", "run", "--steps", "20"]
    command += ["--data", "spiral(num_samples=200)", "--network", "MLP(width=16, depth=1)", "--log_every", "10"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    run = load_run(tmp_path / "run")
    assert run.step == 20
    assert [row["step"] for row in run.metrics()] == [10, 20]
    assert (run.folder / "training.png").exists()
    # The same samples, times and noise, and the same mean of gradients, on one process.
    alone = train_run(replace(run.config, accumulate=2), tmp_path / "alone")
    for row, other in zip(run.metrics(), alone.metrics(), strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(run.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
