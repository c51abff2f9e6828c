"""The loop, a plan and a dry run with several conditions."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn
from toy_streams import fields

from kdiff import KDiff
from kdiff.config.plain import as_dict
from kdiff.config.training import Expected, LoopConfig, PlanConfig, TrainConfig
from kdiff.run.run import load_run
from kdiff.training.calibrating import fit_calibration
from kdiff.training.cost import as_json, as_text, cost_of, dry_run, expected_data
from kdiff.training.loop import fit
from kdiff.training.objective import DiffusionObjective, by_name
from kdiff.training.trainer import train_run

CONDITIONS = [
    {"name": "params", "kind": "vector", "shape": [2]},
    {"name": "past", "kind": "field", "shape": [1, 4, 4]},
    {"name": "kind", "kind": "class", "shape": [], "num_classes": 3},
]
DATA = Expected([2, 8, 8], 5, 100, CONDITIONS)
DIT = "DiT(patch_size=4, hidden_size=16, depth=2, num_heads=2)"


class Adds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.seen = nn.Parameter(torch.zeros(2)), list[dict[str, Tensor]]()

    def forward(self, z: Tensor, t: Tensor, **conditions: Tensor) -> Tensor:
        self.seen.append(conditions)
        return self.weight * (z + conditions["params"])


def test_every_condition_is_cut_like_the_samples() -> None:
    """Micro-batches hold the rows of all conditions that belong to the rows of their samples."""
    x = torch.arange(24.0).reshape(12, 2) / 24
    conditions = {"params": x * 2, "y": torch.arange(12)}
    network = Adds()
    seen: list[Tensor] = []
    model = KDiff(network, "data")
    model.register_forward_pre_hook(lambda *_: None)
    terms = model.terms

    def spy(x: Tensor, *args: Any, **named: Tensor) -> Any:
        seen.append(x)
        assert torch.equal(named["params"], x * 2)
        assert torch.equal(named["y"], (x[:, 0] * 12).round().long())
        return terms(x, *args, **named)

    model.terms = spy  # type: ignore[method-assign]
    fit(DiffusionObjective(model), x, conditions, LoopConfig(steps=3, batch_size=4, accumulate=2, warmup=0, log_every=1))
    assert len(seen) == 6
    assert set(network.seen[0]) == {"params", "y"}


def test_labels_alone_are_the_condition_y() -> None:
    y = torch.arange(3)
    assert by_name(y) == {"y": y}
    assert by_name(None) == {}
    assert by_name({"params": y}) == {"params": y}


def test_a_plan_knows_the_conditions_without_data() -> None:
    config = PlanConfig(network=DIT, expects=DATA)
    assert expected_data(config) is DATA
    with_them, without = cost_of(config, DATA), cost_of(config, replace(DATA, conditions=[]))
    assert with_them.tokens == without.tokens == 4
    assert with_them.parameters > without.parameters
    assert with_them.flops > without.flops  # the field is two more channels
    assert "condition params (vector), condition past (field), condition kind (class)" in as_text(config, DATA, with_them)
    assert as_json(config, DATA, with_them)["data"]["conditions"] == CONDITIONS
    assert "conditions" not in as_json(config, replace(DATA, conditions=[]), without)["data"]


def test_a_dry_run_makes_up_conditions() -> None:
    fitted = dry_run(TrainConfig(network=DIT, expects=DATA, null_rates={"past": 0.5}))
    assert fitted.headline["loss"] > 0


def test_data_with_other_conditions_than_expected_are_refused(tmp_path: Any) -> None:
    expects = Expected([3], 0, 0, [{"name": "params", "kind": "vector", "shape": [5]}])
    config = TrainConfig(data="toy_conditions.conditional_gaussian", network="MLP(width=8)", steps=1, expects=expects)
    with pytest.raises(ValueError, match="the configuration expects"):
        train_run(config, tmp_path / "run")


def test_a_calibration_is_found_under_the_conditions() -> None:
    """The network is exact with the condition and useless without it, so it needs no correction only if it gets it."""

    class Exact(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, z: Tensor, t: Tensor, params: Tensor | None = None) -> Tensor:
            return self.weight * (torch.zeros_like(z) if params is None else params)

    x = torch.randn(64, 2)
    model = KDiff(Exact(), "data").eval()
    found, _ = fit_calibration(model, x, {"params": x}, knots=4, samples=32)
    assert not found.h.any()


def test_missing_entries_have_no_part_in_the_loss() -> None:
    """With a mask, the loss is the mean square error over present entries, and missing ones have no gradient and no value."""
    model = KDiff(nn.Linear(3, 3), "velocity").eval()
    model.network.forward = lambda z, t: nn.Linear.forward(model.network, z)  # type: ignore[assignment, arg-type]
    x, mask = torch.randn(5, 3), torch.rand(5, 3) < 0.6
    mask[:, 2] = False
    torch.manual_seed(1)
    loss, _ = DiffusionObjective(model)(torch.where(mask, x, float("nan")), {"mask": mask})
    torch.manual_seed(1)
    error, _ = model.terms(torch.where(mask, x, 0.0), model.timesteps.sample(5))
    torch.testing.assert_close(loss, error[mask].square().mean())
    loss.backward()
    assert model.network.weight.grad is not None  # type: ignore[union-attr]
    assert not model.network.weight.grad[2].any()  # type: ignore[union-attr, index]


def test_two_processes_compute_what_two_micro_batches_do(tmp_path: Path) -> None:
    """With conditions and missing values; the two processes read ahead from disk, and one process has the data in memory."""
    fields(str(tmp_path))  # writes the files
    config = TrainConfig(
        data=f"toy_streams.fields(folder='{tmp_path}')",
        network="MLP(width=8, depth=2)",
        steps=3,
        batch_size=16,
        log_every=1,
        split_loss=False,
        null_rates={"params": 0.5},
    )
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(as_dict(config)))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "kdiff", "train", "run.yaml", "--out", "run"]
    modules = str(Path(__file__).parents[1] / "modules")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": modules, "KDIFF_CACHE": str(tmp_path / "cache")}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr
    config = replace(config, data=f"toy_streams.fields(folder='{tmp_path}', memory=true)", accumulate=2)
    both, alone = load_run(tmp_path / "run", trust=True), train_run(config, tmp_path / "alone")
    assert both.data["fingerprint"] == alone.data["fingerprint"]
    for row, other in zip(both.metrics(), alone.metrics(), strict=True):
        assert row == pytest.approx(other, rel=1e-4)
    for name, value in alone.model.state_dict().items():
        torch.testing.assert_close(both.model.state_dict()[name], value, rtol=1e-4, atol=1e-5)
