"""What a run costs: against closed forms, and steps of the whole model that are really taken."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kdiff.commands.main import main
from kdiff.config.training import Expected, PlanConfig, TrainConfig
from kdiff.files.atomic import read_json
from kdiff.training.cost import Cost, as_json, as_text, cost_of, dry_run, expected_data, in_digits, largest_local_batch, memory
from kdiff.training.trainer import train_run

IMAGES = Expected([3, 32, 32], 10, 1000)


def jit(depth: int = 2, **more: Any) -> TrainConfig:
    network = f"JiT(patch_size=4, hidden_size=64, depth={depth}, num_heads=4, bottleneck=16, context_tokens=0)"
    return TrainConfig(data="nowhere", network=network, expects=IMAGES, **more)


class Stepped(torch.nn.Linear):
    """A network whose constructor reads numbers of a tensor, as rates that grow with depth are often made."""

    def __init__(self) -> None:
        super().__init__(5, 5)
        # Not torch.linspace, which transformers patches so that it makes real tensors even here.
        self.rates = [0.1 * rate.item() for rate in torch.arange(3.0)]

    def forward(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return super().forward(z)


class TestCost:
    def test_of_one_matrix(self) -> None:
        """Forward D², and the gradient of the weights D²: the input needs none. Two operations each."""
        cost = cost_of(TrainConfig(network="Linear", target="velocity"), Expected([24]))
        assert (cost.parameters, cost.flops, cost.tokens) == (24 * 24, 4 * 24 * 24, 0)

    def test_of_a_transformer_block(self) -> None:
        T, D, inner = 64, 64, 170
        two, five = (cost_of(jit(depth), IMAGES) for depth in (2, 5))
        matrices = 3 * 2 * (T * (4 * D**2 + 3 * D * inner) + 6 * D**2)  # forward, and the gradients of inputs and weights
        attention = (4 + 10) * T**2 * D  # two products forward, five backward, as fused kernels make them
        assert two.tokens == T
        assert (five.flops - two.flops) / 3 == matrices + attention
        block = 4 * D**2 + 4 * D + 3 * D * inner + 2 * inner + D + 6 * D**2 + 6 * D + 2 * D + 2 * 16
        assert (five.parameters - two.parameters) / 3 == block

    def test_attention_keeps_no_matrix_of_tokens_by_tokens(self) -> None:
        small, large = (cost_of(jit(), Expected([3, size, size], 10)) for size in (32, 64))
        assert large.tokens == 4 * small.tokens
        assert large.per_sample / small.per_sample == pytest.approx(4, rel=0.1)

    def test_half_precision_keeps_less(self) -> None:
        full, half = cost_of(jit(), IMAGES), cost_of(jit(precision="bf16"), IMAGES)
        assert half.flops == full.flops
        assert 0.4 * full.per_sample < half.per_sample < 0.9 * full.per_sample
        assert 0.8 < (half.fixed - full.fixed) / (2 * full.parameters) <= 1  # weights, cast, but for tables

    @pytest.mark.parametrize("precision", ["no", "bf16"])
    @pytest.mark.parametrize("name", ["JiT", "DiT", "LightningDiT"])
    def test_blocks_that_are_computed_again(self, name: str, precision: str) -> None:
        """The inside of one is kept at a time, so that of a single block all is, and each further one adds what enters it."""

        def cost(depth: int, again: bool) -> Cost:
            more = ", bottleneck=16, context_tokens=0" if name == "JiT" else ""
            network = f"{name}(patch_size=4, hidden_size=64, num_heads=4, depth={depth}, checkpointing={again}{more})"
            return cost_of(TrainConfig(network=network, precision=precision), IMAGES)

        kept, one, four, all_four = cost(1, False), cost(1, True), cost(4, True), cost(4, False)
        assert (one.fixed, one.per_sample) == (kept.fixed, kept.per_sample) == (four.fixed, kept.per_sample)
        assert four.per_sample - one.per_sample == 3 * 64 * 64 * 4  # float32 under bf16 too, as residuals are
        forward = (four.flops - all_four.flops) / 4
        assert one.flops - kept.flops == forward > 0

    @pytest.mark.parametrize("name", ["U-ViT-S/2", "U-ViT-L/2", "DiT-XL/2", "SiT-XL/2", "LightningDiT-XL/1", "JiT-H/16"])
    def test_of_published_sizes(self, name: str) -> None:
        """Whatever they draw their weights from (U-ViT from a truncated normal law, which is read while it is drawn)."""
        patch = int(name.rpartition("/")[2])
        cost = cost_of(TrainConfig(network=name), Expected([4, 4 * patch, 4 * patch], 1000))
        assert cost.tokens == 16
        assert 3e7 < cost.parameters < 1e9
        # Six per parameter and token; some parameters are tables, or work once a sample, and some tokens are no patches.
        assert 6 * 16 * 0.6 < cost.flops / cost.parameters < 6 * (16 + 32)

    def test_a_network_that_reads_its_numbers(self) -> None:
        with pytest.raises(ValueError, match=r"reads a value from a tensor.*--dry-run"):
            cost_of(TrainConfig(network="tests.training.test_cost.Stepped"), Expected([5]))

    def test_a_network_of_labels_alone_and_vectors(self) -> None:
        assert cost_of(TrainConfig(network="MLP(width=8, depth=1)"), Expected([5], 3)).flops > 0


def test_memory_by_part() -> None:
    cost = cost_of(jit(), IMAGES)
    parts = memory(cost, jit(batch_size=64, accumulate=2, ema=[0.9, 0.99]), devices=8)
    assert parts["weights"] == parts["gradients"] == 4 * cost.parameters
    assert parts["optimiser"] == parts["averages"] == 8 * cost.parameters
    assert parts["kept for backward"] == cost.fixed + 4 * cost.per_sample
    assert memory(cost, jit(optimizer="sgd"), 1)["optimiser"] == 0


def test_the_largest_batch_fits_and_one_more_does_not() -> None:
    cost, config = cost_of(jit(), IMAGES), jit(batch_size=4)
    limit = 1e8
    fits = largest_local_batch(cost, config, limit)
    assert (
        sum(memory(cost, jit(batch_size=fits), 1).values()) <= limit < sum(memory(cost, jit(batch_size=fits + 1), 1).values())
    )
    assert largest_local_batch(cost, config, 1e5) == 0


def test_device_hours(tmp_path: Path) -> None:
    config = PlanConfig(**vars(jit(steps=1000, batch_size=10)), peak_tflops=1e-3, utilisation=0.5)
    cost = cost_of(config, IMAGES)
    assert as_json(config, IMAGES, cost)["device_hours"] == pytest.approx(1000 * 10 * cost.flops / (0.5 * 1e9) / 3600)
    assert "10 epochs of 1,000" in as_text(config, IMAGES, cost)


@pytest.mark.parametrize(("precision", "peak"), [("no", 67), ("bf16", 989)])
def test_the_peak_is_that_of_the_precision(precision: str, peak: float) -> None:
    config = PlanConfig(**vars(jit(precision=precision)))
    assert as_json(config, IMAGES, cost_of(config, IMAGES))["peak_tflops"] == peak
    assert f"40% of {peak} TFLOP/s" in as_text(config, IMAGES, cost_of(config, IMAGES))


@pytest.mark.parametrize("size", [1.0, 1e-9, 1e9])
def test_no_powers_of_ten(size: float) -> None:
    config = PlanConfig(**vars(jit(steps=1000)), device_memory=1e9 * size, peak_tflops=1e6)
    cost = Cost(int(4e9 * size) + 1, 1e12 * size, 1e9 * size, 2e9 * size, 4096)
    text = as_text(config, IMAGES, cost)
    assert not re.search(r"\de[+-]?\d", text)
    assert in_digits(1024 * size) in ("1,020", "0.00000102", "1,020,000,000,000")


@pytest.mark.parametrize("wrong", [{"peak_tflops": 0}, {"utilisation": 1.5}, {"device_memory": -1}])
def test_impossible_devices(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PlanConfig(**wrong)


class TestExpectations:
    def test_data_are_read_where_nothing_is_expected(self) -> None:
        found = expected_data(TrainConfig(data="digits", train_on="all"))
        assert found == Expected([1, 8, 8], 10, 1797)

    def test_and_not_where_something_is(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kdiff.training.cost.load_dataset", lambda config: 1 / 0)
        assert expected_data(jit()) == IMAGES

    def test_neither_data_nor_expectation(self) -> None:
        with pytest.raises(ValueError, match=r"expects\.shape"):
            expected_data(TrainConfig(data="nowhere"))

    def test_training_refuses_other_data_before_it_writes(self, tmp_path: Path) -> None:
        for wrong in (Expected([1, 8, 9], 10), Expected([1, 8, 8], 9), Expected([1, 8, 8], 10, 7)):
            with pytest.raises(ValueError, match="expects"):
                train_run(TrainConfig(data="digits", expects=wrong), tmp_path / "run")
        assert not (tmp_path / "run").exists()

    def test_a_shape_of_nothing(self) -> None:
        with pytest.raises(ValueError, match=r"\[3, 256, 256\]"):
            Expected([])

    def test_it_travels_through_a_file(self, tmp_path: Path) -> None:
        config = TrainConfig(
            data="digits", network="MLP(width=8, depth=1)", steps=2, batch_size=8, expects=Expected([1, 8, 8], 10)
        )
        assert train_run(config, tmp_path / "run").config == replace(config, recipe="balanced")


class TestDryRun:
    def test_real_steps_of_the_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        fitted = dry_run(jit(batch_size=1024, ema=[0.9, 0.99]))
        assert fitted.metrics["step"] == 2
        assert fitted.metrics["loss"] > 0
        assert not list(tmp_path.iterdir())

    def test_of_vectors_without_labels(self) -> None:
        config = TrainConfig(data="nowhere", network="MLP(width=8, depth=1)", expects=Expected([5]))
        assert dry_run(config, batch_size=3, steps=1).metrics["step"] == 1


class TestCommands:
    def test_plan(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        words = ["--data", "nowhere", "--network", "MLP(width=8, depth=1)", "--expects.shape", "[5]"]
        assert main(["plan", *words, "--json", str(tmp_path / "plan.json")]) == 0
        assert "device-hours" in capsys.readouterr().out
        assert read_json(tmp_path / "plan.json")["data"] == {"shape": [5], "num_classes": 0, "num_samples": 0}

    def test_plan_of_nothing_that_is_known(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["plan", "--data", "nowhere"]) == 2
        assert "--expects.shape" in capsys.readouterr().err

    def test_dry_run(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        monkeypatch.chdir(tmp_path)
        assert main(["train", "digits", "--dry-run", "--target", "general(a=1, b=1)"]) == 0
        assert ", k " not in capsys.readouterr().out  # a target without one
        assert main(["train", "digits", "--dry-run"]) == 0
        assert "GB at most" in capsys.readouterr().out
        assert not list(tmp_path.iterdir())
