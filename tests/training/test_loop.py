"""The loop: learns, repeats itself byte for byte, matches targets, resumes exactly, stops before it saves what is broken."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from kdiff.config.training import LoopConfig
from kdiff.files.tensors import load_tensors
from kdiff.run.checkpoint import list_checkpoints
from kdiff.run.metrics import read_metrics
from kdiff.training.loop import TrainingDiverged, fit
from kdiff.training.objective import ClassificationObjective

CONFIG = LoopConfig(
    steps=60,
    batch_size=32,
    warmup=5,
    schedule="cosine",
    weight_decay=0.01,
    ema=[0.99, 0.5],
    log_every=7,
    checkpoint_every=10,
    keep=0,
)


class Interrupted(Exception):
    pass


def run_into(folder, objective, samples, config=CONFIG, **options):
    folder.mkdir(exist_ok=True)
    return fit(objective, *samples, config, folder=folder, **options)


def test_the_loss_goes_down(make_objective, samples):
    config = replace(CONFIG, steps=300, learning_rate=3e-3, checkpoint_every=0)
    objective = make_objective()
    objective.module.network.dropout.p = 0.0
    untrained = fit(make_objective(), *samples, replace(config, steps=1, learning_rate=1e-12)).metrics["loss"]
    fitted = fit(objective, *samples, config)
    assert fitted.metrics["loss"] < 0.6 * untrained
    assert fitted.metrics["step"] == 300
    assert fitted.seconds > 0
    assert not objective.module.training


def test_metrics_are_means_over_their_interval(make_objective, samples, tmp_path):
    folders = {every: tmp_path / str(every) for every in (1, 7)}
    for every, folder in folders.items():
        run_into(folder, make_objective(), samples, replace(CONFIG, log_every=every, steps=30))
    single, rows = (read_metrics(folder / "metrics.jsonl") for folder in folders.values())
    assert [row["step"] for row in single] == list(range(1, 31))
    assert [row["step"] for row in rows] == [7, 14, 21, 28, 30]
    for row in rows:
        start = max(r["step"] for r in [{"step": 0}, *rows] if r["step"] < row["step"])
        within = single[start : row["step"]]
        for name in ("loss", "loss_along", "loss_across", "gradient_norm", "w_gradient"):
            assert row[name] == pytest.approx(sum(r[name] for r in within) / len(within), rel=1e-6)
        for name in ("k", "learning_rate"):
            assert row[name] == within[-1][name]
        assert row["loss_along"] + row["loss_across"] == pytest.approx(row["loss"], rel=1e-6)
        assert row["loss_across"] > 0 < row["loss_along"]


def test_the_same_seed_gives_the_same_bytes_whatever_the_global_state(make_objective, samples, tmp_path, contents):
    found = []
    for number in (1, 2):
        torch.manual_seed(number)
        objective = make_objective()
        torch.manual_seed(10 * number)
        state = torch.get_rng_state()
        run_into(tmp_path / str(number), objective, samples)
        assert torch.equal(torch.get_rng_state(), state), "training must not move the global generator"
        found.append(contents(tmp_path / str(number)))
    assert found[0] == found[1]
    last = "checkpoints/step_00000060"
    names = {"model.safetensors", "optimizer.safetensors", "ema_0.99.safetensors", "ema_0.5.safetensors", "state.json"}
    assert {f"{last}/{name}" for name in names} | {"metrics.jsonl"} <= set(found[0])
    run_into(tmp_path / "other", make_objective(), samples, replace(CONFIG, seed=1))
    other = contents(tmp_path / "other")
    assert all(other[name] != found[0][name] for name in ("metrics.jsonl", f"{last}/model.safetensors"))


def test_targets_see_the_same_batches_times_and_noise(make_objective, samples):
    """z is a function of sample, noise and time alone, so equal z and t mean equal batches, times and noise."""
    calls, weights = {}, {}
    for target in ("noise", "data", "learned", "learned again"):
        objective = make_objective(target.split()[0], seed=target == "learned again")
        fit(objective, *samples, replace(CONFIG, steps=25))
        calls[target] = objective.module.network.calls
        weights[target] = objective.module.network.network.hidden[1].weight
    for target in ("data", "learned", "learned again"):
        assert len(calls[target]) == 25
        for mine, theirs in zip(calls[target], calls["noise"]):
            assert all(torch.equal(a, b) for a, b in zip(mine, theirs))
        assert not torch.equal(weights[target], weights["noise"])
    z, t, y = (torch.cat(parts) for parts in zip(*calls["noise"]))
    assert len(t.unique()) > 790, "every step has times of its own"
    assert len(z.unique(dim=0)) == len(z)
    assert set(y.tolist()) == {0, 1, 2, 3}
    other = make_objective("noise")
    fit(other, *samples, replace(CONFIG, steps=1, seed=1))
    assert not torch.equal(other.module.network.calls[0][1], calls["noise"][0][1])


@pytest.mark.parametrize("at", [4, 30, 36, 38])
def test_a_run_that_was_cut_off_goes_on_exactly(make_objective, samples, tmp_path, contents, at):
    """Before the first checkpoint, right behind one, right behind a line of metrics, and in the middle of both intervals."""
    run_into(tmp_path / "whole", make_objective(), samples)
    cut = make_objective()

    def stop(call: int) -> None:
        if call == at:
            raise Interrupted

    cut.module.network.before = stop
    with pytest.raises(Interrupted):
        run_into(tmp_path / "cut", cut, samples)
    checkpoints = [path.name for path in list_checkpoints(tmp_path / "cut" / "checkpoints")]
    assert checkpoints == [f"step_{step:08d}" for step in range(10, at + 1, 10)]
    # As a crash leaves it: a line that was cut short.
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 42, "lo')
    again = make_objective(seed=99 if checkpoints else 0)
    fitted = run_into(tmp_path / "cut", again, samples, resume=True)
    assert len(again.module.network.calls) == 60 - 10 * len(checkpoints)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    last = tmp_path / "whole" / "checkpoints" / "step_00000060"
    for decay, average in fitted.ema.averages.items():
        saved = load_tensors(last / f"ema_{decay}.safetensors")
        assert all(torch.equal(saved[name], value) for name, value in average.items())
    for name, value in load_tensors(last / "model.safetensors").items():
        assert torch.equal(value, again.module.state_dict()[name])


def test_a_finished_run_goes_on_to_more_steps_as_if_it_had_never_stopped(make_objective, samples, tmp_path, contents):
    config = replace(CONFIG, schedule="constant")
    run_into(tmp_path / "whole", make_objective(), samples, config)
    run_into(tmp_path / "parts", make_objective(), samples, replace(config, steps=30))
    run_into(tmp_path / "parts", make_objective(seed=99), samples, config, resume=True)
    last = "checkpoints/step_00000060"
    whole, parts = (contents(tmp_path / name / last) for name in ("whole", "parts"))
    # state.json holds a digest of the metrics, and these have a line at step 30, where the run ended first.
    assert whole.pop("state.json") != parts.pop("state.json")
    assert parts == whole


def test_resuming_a_run_that_is_done_changes_nothing_and_reports_its_last_line(make_objective, samples, tmp_path, contents):
    fitted = run_into(tmp_path / "run", make_objective(), samples)
    before = contents(tmp_path / "run")
    again = run_into(tmp_path / "run", make_objective(seed=99), samples, resume=True)
    assert again.metrics == fitted.metrics
    assert contents(tmp_path / "run") == before


def test_resuming_with_another_network_or_decay_is_refused(make_objective, samples, tmp_path, contents):
    run_into(tmp_path / "run", make_objective(), samples, replace(CONFIG, steps=10))
    before = contents(tmp_path / "run")
    with pytest.raises(ValueError, match=r"model\.safetensors holds the weights of another network: .*of another shape"):
        run_into(tmp_path / "run", make_objective(width=8), samples, resume=True)
    with pytest.raises(ValueError, match=r"model\.safetensors holds the weights of another network: 1 missing"):
        run_into(tmp_path / "run", make_objective("data"), samples, resume=True)
    with pytest.raises(ValueError, match=r"ema_0\.7\.safetensors is missing"):
        run_into(tmp_path / "run", make_objective(), samples, replace(CONFIG, ema=[0.7]), resume=True)
    assert contents(tmp_path / "run") == before


def first_gradients(objective, samples, config):
    """The gradients that the optimiser saw in the first step, by name."""
    names = {id(parameter): name for name, parameter in objective.module.named_parameters()}
    found = []

    def record(optimizer, args, kwargs) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        found.append({names[id(p)]: p.grad.clone() for p in parameters})

    handle = register_optimizer_step_pre_hook(record)
    try:
        metrics = fit(objective, *samples, replace(config, steps=1)).metrics
    finally:
        handle.remove()
    return found[0], metrics


def test_clipping_scales_the_network_and_leaves_k_alone(make_objective, samples):
    free, free_metrics = first_gradients(make_objective(), samples, replace(CONFIG, clip=0.0))
    cut, cut_metrics = first_gradients(make_objective(), samples, replace(CONFIG, clip=1e-3))
    network = [name for name in free if name != "target.w"]
    norm, clipped = (math.sqrt(sum(g[name].double().square().sum().item() for name in network)) for g in (free, cut))
    assert norm > 0.1
    assert clipped == pytest.approx(1e-3, rel=1e-3)
    assert free["target.w"].abs() > 1e-2
    assert torch.equal(cut["target.w"], free["target.w"])
    for name in network:
        torch.testing.assert_close(cut[name], free[name] * (1e-3 / norm), rtol=1e-3, atol=1e-9)
    # What is logged is the network's norm before clipping.
    assert cut_metrics["gradient_norm"] == pytest.approx(norm, rel=1e-5) == free_metrics["gradient_norm"]
    assert cut_metrics["w_gradient"] == free["target.w"].item()


def test_gradient_descent_moves_every_parameter_by_its_gradient(make_objective, samples, tmp_path, contents):
    free = {"warmup": 0, "clip": 0.0, "weight_decay": 0.0, "schedule": "constant"}
    config = replace(CONFIG, optimizer="sgd", learning_rate=0.01, **free)
    gradients, _ = first_gradients(make_objective(), samples, config)
    before, objective = make_objective().module.state_dict(), make_objective()
    fit(objective, *samples, replace(config, steps=1))
    after = objective.module.state_dict()
    assert {"target.w"} < gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(after[name], before[name] - 0.01 * gradient, rtol=1e-5, atol=1e-7)
    run_into(tmp_path / "whole", make_objective(), samples, config)
    run_into(tmp_path / "first", make_objective(), samples, replace(config, steps=30))
    run_into(tmp_path / "first", make_objective(), samples, config, resume=True)
    last = "checkpoints/step_00000060"
    whole, resumed = (contents(tmp_path / name / last) for name in ("whole", "first"))
    assert whole.pop("state.json") != resumed.pop("state.json")  # it holds a digest of the metrics, which have one line more
    assert "model.safetensors" in whole
    assert resumed == whole


def test_only_the_matrices_of_the_network_decay(make_objective, samples):
    """The first step's gradients are the same with and without decay, so any difference is the decay's: −lr · decay · θ."""
    target = "learned"
    ends = []
    for decay in (0.0, 2.0):
        objective = make_objective(target)
        with torch.no_grad():
            objective.module.target.w.fill_(0.3)
        start = {name: value.detach().clone() for name, value in objective.module.named_parameters()}
        fit(
            objective, *samples, replace(CONFIG, steps=1, warmup=0, schedule="constant", learning_rate=0.01, weight_decay=decay)
        )
        ends.append({name: value.detach() for name, value in objective.module.named_parameters()})
    assert not torch.equal(ends[1]["target.w"], start["target.w"])
    for name, value in start.items():
        if value.ndim > 1:
            torch.testing.assert_close(ends[1][name] - ends[0][name], -0.02 * value, rtol=1e-3, atol=1e-6)
        else:
            assert torch.equal(ends[1][name], ends[0][name]), name
    assert "target.w" in start
    assert start["target.w"].ndim == 1


def test_the_learning_rate_is_that_of_the_schedule(make_objective, samples, tmp_path):
    run_into(tmp_path / "run", make_objective(), samples, replace(CONFIG, steps=20, warmup=4, log_every=1, learning_rate=0.01))
    rates = [row["learning_rate"] for row in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert rates[:5] == pytest.approx([0.0025, 0.005, 0.0075, 0.01, 0.01])
    assert rates[12] == pytest.approx(0.005)
    assert rates[19] == pytest.approx(0.005 * (1 + math.cos(math.pi * 15 / 16)))


class Widths(nn.Module):
    """Records the precision that a linear layer computes in."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.seen: set[torch.dtype] = set()

    def forward(self, *args: torch.Tensor, **conditions: torch.Tensor) -> torch.Tensor:
        u = self.network(*args, **conditions)
        self.seen.add(u.dtype)
        return u


