"""What a run will cost, before it is started: parameters, FLOPs, memory, device-hours, from the true-size network.

The network is built without memory (torch's FakeTensorMode) and one step is traced, forward and backward, for two batch
sizes, since what a step does and keeps is linear in the batch:

    FLOPs(batch) = batch · f,        kept for backward(batch) = fixed + batch · a

FLOPs are those of matrix products, convolutions and attention (2 per multiplication and addition, recomputation included), as
torch's own counter has them; attention keeps no matrix of tokens × tokens, as fused kernels do not. What is kept is counted in
the run's precision, fixed being the weights cast to half precision; of blocks that are computed again (`checkpointing`), what
enters each and the inside of one. Training holds besides, in float32 and on every device
(data parallelism: weights and optimiser are not split), per parameter

    weight 4 · gradient 4 · optimiser 8 (AdamW) or 0 (SGD) · averages 4 each      bytes

(gradients lie in the buckets in which processes exchange them, which so need no room of their own).

    device-hours = steps · FLOPs(batch_size) / (peak FLOP/s · utilisation) / 3600
"""

from __future__ import annotations

import contextlib
import math
import sys
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import torch
from torch import Tensor

from kdiff.model import KDiff
from kdiff.training.build import build_model, load_dataset
from kdiff.training.config import Expected, PlanConfig, TrainConfig
from kdiff.training.loop import Fitted, fit
from kdiff.training.objective import DiffusionObjective
from kdiff.training.start import as_text as as_started
from kdiff.training.start import start_from

GB = 1e9
DEVICES = (1, 8)


@dataclass(frozen=True)
class Cost:
    """A step's cost for the true-size model.

    Args:
        parameters: trainable numbers, network and target.
        flops: of one sample, forward and backward.
        fixed: bytes kept for the backward pass, whatever the batch.
        per_sample: bytes kept for the backward pass of one sample.
        tokens: of one sample, for networks that say so; 0 for others.
    """

    parameters: int
    flops: float
    fixed: float
    per_sample: float
    tokens: int


def expected_data(config: TrainConfig) -> Expected:
    """Shape, classes and number of the samples: as the configuration expects them, else of the data themselves.

    What training refuses to differ from needs no reading, which may take long: `own_latents` makes what is not there.

    Raises:
        ValueError: neither expectation nor data are there.
    """
    if config.expects is not None:
        return config.expects
    try:
        dataset = load_dataset(config)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{error}. To plan without the data, say what they are: --expects.shape '[3, 256, 256]' "
            "--expects.num_classes 1000 --expects.num_samples 1281167"
        ) from None
    return Expected(list(dataset.shape), dataset.num_classes, len(dataset.part(config.train_on)[0]))


def cost_of(config: TrainConfig, data: Expected) -> Cost:
    """The cost of a step, traced without memory for tensors.

    Raises:
        ValueError: the network reads numbers of tensors, which are not there.
    """
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    try:
        # On the meta device nothing is drawn: trunc_normal_ would read what it drew, and a fake tensor cannot be read.
        with torch.device("meta"):
            model = build_model(config, config.target, tuple(data.shape), data.num_classes).train()
        count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        model.null_rate = 0.0  # labels are values, which fake tensors have not; without them all are "no class"
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to_empty(device="cpu")
            one, two = (_step(model, (batch, *data.shape), config.precision == "bf16") for batch in (1, 2))
    except RuntimeError as error:
        if not isinstance(error, DataDependentOutputException) and "meta tensors" not in str(error):
            raise
        raise ValueError(
            f"the network reads a number of a tensor ({error}), and a plan is made without memory for tensors. Take real steps "
            "instead: kdiff train CONFIG --dry-run"
        ) from None
    grid = getattr(model.network, "grid", ())
    # A network without tokens may keep less for two samples than twice; a step never costs less than nothing.
    return Cost(count, two[0] - one[0], max(2 * one[1] - two[1], 0.0), two[1] - one[1], math.prod(grid) if grid else 0)


def flop_counter() -> Any:
    """PyTorch's counter of the FLOPs of matrix products, convolutions and attention, with the CPU's attention added."""
    from torch.utils import flop_counter

    def forward(q: Any, k: Any, v: Any, *rest: Any, **options: Any) -> int:
        return int(flop_counter.sdpa_flop_count(q, k, v))

    def backward(grad: Any, q: Any, k: Any, v: Any, *rest: Any, **options: Any) -> int:
        return int(flop_counter.sdpa_backward_flop_count(grad, q, k, v))

    aten = torch.ops.aten
    attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: backward,
    }
    return flop_counter.FlopCounterMode(display=False, custom_mapping=attention)


def _step(model: KDiff, shape: tuple[int, ...], half: bool) -> tuple[float, float]:
    """FLOPs of a forward and backward pass, and bytes kept in between.

    Blocks that are computed again are so one at a time: beside what enters each, the inside of one is kept, a depth-th of
    that of all.
    """
    flops, kept = _trace(model, shape, half)
    network: Any = model.network
    if getattr(network, "checkpointing", False):
        network.checkpointing = False
        kept += (_trace(model, shape, half)[1] - kept) / network.depth
        network.checkpointing = True
    return flops, kept


