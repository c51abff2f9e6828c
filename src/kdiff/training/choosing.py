"""The network that is chosen for the data, before a training: which one, why, and how long the training will take here.

`kdiff.networks.choice` has the rule. Without a stated time it counts FLOPs, so that a run has the same network on every
machine. With one (`--network.budget 30m`), steps of the networks of its ladder are timed on this machine, smallest first, and
the largest whose training takes at most that time is chosen. Either way three steps of the chosen network are taken on made-up
samples, so that the time of the training is known before it starts.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdiff.config.parts import Part
from kdiff.config.training import LoopConfig, PlanConfig, TrainConfig
from kdiff.data import Samples
from kdiff.data.directions import moments
from kdiff.networks.choice import BUDGET, FEWEST_DRAWS, Choice, budget_seconds, candidates, is_auto
from kdiff.run.averages import EMA
from kdiff.run.build import build_model, choose_for
from kdiff.run.folder import read_run_config
from kdiff.run.precision_choice import PrecisionChoice, choose_precision
from kdiff.run.processes import join_processes
from kdiff.training.loop import fit
from kdiff.training.objective import DiffusionObjective, Objective

NUMBERS = 1e7  # numbers in a batch of the trial at most
STEPS = 3  # of which the first warms up


@dataclass(frozen=True)
class Chosen:
    """A network for the data, why, and the seconds of a step if it was timed."""

    network: Part
    why: str
    step: float | None = None

    def as_text(self, config: TrainConfig, num_samples: int = 0, runs: int = 1, workers: int = 1) -> str:
        """What was chosen, why, how long it takes, and what to type for another network or time."""
        drawn = config.steps * config.batch_size
        epochs = f", {drawn / num_samples:,.3g} times the {num_samples:,} samples" if num_samples else ""
        lines = [f"network {self.network}, chosen because {self.why}"]
        if self.step is not None:
            each = f"{config.steps:,} steps of {config.batch_size:,} samples{epochs}"
            took = f"a step takes {self.step:.2g} s here"
            total = self.step * config.steps * math.ceil(runs / workers)
            many = f"{runs} runs, {min(runs, workers)} at a time, " if runs > 1 else ""
            lines.append(f"{many}{each}: {took}, so training takes about {in_words(total)}")
        if self.network.name != "MLP":
            lines.append("for another time add --network.budget 10m, or fewer --steps; for another network --network MLP")
            lines += ["--precision auto trains in bfloat16 if that is faster here"] if config.precision == "no" else []
        return "\n".join(lines)


def choose_network(
    config: TrainConfig, shape: tuple[int, ...], num_classes: int, threads: int | None = None
) -> tuple[TrainConfig, Chosen | None]:
    """The configuration with its network, and how it was chosen; None if the configuration names its network.

    Steps are timed only if a budget of time needs that; `timed` does so for the message.

    Args:
        config: the settings of the training.
        shape: the shape of a sample.
        num_classes: the number of classes.
        threads: the number of threads of the training; those of this process if left out.

    Raises:
        ValueError: the budget is no time; or it is a time, and several processes train together.
    """
    if not is_auto(config.network):
        return config, None
    seconds = budget_seconds(config.network)
    if config.start_from is not None and Path(config.start_from.name).is_dir():
        name = config.start_from.name
        network: Part = read_run_config(Path(name), TrainConfig).network
        return replace(config, network=network), Chosen(network, f"the training starts from the weights of {name}")
    if seconds is not None and _several_processes():
        raise ValueError(
            "network has a budget of time, which is measured by one process, but several processes train together; name the "
            "network, or leave the budget out"
        )
    if seconds is None:
        choice, step = choose_for(config, shape), None
        budget = "the largest of the ladder that costs at most 10¹⁴ FLOPs (half an hour of one core)"
        if config.steps * config.batch_size < FEWEST_DRAWS:
            budget += f" in a training of {FEWEST_DRAWS:,} samples"
    else:
        timer = partial(seconds_per_step, shape=shape, num_classes=num_classes, threads=threads)
        choice, step = _within(config, shape, seconds, timer)
        budget = f"the largest of the ladder that trains within {config.network.options['budget']} here"
    if not fits(choice, config, step, seconds):
        budget = "the smallest of the ladder, although it takes longer than its budget"
    why = choice.why if choice.network.name == "MLP" else f"{choice.why}; it is {budget}"
    return replace(config, network=choice.network), Chosen(choice.network, why, step)


def timed(chosen: Chosen, config: TrainConfig, shape: tuple[int, ...], num_classes: int, threads: int | None = None) -> Chosen:
    """The choice with the seconds of a step, unless they are known or several processes train together."""
    if chosen.step is not None or _several_processes():
        return chosen
    return replace(chosen, step=seconds_per_step(config, shape, num_classes, threads))


def _several_processes() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def plan_network(config: PlanConfig, shape: tuple[int, ...]) -> tuple[PlanConfig, Chosen | None]:
    """`choose_network` for the devices of a plan: nothing is timed, and a budget of time is spent on one of them."""
    if not is_auto(config.network):
        return config, None
    choice = choose_for(config, shape, config.peak * 1e12 * config.utilisation)
    return replace(config, network=choice.network), Chosen(choice.network, choice.why)


def _within(config: TrainConfig, shape: tuple[int, ...], seconds: float, timer: partial[float]) -> tuple[Choice, float]:
    """The largest network that trains within the time, and the seconds of a step; the smallest if none does."""
    found: tuple[Choice, float] | None = None
    for choice in candidates(config.network, shape):
        if found and found[1] * choice.flops / found[0].flops * config.steps > 4 * seconds:
            break  # not even close, so that no step of it need be taken
        step = timer(replace(config, network=choice.network))
        if found and step * config.steps > seconds:
            break
        found = choice, step
    assert found is not None
    return found


def fits(choice: Choice, config: TrainConfig, step: float | None, seconds: float | None) -> bool:
    """Whether a training of this network keeps to its budget: of time if there is one, else of FLOPs."""
    if seconds is not None and step is not None:
        return step * config.steps <= seconds
    return choice.flops * max(config.steps * config.batch_size, FEWEST_DRAWS) <= BUDGET


def seconds_per_step(config: TrainConfig, shape: tuple[int, ...], num_classes: int, threads: int | None = None) -> float:
    """The seconds of a training step on this machine, from two steps on Gaussian noise after one to warm up.

    Large batches are timed with fewer samples, and the time is scaled to the whole batch. Random numbers of the process stay
    as they are.
    """
    batch = max(1, min(config.batch_size // config.accumulate, int(NUMBERS / math.prod(shape))))
    ends: list[float] = []

    def ended(step: int, averages: EMA) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        ends.append(time.perf_counter())

    small = replace(config, steps=STEPS, batch_size=batch, accumulate=1, log_every=STEPS, tensorboard=False)
    small = replace(small, precision="no") if config.precision == "auto" else small  # it is chosen for the network found here
    before = torch.get_num_threads()
    with torch.random.fork_rng():
        x = torch.randn(max(2, batch), *shape)
        made = partial(moments, x), lambda: x
        model = build_model(config, config.target, shape, num_classes, config.seed, *made)
        try:
            torch.set_num_threads(threads or before)
            fit(DiffusionObjective(model), x, None, small, after_step=ended)
        finally:
            torch.set_num_threads(before)
    fastest = min(later - earlier for earlier, later in zip(ends, ends[1:]))
    return fastest * config.batch_size / batch


def faster_precision(
    objective: Objective,
    x: Samples,
    conditions: Mapping[str, Samples],
    config: LoopConfig,
    *facts: Any,
    threads: int | None = None,
) -> PrecisionChoice:
    """The faster precision for forward and backward passes of an objective, measured on a copy of it.

    Args:
        objective: the objective, as it will be trained.
        x: samples to train on; the first are used.
        conditions: their conditions.
        config: the settings of the training.
        facts: what the time depends on besides the batch, such as the network and the shape of a sample.
        threads: the number of threads of the training; those of this process if left out.
    """
    device, before = join_processes().device, torch.get_num_threads()
    trial, size = copy.deepcopy(objective).to(device).train(), len(x)

    def work(count: int) -> Tensor:
        rows = torch.arange(count) % size
        loss, _ = trial(x[rows].to(device), {name: values[rows].to(device) for name, values in conditions.items()})
        loss.backward()
        trial.zero_grad()
        return loss.detach()

    try:
        torch.set_num_threads(threads or before)
        batch = config.batch_size // config.accumulate
        return choose_precision("a forward and backward pass", work, batch, device, *facts)
    finally:
        torch.set_num_threads(before)


def in_words(seconds: float) -> str:
    """A time in a unit that suits it: 40 seconds, 25 minutes, 3 hours."""
    for unit, length in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.2g} {unit}"
    return f"{max(seconds, 1):.0f} second{'s' * (max(seconds, 1) >= 1.5)}"