def test_bfloat16_reaches_the_network_alone_and_lands_near_float32(make_objective, samples):
    """Three runs in one process, so that the precision is switched on and off again."""
    losses, weights, seen = [], [], []
    for precision in ("no", "bf16", "no"):
        objective = make_objective()
        objective.module.network = Widths(objective.module.network)
        returned = []
        objective.register_forward_hook(lambda module, args, output, returned=returned: returned.append(output[0].dtype))
        fitted = fit(objective, *samples, replace(CONFIG, precision=precision))
        assert {value.dtype for value in objective.module.state_dict().values()} == {torch.float32}
        assert {value.dtype for average in fitted.ema.averages.values() for value in average.values()} == {torch.float32}
        assert set(returned) == {torch.float32}
        seen.append(objective.module.network.seen)
        losses.append(fitted.metrics["loss"])
        weights.append(objective.module.network.network.network.output.weight)
    assert seen == [{torch.float32}, {torch.bfloat16}, {torch.float32}]
    assert losses[1] == pytest.approx(losses[0], rel=0.01)
    assert losses[1] != losses[0] == losses[2]
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])


def poison_output(objective, at: int) -> None:
    def spoil(module, args, output):
        return output * math.nan if len(module.calls) == at else output

    objective.module.network.register_forward_hook(spoil)


