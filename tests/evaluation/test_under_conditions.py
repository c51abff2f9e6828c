"""Evaluating, sweeping and calibrating runs with conditions: all samples are drawn under the examples of the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdiff.config.studies import SweepConfig
from kdiff.config.training import TrainConfig
from kdiff.evaluation.adoption import calibrate_run
from kdiff.evaluation.judge import Judge, evaluate
from kdiff.run.run import Run
from kdiff.studies.sweeps import sweep
from kdiff.training.trainer import train_run

CONFIG = TrainConfig(
    data="toy_conditions.conditional_gaussian",
    network="MLP(width=16, depth=2)",
    steps=60,
    batch_size=64,
    learning_rate=1e-2,
    warmup=2,
    split_loss=False,
    null_rates={"params": 0.2},
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_run(CONFIG, tmp_path_factory.mktemp("conditions") / "run")


@pytest.fixture
def seen(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """The values of the condition in every call of the network."""
    found: list[Tensor] = []
    forward = run.model.network.forward

    def spy(z: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        found.append(conditions["params"])
        return forward(z, t, **conditions)

    monkeypatch.setattr(run.model.network, "forward", spy)
    return found


def test_a_run_is_judged_under_the_examples(run: Run, seen: list[Tensor]) -> None:
    result = evaluate(run, Judge(run.dataset()), 400)
    rows = run.given.rows["params"]
    number = len(seen[0])
    assert torch.equal(seen[0], rows[torch.arange(number) % len(rows)])
    figures = result["samplers"]["clean"]["figures"]["sliced_wasserstein"]
    assert figures["value"] < 1.0  # samples at one place only would be further away
    assert "exact" in result["samplers"]["clean"]  # the exact denoiser knows no conditions, and needs none


def test_two_targets_are_judged_under_the_same_rows(run: Run, tmp_path: Path) -> None:
    other = train_run(replace(CONFIG, target="velocity", steps=2), tmp_path / "other")
    assert torch.equal(other.given.rows["params"], run.given.rows["params"])


def test_a_sweep_and_its_settings(run: Run, seen: list[Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdiff.studies.sweeps.load_run", lambda *_, **__: run)
    found, _ = sweep(run.folder, SweepConfig(guidance=[1.0, 2.0], steps=[2], num_samples=200), tmp_path / "sweep")
    assert len(found.settings) == 2
    assert all(not values[: len(values) // 2].isnan().any() for values in seen)


def test_a_calibration_is_found_and_judged_under_the_conditions(run: Run, seen: list[Tensor]) -> None:
    facts: dict[str, Any] = calibrate_run(run, knots=3, samples=64, size=20)
    assert set(facts["errors"]) == {"t", "plain", "calibrated"}
    assert seen
    assert not torch.cat(seen).isnan().any()
