"""Gradient accumulation: the same samples, equal gradients, a seed for every micro-batch.

What must match whatever the number of micro-batches: the samples of a step, and, for an objective that draws no random
numbers, loss, gradient and weights up to rounding. Times and noise are drawn for each micro-batch from a seed of its own, so
for diffusion a step's loss is another draw of the same estimate; what is exact there is that it is the mean over micro-batches
as one can compute them by hand.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from kdiff.config.training import LoopConfig
from kdiff.run.metrics import read_metrics
from kdiff.sampling.noise import mix_seed
from kdiff.training.loop import fit
from kdiff.training.objective import ClassificationObjective
from kdiff.training.order import DataOrder

CONFIG = LoopConfig(steps=12, batch_size=24, warmup=3, weight_decay=0.01, clip=0.5, ema=[0.9], log_every=5, seed=4)


class Watched(nn.Module):
    """A classifier that records what it is given and in which precision it answers."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 32), nn.GELU(), nn.Linear(32, 3))
        self.seen: list[torch.Tensor] = []
        self.dtypes: set[torch.dtype] = set()

    def forward(self, x):
        self.seen.append(x.clone())
        logits = self.layers(x)
        self.dtypes.add(logits.dtype)
        return logits


def classified(samples, folder, **changes):
    """A classifier trained with these settings, its averages, and its lines of metrics."""
    folder.mkdir()
    network = Watched()
    fitted = fit(ClassificationObjective(network), *samples, replace(CONFIG, **changes), folder=folder)
    return network, fitted.ema.averages[0.9], read_metrics(folder / "metrics.jsonl")


@pytest.mark.parametrize("parts", [2, 3, 24])
def test_an_objective_without_chance_trains_the_same(samples, tmp_path, parts):
    plain, plain_average, plain_rows = classified(samples, tmp_path / "plain")
    network, average, rows = classified(samples, tmp_path / "parts", accumulate=parts)
    assert (len(plain.seen), len(network.seen)) == (12, 12 * parts)
    for step, batch in enumerate(plain.seen):
        mine = network.seen[step * parts : (step + 1) * parts]
        assert [len(part) for part in mine] == [24 // parts] * parts
        # Interleaved, as over processes.
        assert torch.equal(torch.stack(mine, dim=1).flatten(0, 1), batch)
    for row, expected in zip(rows, plain_rows, strict=True):
        assert row == pytest.approx(expected, rel=1e-4)
    for name, value in network.state_dict().items():
        torch.testing.assert_close(value, plain.state_dict()[name], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(average[name], plain_average[name], rtol=1e-4, atol=1e-5)


def test_under_bfloat16_gradients_still_add_up_in_float32(samples, tmp_path):
    kinds = set()

    def record(optimizer, args, kwargs) -> None:
        kinds.update(p.grad.dtype for group in optimizer.param_groups for p in group["params"])

    handle = register_optimizer_step_pre_hook(record)
    try:
        whole, _, whole_rows = classified(samples, tmp_path / "whole", precision="bf16")
        parts, _, rows = classified(samples, tmp_path / "parts", precision="bf16", accumulate=4)
    finally:
        handle.remove()
    exact = classified(samples, tmp_path / "exact")[2]
    assert whole.dtypes == parts.dtypes == {torch.bfloat16}
    assert kinds == {torch.float32}
    assert {value.dtype for value in parts.state_dict().values()} == {torch.float32}
    for row, other, reference in zip(rows, whole_rows, exact, strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=0.01)
        assert row["loss"] == pytest.approx(reference["loss"], rel=0.01)
        assert row["loss"] != reference["loss"]


def test_a_step_is_the_mean_over_micro_batches_with_seeds_of_their_own(make_objective, samples):
    x, y = samples
    objective, by_hand = make_objective(), make_objective()
    gradients = []

    def record(optimizer, args, kwargs) -> None:
        gradients.append({name: p.grad.clone() for name, p in objective.module.named_parameters()})

    handle = register_optimizer_step_pre_hook(record)
    try:
        metrics = fit(objective, x, y, replace(CONFIG, steps=1, accumulate=3, clip=0.0)).metrics
    finally:
        handle.remove()
    rows, losses = DataOrder(len(x), 24, seed=4).batch(0), []
    by_hand.train()
    for part in range(3):
        torch.manual_seed(mix_seed(4, 0, part))
        loss, _ = by_hand(x[rows[part::3]], y[rows[part::3]])
        loss.backward()
        losses.append(loss.item())
    assert metrics["loss"] == pytest.approx(sum(losses) / 3, rel=1e-6)
    assert len(set(losses)) == 3
    for name, parameter in by_hand.module.named_parameters():
        torch.testing.assert_close(gradients[0][name], parameter.grad / 3, rtol=1e-5, atol=1e-7)
    for (z, t, _), (z_hand, t_hand, _) in zip(objective.module.network.calls, by_hand.module.network.calls, strict=True):
        assert torch.equal(z, z_hand)
        assert torch.equal(t, t_hand)
    assert len(torch.cat([t for _, t, _ in objective.module.network.calls]).unique()) == 24


def test_accumulation_is_reproducible_and_resumes_exactly(make_objective, samples, tmp_path, contents):
    config = replace(CONFIG, accumulate=4, checkpoint_every=5)
    for name in ("first", "second", "cut"):
        (tmp_path / name).mkdir()
    for name in ("first", "second"):
        fit(make_objective(), *samples, config, folder=tmp_path / name)
    cut = make_objective()

    def stop(call: int) -> None:
        if call == 4 * 7 + 2:  # between two micro-batches
            raise InterruptedError

    cut.module.network.before = stop
    with pytest.raises(InterruptedError):
        fit(cut, *samples, config, folder=tmp_path / "cut")
    fit(make_objective(seed=9), *samples, config, folder=tmp_path / "cut", resume=True)
    assert contents(tmp_path / "first") == contents(tmp_path / "second") == contents(tmp_path / "cut")
    fit(make_objective(), *samples, replace(config, accumulate=1), folder=tmp_path / "second")
    assert contents(tmp_path / "first")["metrics.jsonl"] != contents(tmp_path / "second")["metrics.jsonl"]