def poison_loss(objective, at: int) -> None:
    """A loss that is NaN in one step, with gradients that are sound."""

    def spoil(module, args, output):
        return (output[0] + math.nan, output[1]) if len(module.module.network.calls) == at else output

    objective.register_forward_hook(spoil)


def poison_w(objective, at: int) -> None:
    """A gradient of w that is NaN in one step: loss and norm are finite in that step, k is not after it."""
    objective.module.target.w.register_hook(lambda g: g * math.nan if len(objective.module.network.calls) == at else g)


def poison_weights(objective, at: int) -> None:
    """A weight that overflows in the update itself, without a trace in loss and gradient."""

    def spoil(module, gradient):
        if len(module.calls) == at:
            with torch.no_grad():
                module.network.output.bias.fill_(math.inf)

    objective.module.network.register_full_backward_pre_hook(spoil)


@pytest.mark.parametrize("poison", [poison_output, poison_loss, poison_w, poison_weights])
@pytest.mark.parametrize(("at", "log_every"), [(23, 50), (35, 7), (36, 7), (60, 50)])
def test_what_is_not_finite_stops_the_run_and_is_never_saved(make_objective, samples, tmp_path, poison, at, log_every):
    config = replace(CONFIG, log_every=log_every)
    objective = make_objective()
    poison(objective, at)
    with pytest.raises(TrainingDiverged) as caught:
        run_into(tmp_path / "run", objective, samples, config)
    noticed = min(step for step in range(at, 61) if step % 10 == 0 or step % log_every == 0)
    last_good = (at - 1) // 10 * 10
    message = str(caught.value)
    assert f"up to step {noticed}: loss " in message
    assert ", k " in message
    assert "nan" in message or poison is poison_weights
    assert f"The last good checkpoint is {tmp_path / 'run' / 'checkpoints' / f'step_{last_good:08d}'}" in message
    saved = list_checkpoints(tmp_path / "run" / "checkpoints")
    assert [path.name for path in saved] == [f"step_{step:08d}" for step in range(10, at, 10)]
    for file in (tmp_path / "run" / "checkpoints").rglob("*.safetensors"):
        assert all(value.isfinite().all() for value in load_tensors(file).values())
    rows = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert all(math.isfinite(row["loss"]) and math.isfinite(row["k"]) for row in rows)


