"""The training loop: any objective, on accelerate (devices, processes, mixed precision).

All that is random in step s is seeded by (seed, s): order of the data, times, noise, dropout. So two runs that differ in
their target alone see the same batches and noise, and a resumed run goes on exactly, without saved random states.

A step's batch is cut into P · A micro-batches, P processes times `accumulate` A; number i has every P·A-th sample from the
i-th on, a seed (seed, s, i) of its own, and the same weight. What a step sees depends on P · A alone: two micro-batches on one
process are one each on two.
"""

from __future__ import annotations

import datetime
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs
from torch import Tensor
from tqdm import tqdm

from kdiff.data import Samples
from kdiff.data.progress import DELAY
from kdiff.sampling.noise import mix_seed
from kdiff.training.checkpoint import (
    ema_file,
    keep_newest,
    list_checkpoints,
    load_optimizer,
    load_tensors,
    load_weights,
    save_checkpoint,
    set_damaged_aside,
)
from kdiff.training.config import LoopConfig
from kdiff.training.ema import EMA
from kdiff.training.folder import warn
from kdiff.training.metrics import Averages, MetricsFile
from kdiff.training.objective import Objective
from kdiff.training.order import DataOrder
from kdiff.training.signals import Stopped, StopSignals

# How long one process waits for another: the first draws pictures, hashes, judges and writes while the others wait. Torchrun
# sees to it that all end if one dies.
PATIENCE = datetime.timedelta(days=1)
# How many steps several processes take between asking each other whether to stop, which waits for their devices.
ASKED_EVERY = 10


class TrainingDiverged(RuntimeError):
    """The loss, the gradient or a weight stopped being a finite number."""


@dataclass
class Fitted:
    """What a finished loop leaves: averages by decay, the last line of metrics, and the seconds since it was last resumed."""

    ema: EMA
    metrics: dict[str, float]
    seconds: float


