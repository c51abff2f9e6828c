"""An optimiser step: micro-batches forward and backward, the optimiser, the averages. `kdiff.training.loop` repeats it.

Under float16 the loss is multiplied by a scale before its backward pass, so that small gradients do not vanish, and the
gradients are divided by it (Micikevicius et al., arXiv 1710.03740). If a gradient overflows, the step is left out and the scale
is halved; after 2,000 steps without overflow it is doubled. The scale is saved with the optimiser.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from functools import partial

import torch
from accelerate import Accelerator
from torch import Tensor

from kdiff.config.training import LoopConfig
from kdiff.data import Samples
from kdiff.model import autocast_to
from kdiff.path import raise_wrong_times
from kdiff.run.averages import EMA
from kdiff.run.metrics import Averages
from kdiff.run.processes import without_launcher_settings
from kdiff.sampling.noise import mix_seed
from kdiff.training.objective import Objective
from kdiff.training.optimiser import check_gradients, learning_rate_factor, make_optimizer, places
from kdiff.training.order import DataOrder

SCALE = "scaler."  # what the names of the saved numbers of a gradient scaler begin with


class Steps:
    """The state that optimiser steps share, and the step itself."""

    def __init__(
        self,
        objective: Objective,
        x: Samples,
        conditions: Mapping[str, Samples],
        config: LoopConfig,
        accelerator: Accelerator,
    ) -> None:
        self.shares = accelerator.num_processes * config.accumulate
        if config.batch_size % self.shares:
            raise ValueError(
                f"batch_size is {config.batch_size}; expected a multiple of {self.shares}: {accelerator.num_processes} "
                f"processes times {config.accumulate} micro-batches (accumulate)"
            )
        self.objective, self.module, self.model = objective, objective.module.to(accelerator.device), objective
        self.x, self.conditions, self.order = x, conditions, DataOrder(len(x), config.batch_size, config.seed)
        self.config, self.accelerator = config, accelerator
        self.optimizer = make_optimizer(objective, config)
        self.ema, self.averages = EMA(self.module, config.ema), Averages()
        self.places = places(self.module)
        self.scaler = torch.amp.GradScaler(accelerator.device.type) if config.precision == "fp16" else None

    @without_launcher_settings()
    def prepare(self) -> None:
        """Wrap the model for the accelerator, after its state is loaded.

        The optimiser stays PyTorch's own: accelerate's wrapper looks for optional packages on disk at every step.
        """
        self.model = self.accelerator.prepare(self.objective)
        self.clipped = [p for group in self.optimizer.param_groups if group["name"] != "target" for p in group["params"]]
        self.model.train()

    def run(self, step: int, first: bool) -> None:
        """Take optimiser step number `step`, counted from 0; the gradients of the `first` step of this loop are checked."""
        self.optimizer.zero_grad()
        values = self._backward(step)
        several = self.accelerator.num_processes > 1
        self.objective.settle(partial(self.accelerator.reduce, reduction="sum") if several else None)
        if first:
            check_gradients(self.module)
        if self.scaler:
            self.scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.clipped, self.config.clip or math.inf)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * learning_rate_factor(self.config, step)
        gradients = {"gradient_norm": norm.to(self.accelerator.device), **self.objective.gradients()}
        if self.scaler:
            taken = norm.isfinite()
            gradients = {name: torch.where(taken, value, 0.0) for name, value in gradients.items()}
            gradients["steps_left_out"] = 1.0 - taken.float()
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        self.ema.update(step)
        self.averages.add({**values, **gradients})

    def _backward(self, step: int) -> dict[str, Tensor]:
        """Run this process's micro-batches forward and backward; returns the means of the loss and the extras."""
        device, parts, means = self.accelerator.device, self.config.accumulate, dict[str, Tensor]()
        batch = self.order.batch(step)
        for part in range(parts):
            number = self.accelerator.process_index * parts + part
            # torch.manual_seed also visits every kind of accelerator, which takes as long as a layer of a small network.
            seed = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
            seed(mix_seed(self.config.seed, step, number))
            rows = batch[number :: self.shares]
            x = _sent(self.x[rows], device)
            conditions = {name: _sent(values[rows], device) for name, values in self.conditions.items()}
            self._read_ahead(step, part)
            # Processes exchange gradients once, at the last micro-batch.
            with self.accelerator.no_sync(self.model) if part < parts - 1 else nullcontext():
                with autocast_to("fp16" if self.scaler else "no", device):  # accelerate refuses float16 on CPUs
                    loss, extras = self.model(x, conditions)
                share = loss / parts
                (self.scaler.scale(share) if self.scaler else share).backward()
            for name, value in {"loss": loss, **extras}.items():
                share = value.detach() / parts
                means[name] = means[name] + share if name in means else share
        return means

    def _read_ahead(self, step: int, part: int) -> None:
        """Begin to read the micro-batch after this one, if samples are read from disk."""
        parts, lazy = self.config.accumulate, [v for v in (self.x, *self.conditions.values()) if not isinstance(v, Tensor)]
        step, part = (step, part + 1) if part < parts - 1 else (step + 1, 0)
        if lazy and step < self.config.steps:
            rows = self.order.batch(step)[self.accelerator.process_index * parts + part :: self.shares]
            for values in lazy:
                values.ahead(rows)

    def summary(self, step: int) -> dict[str, float]:
        """A line of metrics: means over the steps since the last line, and the objective's state after step number `step`."""
        raise_wrong_times()
        self.averages.sums = self.accelerator.reduce(self.averages.sums, "mean")
        rate = self.config.learning_rate * learning_rate_factor(self.config, step)
        scale = {"loss_scale": self.scaler.get_scale()} if self.scaler else {}
        return {"step": step + 1, **self.averages.means(), **self.objective.state(), "learning_rate": rate, **scale}

    def sums(self) -> dict[str, Tensor]:
        """What a checkpoint holds besides weights, averages and optimiser: sums of the interval, the scale of float16."""
        state = self.scaler.state_dict() if self.scaler else {}
        return self.averages.sums | {f"{SCALE}{name}": torch.as_tensor(value) for name, value in state.items()}

    def load_sums(self, sums: dict[str, Tensor]) -> None:
        """Restore what `sums` returned."""
        self.averages.sums = {name: value for name, value in sums.items() if not name.startswith(SCALE)}
        if self.scaler:
            self.scaler.load_state_dict(
                {name.removeprefix(SCALE): value.item() for name, value in sums.items() if name.startswith(SCALE)}
            )


def _sent(batch: Tensor, device: torch.device) -> Tensor:
    """The batch on the device, sent without waiting for the device's current work; CUDA needs pinned memory for that."""
    return (batch.pin_memory() if device.type == "cuda" else batch).to(device, non_blocking=True)