def test_divergence_is_told_without_a_folder_too(make_objective, samples):
    objective = make_objective()
    poison_w(objective, 3)
    with pytest.raises(TrainingDiverged, match=r"up to step 3: loss .* k nan") as caught:
        fit(objective, *samples, replace(CONFIG, steps=3))
    assert "checkpoint" not in str(caught.value)


def test_a_buffer_of_infinities_is_no_divergence(make_objective, samples):
    objective = make_objective()
    objective.module.network.register_buffer("mask", torch.tensor([0.0, -math.inf]))
    assert math.isfinite(fit(objective, *samples, replace(CONFIG, steps=3)).metrics["loss"])


def test_a_classifier_goes_through_the_same_loop(samples, tmp_path, contents):
    def objective(seed: int = 0) -> ClassificationObjective:
        torch.manual_seed(seed)
        return ClassificationObjective(nn.Sequential(nn.Linear(4, 16), nn.GELU(), nn.BatchNorm1d(16), nn.Linear(16, 3)))

    config = replace(CONFIG, learning_rate=0.02)
    whole = objective()
    metrics = run_into(tmp_path / "whole", whole, samples, config).metrics
    assert metrics["accuracy"] > 0.9
    assert (whole.module(samples[0]).argmax(1) == samples[1]).float().mean() > 0.9
    assert {"step", "loss", "accuracy", "gradient_norm", "learning_rate"} == set(metrics)
    # Cut off behind step 30, then resumed from there: batch statistics and their integer count come back too.
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in (40, 50, 60):
        shutil.rmtree(tmp_path / "cut" / "checkpoints" / f"step_{step:08d}")
    run_into(tmp_path / "cut", objective(seed=9), samples, config, resume=True)
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")
    with pytest.raises(ValueError, match="labelled data"):
        fit(objective(), samples[0], None, config)


def test_every_line_of_metrics_is_strict_json(make_objective, samples, tmp_path):
    run_into(tmp_path / "run", make_objective("data"), samples)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line, parse_constant=pytest.fail)["step"] for line in lines] == [7, 14, 21, 28, 35, 42, 49, 56, 60]
    assert {json.loads(line)["k"] for line in lines} == {1.0}