def learning_rate_factor(config: LoopConfig, step: int) -> float:
    """Linear warm-up over `warmup` steps, then constant, or a half cosine down to 0 at the end."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / max(1, config.steps - config.warmup)))


def join_processes() -> PartialState:
    """The processes of this run (torchrun, accelerate launch). accelerate joins them on CPUs only where it is told to."""
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    return PartialState(cpu=launched and not (torch.cuda.is_available() or torch.xpu.is_available()), timeout=PATIENCE)


def make_accelerator(precision: str) -> Accelerator:
    """An accelerator of this precision, whatever precision the process used before (accelerate keeps one per process)."""
    join_processes()
    if AcceleratorState._shared_state and AcceleratorState._shared_state.get("_mixed_precision") != precision:
        AcceleratorState._reset_state()
    # Gradients lie in the buckets that processes exchange: kept beside them, they would take their memory twice.
    buckets = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    return Accelerator(mixed_precision=precision, kwargs_handlers=[buckets])


def make_optimizer(objective: Objective, config: LoopConfig) -> torch.optim.Optimizer:
    """AdamW (or SGD) in one fused kernel; each group remembers its own learning rate."""
    groups = objective.parameter_groups(config.learning_rate, config.weight_decay)
    for group in groups:
        group["base_lr"] = group["lr"]
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, fused=True)
    return torch.optim.AdamW(groups, betas=(config.betas[0], config.betas[1]), fused=True)


def fit(
    objective: Objective,
    x: Samples,
    y: Tensor | None,
    config: LoopConfig,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: str | None = None,
    after_step: Callable[[int, EMA], None] | None = None,
) -> Fitted:
    """Train an objective on the samples x (N, ...), with labels y (N,) or None.

    Args:
        objective: what to train, in place.
        x: samples.
        y: labels.
        config: steps, batch size, learning rate, …
        folder: where metrics.jsonl and checkpoints/ go; none are written without it.
        resume: go on from the newest whole checkpoint in `folder`.
        progress: what the progress bar is called; None for no bar.
        after_step: called on the main process as after_step(steps done, averages) when a step is done and saved, and when a
            run goes on from one (a stop came before the call); it must leave module and averages alone, and may draw random
            numbers.

    Raises:
        ValueError: a batch that the processes cannot share equally, or checkpoints none of which is whole.
        TrainingDiverged: with the facts, when loss, gradient or a weight is not finite; checked before every line of metrics
            and every checkpoint, so that no checkpoint holds such weights.
        NotSaved: a checkpoint or a line of metrics could not be written.
        Stopped: SIGTERM or Ctrl-C, once the step in hand is done and saved; only with a folder and in the main thread.
    """
    accelerator = make_accelerator(config.precision)
    main = accelerator.is_main_process
    steps = _Steps(objective, x, y, config, accelerator)
    start = _resume(folder, steps) if resume and folder else 0
    steps.prepare()
    board = folder / "tensorboard" if folder and config.tensorboard else None
    log = MetricsFile(folder / "metrics.jsonl", start, board) if folder and main else None
    row: dict[str, float] = log.last if log else {}
    began = time.perf_counter()
    # A log file wants fewer lines than a screen; what leaves no folder behind may be over in a second.
    shown: dict[str, Any] = {"unit": "step", "smoothing": 0.05, "mininterval": 0.1 if sys.stderr.isatty() else 30}
    shown["delay"] = 0 if folder else DELAY
    bar = tqdm(desc=progress, total=config.steps, initial=start, disable=not (progress and main), **shown)
    signals = StopSignals(active=folder is not None, launched=accelerator.num_processes > 1)
    with _random_states_kept(accelerator.device), bar, closing(log) if log else nullcontext(), signals:
        if start and after_step and main:
            after_step(start, steps.ema)
        for step in range(start, config.steps):
            steps.run(step)
            done = step + 1
            last, stopping = done == config.steps, _asked(signals, accelerator, done)
            logging = last or done % config.log_every == 0
            saving = last or stopping or (config.checkpoint_every and done % config.checkpoint_every == 0)
            if logging or saving:
                row = steps.summary(step)
                _check_finite(row, steps.module, config, folder)
            if logging:
                steps.averages.sums = {}
                if log:
                    log.append(row)
                bar.set_postfix({name: f"{row[name]:.4g}" for name in ("loss", "k", "accuracy") if name in row}, refresh=False)
            bar.update()
            if saving and folder and main:
                save_checkpoint(
                    folder / "checkpoints", done, steps.module, steps.ema, steps.optimizer.optimizer, steps.averages.sums
                )
                keep_newest(folder / "checkpoints", config.keep)
            if stopping:
                raise Stopped(stopping, f"{folder} is saved at step {done} of {config.steps}")
            if after_step and main:
                after_step(done, steps.ema)
    steps.module.eval()
    return Fitted(steps.ema, row, time.perf_counter() - began)


class _Steps:
    """What one optimiser step needs, and the step itself."""

    def __init__(
        self, objective: Objective, x: Samples, y: Tensor | None, config: LoopConfig, accelerator: Accelerator
    ) -> None:
        self.shares = accelerator.num_processes * config.accumulate
        if config.batch_size % self.shares:
            raise ValueError(
                f"batch_size is {config.batch_size}; expected a multiple of {self.shares}: {accelerator.num_processes} "
                f"processes times {config.accumulate} micro-batches (accumulate)"
            )
        self.objective, self.module, self.model = objective, objective.module.to(accelerator.device), objective
        self.x, self.y, self.order = x, y, DataOrder(len(x), config.batch_size, config.seed)
        self.config, self.accelerator = config, accelerator
        self.optimizer: Any = make_optimizer(objective, config)
        self.ema, self.averages = EMA(self.module, config.ema), Averages()

    def prepare(self) -> None:
        """Wrap model and optimiser for the accelerator, once their states are loaded."""
        self.model, self.optimizer = self.accelerator.prepare(self.objective, self.optimizer)
        self.clipped = [p for group in self.optimizer.param_groups if group["name"] != "target" for p in group["params"]]
        self.model.train()

    def run(self, step: int) -> None:
        """Optimiser step number `step` (from 0)."""
        self.optimizer.zero_grad()
        values = self._backward(step)
        norm = self.accelerator.clip_grad_norm_(self.clipped, self.config.clip or math.inf)
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * learning_rate_factor(self.config, step)
        self.optimizer.step()
        self.ema.update(step)
        gradients = {"gradient_norm": norm.to(self.accelerator.device), **self.objective.gradients()}
        self.averages.add({**values, **gradients})

    def _backward(self, step: int) -> dict[str, Tensor]:
        """The micro-batches of this process, forward and backward; returns the means of loss and extras."""
        device, parts, means = self.accelerator.device, self.config.accumulate, dict[str, Tensor]()
        batch = self.order.batch(step)
        for part in range(parts):
            number = self.accelerator.process_index * parts + part
            # torch.manual_seed asks every kind of accelerator, too, which takes as long as a small network's layer.
            seed = torch.default_generator.manual_seed if device.type == "cpu" else torch.manual_seed
            seed(mix_seed(self.config.seed, step, number))
            rows = batch[number :: self.shares]
            x, y = _sent(self.x[rows], device), None if self.y is None else _sent(self.y[rows], device)
            # Processes exchange gradients once, with the last micro-batch.
            with self.accelerator.no_sync(self.model) if part < parts - 1 else nullcontext():
                loss, extras = self.model(x, y)
                self.accelerator.backward(loss / parts)
            for name, value in {"loss": loss, **extras}.items():
                share = value.detach() / parts
                means[name] = means[name] + share if name in means else share
        return means

    def summary(self, step: int) -> dict[str, float]:
        """A line of metrics: means over the steps since the last line, and the state behind step number `step`."""
        self.averages.sums = self.accelerator.reduce(self.averages.sums, "mean")
        rate = self.config.learning_rate * learning_rate_factor(self.config, step)
        return {"step": step + 1, **self.averages.means(), **self.objective.state(), "learning_rate": rate}


def _random_states_kept(device: torch.device) -> AbstractContextManager[None]:
    return torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])


def _sent(batch: Tensor, device: torch.device) -> Tensor:
    """On the device, without waiting for what it is doing: a copy to CUDA from memory that is not pinned would."""
    return (batch.pin_memory() if device.type == "cuda" else batch).to(device, non_blocking=True)


def _asked(signals: StopSignals, accelerator: Accelerator, done: int) -> int:
    """The signal that asks to stop, 0 for none: the same on all processes, who must leave behind the same step."""
    asked = signals.signum or 0
    if accelerator.num_processes == 1 or not signals.active:
        return asked
    if done % ASKED_EVERY:
        return 0
    everyone = accelerator.gather(torch.tensor([asked], device=accelerator.device))
    return int(everyone.max())


def _resume(folder: Path, steps: _Steps) -> int:
    """Load the newest whole checkpoint, if there is one; returns its step. Damaged ones are set aside, and that is said."""
    if steps.accelerator.is_main_process:
        if problem := set_damaged_aside(folder / "checkpoints"):
            warn(folder, problem)
        keep_newest(folder / "checkpoints", steps.config.keep)
    steps.accelerator.wait_for_everyone()
    checkpoints = list_checkpoints(folder / "checkpoints")
    if not checkpoints:
        return 0
    newest = checkpoints[-1]
    load_weights(steps.module, load_tensors(newest / "model.safetensors"), newest / "model.safetensors")
    for decay in steps.ema.averages:
        steps.ema.load(decay, load_tensors(newest / ema_file(decay)))
    steps.averages.sums = load_optimizer(steps.optimizer, load_tensors(newest / "optimizer.safetensors"))
    return int(newest.name.removeprefix("step_"))


def _check_finite(row: dict[str, float], module: torch.nn.Module, config: LoopConfig, folder: Path | None) -> None:
    weights = torch.stack([parameter.detach().isfinite().all() for parameter in module.parameters()])
    if all(math.isfinite(row[name]) for name in ("loss", "gradient_norm")) and weights.all():
        return
    facts = ", ".join(f"{name} {value:.6g}" for name, value in row.items() if name != "step")
    last = list_checkpoints(folder / "checkpoints")[-1:] if folder else []
    raise TrainingDiverged(
        f"the loss, its gradient or a weight is not finite within the {config.log_every} steps up to step {row['step']}: "
        f"{facts}. "
        f"{f'The last good checkpoint is {last[0]}. ' if last else ''}"
        "Try a lower learning_rate, a longer warmup or clip=1, and look at the data's range (kdiff info)."
    )
