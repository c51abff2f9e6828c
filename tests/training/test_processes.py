"""Training on two processes: one run folder, every process with samples and noise of its own."""

from __future__ import annotations

import os
import subprocess
import sys

from kdiff.training.run import load_run


def test_two_processes_train_one_run(tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2", "--num_machines", "1"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no", "-m", "kdiff", "train", "--out", "run", "--steps", "20"]
    command += ["--data", "spiral(num_samples=200)", "--network", "MLP(width=16, depth=1)", "--log_every", "10"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    run = load_run(tmp_path / "run")
    assert run.step == 20
    assert [row["step"] for row in run.metrics()] == [10, 20]
    assert (run.folder / "training.png").exists()
