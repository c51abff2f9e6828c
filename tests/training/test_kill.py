"""A run killed by SIGKILL at any moment, and resumed, ends with the same bytes as one that was never interrupted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killing.py")
KILLS = 20


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("killed")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    result = subprocess.run(
        [sys.executable, str(SCRIPT), str(folder)], env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert result.returncode == 0, result.stderr
    return folder


def test_the_moments_are_spread_over_the_run_and_its_saving(runs):
    kills = json.loads((runs / "kills.json").read_text())
    assert [kill["status"] for kill in kills] == [9] * KILLS, "killed by signal 9"
    assert sum(kill["again"] == 9 for kill in kills) >= 5
    assert [kill["end"] for kill in kills] == [0] * KILLS
    # Before the first checkpoint, with some, and with one that is not whole yet.
    assert {kill["checkpoints"] for kill in kills} >= {0, 2}
    assert sum(any(name.startswith("checkpoints/.step_") for name in kill["partial"]) for kill in kills) >= 4


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_run_resumes_to_the_same_bytes(runs, contents, number):
    mine, theirs = contents(runs / f"{number:02d}"), contents(runs / "whole")
    assert mine.keys() == theirs.keys(), "nothing half-written is left"
    assert {name for name in mine if mine[name] != theirs[name]} <= {"environment.json", "finished.json"}
    ends = [json.loads(files["finished.json"])["last"] for files in (mine, theirs)]
    assert ends[0] == ends[1]
    weights = {name.split("/")[1] for name in mine if name.endswith(".safetensors")}
    assert weights == {"step_00000028", "step_00000030"}
    assert {f"checkpoints/step_00000030/{name}.safetensors" for name in ("model", "ema_0.9", "ema_0.5", "optimizer")} <= set(
        mine
    )
