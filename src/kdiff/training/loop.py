"""The training loop for any objective, on accelerate (devices, processes, mixed precision).

Everything random in step s is seeded by (seed, s): the order of the data, times, noise and dropout. So two runs that differ
only in their target see the same batches and the same noise, and a run resumes exactly without saved random states.

P processes with A = `accumulate` cut the batch of a step into P · A micro-batches of equal weight. Micro-batch i holds every
P·A-th sample from the i-th on and has its own seed (seed, s, i). So a step depends only on P · A: one process with two
micro-batches computes the same as two processes with one each.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

from kdiff.config.training import LoopConfig
from kdiff.data import Samples
from kdiff.data.progress import DELAY
from kdiff.files.tensors import check_storable, load_tensors, load_weights
from kdiff.run.averages import EMA
from kdiff.run.checkpoint import ema_file, keep_newest, list_checkpoints, load_optimizer, save_checkpoint, set_damaged_aside
from kdiff.run.contents import record_settings
from kdiff.run.folder import warn
from kdiff.run.lock import check_held
from kdiff.run.metrics import MetricsFile, mend_metrics
from kdiff.run.processes import make_accelerator
from kdiff.run.signals import Stopped, StopSignals
from kdiff.training.objective import Objective, by_name
from kdiff.training.optimiser import (
    check_places,
    check_trainable,
    compare_rates,
)
from kdiff.training.stepping import Steps

# Steps between two exchanges in which several processes ask each other whether to stop. An exchange waits for the devices.
ASKED_EVERY = 10
LEAST_SCALE = 2.0**-14  # of the loss under float16: a run that still overflows there has diverged


class TrainingDiverged(RuntimeError):
    """The loss, the gradient or a weight is no longer finite."""


@dataclass
class Fitted:
    """The result of a finished loop."""

    ema: EMA
    metrics: dict[str, float]  # the last line of metrics
    seconds: float  # since the loop began or was last resumed
    headline: dict[str, float]  # the main numbers of the last line


def fit(
    objective: Objective,
    x: Samples,
    y: Tensor | Mapping[str, Samples] | None,
    config: LoopConfig,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: str | None = None,
    after_step: Callable[[int, EMA], None] | None = None,
) -> Fitted:
    """Train an objective on the samples x (N, ...), with labels y (N,), conditions by name (N, ...) each, or None.

    Args:
        objective: the objective, trained in place.
        x: samples.
        y: labels, which are the condition "y", or all conditions by name.
        config: steps, batch size, learning rate, …
        folder: where to write metrics.jsonl and checkpoints/; None to write nothing.
        resume: continue from the newest whole checkpoint in `folder`.
        progress: the title of the progress bar; None for no bar.
        after_step: called on the main process as after_step(steps done, averages) after each step is done and saved. When a
            run is resumed, it is called again for the step it resumes from, because a stop may have come before the call. It
            must not change the module or the averages; it may draw random numbers.

    Raises:
        ValueError: the processes cannot share a batch equally; the module is sharded over processes, has layers without a shape
            or values that cannot be stored, has sparse gradients, or makes parameters and buffers in training; or checkpoints
            exist but none is whole.
        TrainingDiverged: the loss, the gradient or a weight is not finite. This is checked before every line of metrics and
            every checkpoint, so no checkpoint holds such weights.
        NotSaved: a checkpoint or a line of metrics could not be written.
        FolderReplaced: the folder was removed or replaced while the loop wrote in it.
        Stopped: SIGTERM or Ctrl-C arrived, and the current step is done and saved; only with a folder and in the main thread.
    """
    check_trainable(objective.module)
    if folder:
        check_storable(objective.module.state_dict())
    accelerator = make_accelerator("no" if config.precision == "fp16" else config.precision)
    main = accelerator.is_main_process
    if folder and main:
        check_held(folder)
    steps = Steps(objective, x, by_name(y), config, accelerator)
    start = _resume(folder, steps) if resume and folder else 0
    steps.prepare()
    board = folder / "tensorboard" if folder and config.tensorboard else None
    log = MetricsFile(folder / "metrics.jsonl", start, board) if folder and main else None
    written = [name for name in ("config.yaml", "metrics.jsonl") if folder and (folder / name).exists()]
    settings = record_settings(folder) if folder and main else {}
    row: dict[str, float] = log.last if log else {}
    if folder and row:
        compare_rates(row, config, folder)
    shown_names = ["loss", *objective.headline()]
    began = time.perf_counter()
    # A log file needs fewer lines than a screen. A loop without a folder may end within a second, so its bar is delayed.
    shown: dict[str, Any] = {"unit": "step", "smoothing": 0.05, "mininterval": 0.1 if sys.stderr.isatty() else 30}
    shown["delay"] = 0 if folder else DELAY
    bar = tqdm(desc=progress, total=config.steps, initial=start, disable=not (progress and main), **shown)
    signals = StopSignals(active=folder is not None, launched=accelerator.num_processes > 1)
    random_states = torch.random.fork_rng(devices=[accelerator.device] if accelerator.device.type == "cuda" else [])
    with random_states, bar, closing(log) if log else nullcontext(), signals:
        if start and after_step and main:
            after_step(start, steps.ema)
        for step in range(start, config.steps):
            steps.run(step, first=step == start)
            done = step + 1
            last, stopping = done == config.steps, _asked(signals, accelerator, done) if folder else 0
            logging = last or done % config.log_every == 0
            saving = last or stopping or (config.checkpoint_every and done % config.checkpoint_every == 0)
            if step == start or (saving and folder):
                check_places(steps.module, steps.places, "in its first step" if step == start else "in training")
            if logging or saving:
                row = steps.summary(step)
                _check_finite(row, steps.module, config, folder)
            if folder and main and (logging or saving):
                check_held(folder, *written)
            if logging:
                steps.averages.sums = {}
                if log:
                    log.append(row)
                bar.set_postfix({name: f"{row[name]:.4g}" for name in shown_names}, refresh=False)
            bar.update()
            if saving and folder and main:
                state = steps.module, steps.ema, steps.optimizer, steps.sums()
                save_checkpoint(folder / "checkpoints", done, *state, settings)
                keep_newest(folder / "checkpoints", config.keep)
            if stopping:
                raise Stopped(stopping, f"{folder} is saved at step {done} of {config.steps}")
            if after_step and main:
                after_step(done, steps.ema)
    if folder and main:
        check_held(folder, *written)
    steps.module.eval()
    return Fitted(steps.ema, row, time.perf_counter() - began, {name: row[name] for name in shown_names if name in row})


def _asked(signals: StopSignals, accelerator: Accelerator, done: int) -> int:
    """The signal that asks to stop, 0 for none. All processes get the same answer, so that all stop after the same step."""
    asked = signals.signum or 0
    if accelerator.num_processes == 1:
        return asked
    if done % ASKED_EVERY:
        return 0
    everyone = accelerator.gather(torch.tensor([asked], device=accelerator.device))
    return int(everyone.max())


def _resume(folder: Path, steps: Steps) -> int:
    """Load the newest whole checkpoint; returns its step, or 0 without one. Damaged ones are set aside with a warning."""
    if steps.accelerator.is_main_process:
        if problem := set_damaged_aside(folder / "checkpoints"):
            warn(folder, problem)
        if problem := mend_metrics(folder / "metrics.jsonl"):
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
    steps.load_sums(load_optimizer(steps.optimizer, load_tensors(newest / "optimizer.safetensors")))
    return int(newest.name.removeprefix("step_"))


def _check_finite(row: dict[str, float], module: torch.nn.Module, config: LoopConfig, folder: Path | None) -> None:
    weights = torch.stack([parameter.detach().isfinite().all() for parameter in module.parameters()])
    finite = all(math.isfinite(row[name]) for name in ("loss", "gradient_norm")) and row.get("loss_scale", 1.0) > LEAST_SCALE
    if finite and weights.all():
        return
    facts = ", ".join(f"{name} {value:.6g}" for name, value in row.items() if name != "step")
    last = list_checkpoints(folder / "checkpoints")[-1:] if folder else []
    raise TrainingDiverged(
        f"the loss, its gradient or a weight became infinite or NaN within the {config.log_every} steps up to step "
        f"{row['step']}: {facts}. {f'The last good checkpoint is {last[0]}. ' if last else ''}"
        "Try a lower learning_rate, a longer warmup or clip=1, and check the range of the data (kdiff info)."
    )