def _trace(model: KDiff, shape: tuple[int, ...], half: bool) -> tuple[float, float]:
    """FLOPs of a forward and backward pass, and bytes kept in between."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, tuple[int, Any]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage.nbytes(), storage)  # held, so that its address is not used again
        return tensor

    model.zero_grad()
    with flop_counter() as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
            loss = model.loss(torch.empty(shape))
        loss.backward()
    return float(counter.get_total_flops()), float(sum(size for size, _ in kept.values()))


def memory(cost: Cost, config: TrainConfig, devices: int) -> dict[str, float]:
    """Bytes on each of that many devices, by part."""
    local = config.batch_size / devices / config.accumulate
    return {
        "weights": 4.0 * cost.parameters,
        "gradients": 4.0 * cost.parameters,
        "optimiser": (8.0 if config.optimizer == "adamw" else 0.0) * cost.parameters,
        "averages": 4.0 * cost.parameters * len(config.ema),
        "kept for backward": cost.fixed + cost.per_sample * local,
    }


def largest_local_batch(cost: Cost, config: TrainConfig, limit: float) -> int:
    """Samples that a device of so many bytes can take at once; 0 if not even the weights fit."""
    parts = memory(cost, replace(config, accumulate=1), 1)
    free = limit - sum(parts.values()) + cost.per_sample * config.batch_size
    return max(0, int(free / cost.per_sample)) if cost.per_sample else config.batch_size


def in_digits(value: float, significant: int = 3) -> str:
    """A number with so many significant digits, and none written as a power of ten: 1,030."""
    return f"{Decimal(f'{value:.{significant}g}'):,f}"


def as_text(config: PlanConfig, data: Expected, cost: Cost) -> str:
    """The plan, to read."""
    step = cost.flops * config.batch_size
    hours = config.steps * step / (config.peak * 1e12 * config.utilisation) / 3600
    epochs = (
        f"{in_digits(config.steps * config.batch_size / data.num_samples, 4)} epochs of {data.num_samples:,}"
        if data.num_samples
        else ""
    )
    seen = config.steps * config.batch_size
    lines = [
        f"data         {' × '.join(map(str, data.shape))}, {data.num_classes or 'no'} classes"
        + (", as the configuration expects them; they are not read" if config.expects else ""),
        f"network      {cost.parameters / 1e6:,.1f} M parameters"
        + (f", {cost.tokens:,} tokens per sample" if cost.tokens else ""),
        f"step         {in_digits(step / 1e12, 4)} TFLOP "
        f"({in_digits(cost.flops / 1e9, 4)} GFLOP per sample, forward and backward)",
        f"run          {config.steps:,} steps of {config.batch_size:,}: {seen:,} samples" + (f", {epochs}" if epochs else ""),
    ]
    if cost.tokens:
        lines[-1] += f", {in_digits(seen * cost.tokens)} tokens"
    lines += ["", f"memory on each device, GB{'':12}" + "".join(f"{n:>10} device{'s' * (n > 1)}" for n in DEVICES)]
    columns = [memory(cost, config, devices) for devices in DEVICES]
    lines += [f"  {part:34}" + "".join(f"{in_digits(column[part] / GB):>17}" for column in columns) for part in columns[0]]
    lines.append(f"  {'together':34}" + "".join(f"{in_digits(sum(column.values()) / GB):>17}" for column in columns))
    fits = largest_local_batch(cost, config, config.device_memory * GB)
    lines += ["", _advice(config, fits)]
    lines += [
        "",
        f"time         {in_digits(hours)} device-hours at {config.utilisation:.0%} of {in_digits(config.peak, 6)} TFLOP/s"
        + "".join(f"; {in_digits(hours / n)} hours on {n}" for n in DEVICES[1:]),
        "             (--utilisation, --peak-tflops, --device-memory: those of your devices; sampling comes on top)",
    ]
    return "\n".join(lines)


def _advice(config: PlanConfig, fits: int) -> str:
    device = f"A device of {in_digits(config.device_memory, 6)} GB"
    if not fits:
        return f"{device} does not hold weights, gradients, optimiser and averages of this model."
    where = f"{device} takes {fits:,} samples at once"
    for devices in DEVICES:
        if config.batch_size % devices == 0:
            local = config.batch_size // devices
            parts = next(n for n in range(1, local + 1) if local % n == 0 and local / n <= fits)
            where += f"; on {devices} device{'s' * (devices > 1)}: --accumulate {parts}"
    return where + " (activations outside the backward pass and fragmentation want some more: leave a tenth free)."


def as_json(config: PlanConfig, data: Expected, cost: Cost) -> dict[str, Any]:
    """The plan as plain data."""
    step = cost.flops * config.batch_size
    return {
        "data": vars(data),
        "parameters": cost.parameters,
        "tokens_per_sample": cost.tokens,
        "flops_per_sample": cost.flops,
        "flops_per_step": step,
        "bytes_per_device": {str(devices): memory(cost, config, devices) for devices in DEVICES},
        "device_hours": config.steps * step / (config.peak * 1e12 * config.utilisation) / 3600,
        "utilisation": config.utilisation,
        "peak_tflops": config.peak,
    }


def dry_run(config: TrainConfig, batch_size: int = 2, steps: int = 2) -> Fitted:
    """Real optimiser steps of the true-size model, averages and all, on Gaussian noise for data and a small batch.

    Raises:
        ValueError: as for training; or neither data nor an expectation of them.
    """
    data = expected_data(config)
    generator = torch.Generator().manual_seed(config.seed)
    x = torch.randn(2 * batch_size, *data.shape, generator=generator)
    y = torch.randint(data.num_classes, (len(x),), generator=generator) if data.num_classes else None
    small = replace(config, steps=steps, batch_size=batch_size, accumulate=1, log_every=1, warmup=0, tensorboard=False)
    model = build_model(config, config.target, tuple(data.shape), data.num_classes, config.seed)
    if config.start_from is not None:
        print(as_started(start_from(model, config, x, y)), file=sys.stderr)
    return fit(DiffusionObjective(model), x, y, small, progress="dry run")


def peak_memory() -> float:
    """Bytes that this process has held at most: on the accelerator where there is one."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    import resource

    # Kilobytes on Linux, bytes on macOS.
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
