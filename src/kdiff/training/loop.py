"""The training loop: AdamW on any objective, on accelerate (devices, processes, mixed precision).

All that is random in step s is seeded by (seed, s): order of the data, times, noise, dropout. So two runs that differ in
their target alone see the same batches and noise, and a resumed run goes on exactly, without saved random states.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor
from tqdm import tqdm

from kdiff.sampling.noise import mix_seed
from kdiff.training.checkpoint import (
    check_checkpoint,
    ema_file,
    list_checkpoints,
    load_optimizer,
    load_tensors,
    load_weights,
    save_checkpoint,
)
from kdiff.training.config import LoopConfig
from kdiff.training.ema import EMA
from kdiff.training.metrics import Averages, MetricsFile
from kdiff.training.objective import Objective
from kdiff.training.order import DataOrder


class TrainingDiverged(RuntimeError):
    """The loss, the gradient or a weight stopped being a finite number."""


@dataclass
class Fitted:
    """What a finished loop leaves: averaged weights by decay, the last line of metrics, and the seconds it took."""

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


def make_accelerator(precision: str) -> Accelerator:
    """An accelerator of this precision, whatever precision the process used before (accelerate keeps one per process)."""
    if AcceleratorState._shared_state and AcceleratorState._shared_state.get("_mixed_precision") != precision:
        AcceleratorState._reset_state()
    return Accelerator(mixed_precision=precision)


def make_optimizer(objective: Objective, config: LoopConfig) -> torch.optim.AdamW:
    """AdamW in one fused kernel; each group remembers its own learning rate."""
    groups = objective.parameter_groups(config.learning_rate, config.weight_decay)
    for group in groups:
        group["base_lr"] = group["lr"]
    return torch.optim.AdamW(groups, betas=(config.betas[0], config.betas[1]), fused=True)


def fit(
    objective: Objective,
    x: Tensor,
    y: Tensor | None,
    config: LoopConfig,
    *,
    folder: Path | None = None,
    resume: bool = False,
    progress: str | None = None,
) -> Fitted:
    """Train an objective on the samples x (N, ...), with labels y (N,) or None.

    Args:
        objective: what to train, in place.
        x: samples.
        y: labels.
        config: steps, batch size, learning rate, …
        folder: where metrics.jsonl and checkpoints/ go; none are written without it.
        resume: go on from the newest checkpoint in `folder`.
        progress: what the progress bar is called; None for no bar.

    Raises:
        TrainingDiverged: with the facts, when loss, gradient or a weight is not finite; checked before every line of metrics
            and every checkpoint, so that no checkpoint holds such weights.
    """
    accelerator = make_accelerator(config.precision)
    optimizer = make_optimizer(objective, config)
    module, ema, averages = objective.module, EMA(objective.module.to(accelerator.device), config.ema), Averages()
    start = _resume(folder, module, ema, optimizer, averages) if resume and folder else 0
    model, optimizer = accelerator.prepare(objective, optimizer)
    clipped = [p for group in optimizer.param_groups if group["name"] != "target" for p in group["params"]]
    order = DataOrder(len(x), config.batch_size, config.seed)
    log = MetricsFile(folder / "metrics.jsonl", start) if folder and accelerator.is_main_process else None
    row: dict[str, float] = log.last if log else {}
    began = time.perf_counter()
    silent = progress is None or not accelerator.is_main_process
    bar = tqdm(total=config.steps, initial=start, desc=progress, unit="step", disable=silent, smoothing=0.05)
    model.train()
    with torch.random.fork_rng(devices=[accelerator.device] if accelerator.device.type == "cuda" else []), bar:
        for step in range(start, config.steps):
            torch.manual_seed(mix_seed(config.seed, step, accelerator.process_index))
            rows = order.batch(step)[accelerator.process_index :: accelerator.num_processes]
            batch_y = None if y is None else y[rows].to(accelerator.device, non_blocking=True)
            loss, extras = model(x[rows].to(accelerator.device, non_blocking=True), batch_y)
            accelerator.backward(loss)
            norm = accelerator.clip_grad_norm_(clipped, config.clip or math.inf)
            factor = learning_rate_factor(config, step)
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            optimizer.step()
            ema.update(step)
            averages.add({"loss": loss, **extras, "gradient_norm": norm.to(loss.device)})
            done = step + 1
            last = done == config.steps
            logging = last or done % config.log_every == 0
            saving = last or (config.checkpoint_every and done % config.checkpoint_every == 0)
            if logging or saving:
                state = objective.state()
                averages.sums = accelerator.reduce(averages.sums, "mean")
                row = {"step": done, **averages.means(), **state, "learning_rate": config.learning_rate * factor}
                _check_finite(row, module, config, folder)
            if logging:
                averages.sums = {}
                if log:
                    log.append(row)
                bar.set_postfix({name: f"{row[name]:.4g}" for name in ("loss", "k", "accuracy") if name in row}, refresh=False)
            optimizer.zero_grad()
            bar.update()
            if saving and folder and accelerator.is_main_process:
                save_checkpoint(folder / "checkpoints", done, module, ema, optimizer.optimizer, averages.sums)
    objective.module.eval()
    return Fitted(ema, row, time.perf_counter() - began)


def _resume(folder: Path, module: torch.nn.Module, ema: EMA, optimizer: torch.optim.Optimizer, averages: Averages) -> int:
    """Load the newest checkpoint, if there is one; returns its step."""
    checkpoints = list_checkpoints(folder / "checkpoints")
    if not checkpoints:
        return 0
    newest = checkpoints[-1]
    step: int = check_checkpoint(newest)["step"]
    load_weights(module, load_tensors(newest / "model.safetensors"), newest / "model.safetensors")
    for decay in ema.averages:
        ema.load(decay, load_tensors(newest / ema_file(decay)))
    averages.sums = load_optimizer(optimizer, load_tensors(newest / "optimizer.safetensors"))
    return step


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
