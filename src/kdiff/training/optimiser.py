"""The optimiser of a run, and its learning rate at every step."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from kdiff.config.training import LoopConfig
from kdiff.run.folder import warn
from kdiff.training.objective import Objective


def learning_rate_factor(config: LoopConfig, step: int) -> float:
    """Linear warm-up over `warmup` steps, then 1, or a half cosine that falls to 0 at the end."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule == "constant":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - config.warmup) / max(1, config.steps - config.warmup)))


def check_trainable(module: nn.Module) -> None:
    """Raise ValueError for a module that is sharded over processes, has layers without a shape, or is sparse."""
    for path, part in module.named_modules():
        if isinstance(part, nn.Embedding | nn.EmbeddingBag) and part.sparse and part.weight.requires_grad:
            _refuse_sparse(f"{path}.weight".lstrip("."))
        if type(part).__name__ == "FullyShardedDataParallel" or (hasattr(part, "unshard") and hasattr(part, "reshard")):
            _refuse_sharded(type(part).__name__)
    for name, value in itertools.chain(module.named_parameters(), module.named_buffers()):
        # A DTensor, a parameter of FullyShardedDataParallel, one of DeepSpeed; without importing what the process does not use.
        if any(hasattr(value, mark) for mark in ("device_mesh", "_is_flat_param", "ds_id")):
            _refuse_sharded(name)
        if is_lazy(value):
            raise ValueError(f"{name} has no shape yet; call the module once before it is trained")
    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor) and value.layout != torch.strided:
            layout = str(value.layout).removeprefix("torch.")
            raise ValueError(
                f"{name} is stored as {layout}, which checkpoints cannot hold; expected a dense tensor (to_dense), "
                "or a buffer that is not saved, as in register_buffer(…, persistent=False)"
            )


def _refuse_sharded(name: str) -> None:
    raise ValueError(
        f"{name} is sharded over processes, but kdiff trains whole models only, one in each process. Expected a module without "
        "fully_shard or FullyShardedDataParallel; for sharded training, keep your own loop (docs/howto/loop.md)"
    )


def check_gradients(module: nn.Module) -> None:
    """Raise ValueError if a backward pass has made sparse gradients."""
    for name, parameter in module.named_parameters():
        if parameter.grad is not None and parameter.grad.layout != torch.strided:
            _refuse_sparse(name)


def _refuse_sparse(name: str) -> None:
    raise ValueError(
        f"{name} has sparse gradients, which the optimisers of kdiff cannot use; expected dense gradients. Make the layer with "
        "sparse=False, as in nn.Embedding(…, sparse=False)"
    )


def places(module: nn.Module) -> dict[str, Any]:
    """What must stay the same in training, by name: the parameters themselves, and the shapes of all entries."""
    shapes = {name: getattr(value, "shape", None) for name, value in module.state_dict().items()}
    return {**shapes, **{name: (id(parameter), parameter.shape) for name, parameter in module.named_parameters()}}


def check_places(module: nn.Module, before: dict[str, Any], when: str) -> None:
    """Raise ValueError if the module has made parameters or buffers: the optimiser and saved weights would not fit them."""
    now = places(module)
    changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    if changed:
        shown = ", ".join(changed[:3]) + (", …" if len(changed) > 3 else "")
        raise ValueError(
            f"{shown}: the model made these entries or changed their shapes {when}, so a run could not be "
            "read back. Make all parameters and buffers in __init__, with their final shapes"
        )


def make_optimizer(objective: Objective, config: LoopConfig) -> torch.optim.Optimizer:
    """AdamW or SGD, in one fused kernel unless a weight is complex; each group stores its own learning rate as `base_lr`."""
    groups = objective.parameter_groups(config.learning_rate, config.weight_decay)
    for group in groups:
        group["base_lr"] = group["lr"]
    fused = not any(parameter.is_complex() for group in groups for parameter in group["params"])
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups, fused=fused)
    return torch.optim.AdamW(groups, betas=(config.betas[0], config.betas[1]), fused=fused)


def compare_rates(row: dict[str, float], config: LoopConfig, folder: Path) -> None:
    """Warn if the last line has another learning rate than the present schedule, because the number of steps has changed."""
    before, step = row.get("learning_rate"), int(row["step"])
    now = config.learning_rate * learning_rate_factor(config, step - 1)
    if before is not None and not math.isclose(before, now, rel_tol=1e-6):
        following = config.learning_rate * learning_rate_factor(config, min(step, config.steps - 1))
        warn(
            folder,
            f"the learning rate goes from {before:.3g} at step {step} to {following:.3g}, because the {config.schedule} "
            f"schedule now ends at step {config.steps}. To keep the rates of the run, resume it with its own --steps. To train "
            f"on from its end, start a new run with --start_from {folder}",
        )
