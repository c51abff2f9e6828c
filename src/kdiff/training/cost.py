"""The cost of a run before it starts: parameters, FLOPs, memory and device-hours of the network at its true size.

The network is built without memory for its tensors (torch's FakeTensorMode). One step, forward and backward, is traced for two
batch sizes, which is enough because both quantities are linear in the batch:

    FLOPs(batch) = batch · f,        kept for backward(batch) = fixed + batch · a

torch's own counter counts the FLOPs of matrix products, convolutions and attention: 2 per multiplication and addition,
recomputation included. Memory is counted in the run's precision; `fixed` is the weights cast to half precision. Attention keeps
no matrix of tokens × tokens, because fused kernels keep none. Blocks that are computed again (`checkpointing`) keep the input
of every block and the inside of one block. Every device also holds these float32 numbers, because data parallelism splits
neither weights nor optimiser:

    weight 4 · gradient 4 · optimiser 8 (AdamW) or 0 (SGD) · averages 4 each      bytes per parameter

Gradients lie in the buckets through which processes exchange them, so that the buckets need no additional memory.

    device-hours = steps · FLOPs(batch_size) / (peak FLOP/s · utilisation) / 3600
"""

from __future__ import annotations

import contextlib
import math
import sys
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdiff.config.training import Expected, PlanConfig, TrainConfig
from kdiff.data.directions import moments
from kdiff.model import KDiff
from kdiff.run.build import build_model, load_dataset
from kdiff.training.choosing import choose_network, faster_precision, timed
from kdiff.training.loop import Fitted, fit
from kdiff.training.objective import DiffusionObjective
from kdiff.training.start import as_text as as_started
from kdiff.training.start import start_from

GB = 1e9
DEVICES = (1, 8)


@dataclass(frozen=True)
class Cost:
    """The cost of one step of the model at its true size.

    Args:
        parameters: the number of trainable parameters of network and target.
        flops: FLOPs of one sample, forward and backward.
        fixed: bytes kept for the backward pass, for any batch size.
        per_sample: further bytes kept for each sample.
        tokens: tokens of one sample; 0 for networks without a grid of tokens.
    """

    parameters: int
    flops: float
    fixed: float
    per_sample: float
    tokens: int


def expected_data(config: TrainConfig) -> Expected:
    """Shape, classes and number of the samples, from `config.expects` if it is set, else from the data.

    Training refuses data that differ from `expects`, so a plan need not read them. Reading can take long: `own_latents` would
    first train an autoencoder.

    Raises:
        ValueError: the configuration has no `expects`, and the data cannot be read.
    """
    if config.expects is not None:
        return config.expects
    try:
        dataset = load_dataset(config)
    except (ValueError, OSError) as error:
        raise ValueError(
            f"{error}. To plan without the data, describe them: --expects.shape '[3, 256, 256]' "
            "--expects.num_classes 1000 --expects.num_samples 1281167"
        ) from None
    number, conditions = len(dataset.part(config.train_on)[0]), [each.spec.plain() for each in dataset.conditions.values()]
    return Expected(list(dataset.shape), dataset.num_classes, number, conditions)


def cost_of(config: TrainConfig, data: Expected) -> Cost:
    """The cost of a step, traced without memory for tensors.

    Raises:
        ValueError: the network reads values from tensors, which have none here.
    """
    from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

    try:
        # Nothing is drawn on the meta device. trunc_normal_ reads the values that it draws, and fake tensors have no values.
        with torch.device("meta"):
            model = build_model(config, config.target, tuple(data.shape), data.num_classes, conditions=data.specs).train()
        count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
        model.null_rate = 0.0  # fake tensors have no values, so no labels: every sample is of "no class"
        with FakeTensorMode(allow_non_fake_inputs=True):
            model.to_empty(device="cpu")
            one, two = (_step(model, (batch, *data.shape), config.precision != "no") for batch in (1, 2))
    except RuntimeError as error:
        if not isinstance(error, DataDependentOutputException) and "meta tensors" not in str(error):
            raise
        raise ValueError(
            f"the network reads a value from a tensor ({error}), but a plan has no memory for tensors. Take real steps "
            "instead: kdiff train CONFIG --dry-run"
        ) from None
    grid = getattr(model.network, "grid", ())
    # A network without tokens may keep more than twice the memory for two samples; `fixed` must not become negative.
    return Cost(count, two[0] - one[0], max(2 * one[1] - two[1], 0.0), two[1] - one[1], math.prod(grid) if grid else 0)


def flop_counter() -> Any:
    """PyTorch's counter of the FLOPs of matrix products, convolutions and attention; it also counts attention on CPUs."""
    from torch.utils import flop_counter

    forward, backward = flop_counter.sdpa_flop_count, flop_counter.sdpa_backward_flop_count
    aten = torch.ops.aten
    attention = {
        aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: int(forward(q, k, v)),
        aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *_, **__: int(backward(g, q, k, v)),
    }
    return flop_counter.FlopCounterMode(display=False, custom_mapping=attention)


def _step(model: KDiff, shape: tuple[int, ...], half: bool) -> tuple[float, float]:
    """FLOPs of a forward and backward pass, and the bytes kept between the two; networks with `checkpointing` included."""
    flops, kept = _trace(model, shape, half)
    network: Any = model.network
    if getattr(network, "checkpointing", False):
        network.checkpointing = False
        # Blocks are computed again one at a time: the inside of one block is kept, a depth-th of all.
        kept += (_trace(model, shape, half)[1] - kept) / network.depth
        network.checkpointing = True
    return flops, kept


def _trace(model: KDiff, shape: tuple[int, ...], half: bool) -> tuple[float, float]:
    """FLOPs of a forward and backward pass as it runs, and the bytes kept between the two."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    kept: dict[int, tuple[int, Any]] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = (storage.nbytes(), storage)  # holding the storage keeps its address from being reused
        return tensor

    model.zero_grad()
    with flop_counter() as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with torch.autocast("cpu", torch.bfloat16) if half else contextlib.nullcontext():
            loss = model.loss(torch.empty(shape))
        loss.backward()
    return float(counter.get_total_flops()), float(sum(size for size, _ in kept.values()))


def memory(cost: Cost, config: TrainConfig, devices: int) -> dict[str, float]:
    """Bytes on each of `devices` devices, by part."""
    local = config.batch_size / devices / config.accumulate
    return {
        "weights": 4.0 * cost.parameters,
        "gradients": 4.0 * cost.parameters,
        "optimiser": (8.0 if config.optimizer == "adamw" else 0.0) * cost.parameters,
        "averages": 4.0 * cost.parameters * len(config.ema),
        "kept for backward": cost.fixed + cost.per_sample * local,
    }


def largest_local_batch(cost: Cost, config: TrainConfig, limit: float) -> int:
    """The largest number of samples that a device of `limit` bytes can take at once; 0 if not even the weights fit."""
    parts = memory(cost, replace(config, accumulate=1), 1)
    free = limit - sum(parts.values()) + cost.per_sample * config.batch_size
    return max(0, int(free / cost.per_sample)) if cost.per_sample else config.batch_size


def in_digits(value: float, significant: int = 3) -> str:
    """A number with that many significant digits, never as a power of ten: 1,030."""
    return f"{Decimal(f'{value:.{significant}g}'):,f}"


def device_hours(config: PlanConfig, cost: Cost) -> float:
    """Hours of training on one device; sampling is not counted."""
    return config.steps * (cost.flops * config.batch_size) / (config.peak * 1e12 * config.utilisation) / 3600


def as_text(config: PlanConfig, data: Expected, cost: Cost) -> str:
    """The plan as text."""
    step, seen, hours = cost.flops * config.batch_size, config.steps * config.batch_size, device_hours(config, cost)
    per_sample = f", {cost.tokens:,} tokens per sample" if cost.tokens else ""
    epochs = f", {in_digits(seen / data.num_samples, 4)} epochs of {data.num_samples:,}" if data.num_samples else ""
    tokens = f", {in_digits(seen * cost.tokens)} tokens" if cost.tokens else ""
    columns = [memory(cost, config, devices) for devices in DEVICES]
    fits = largest_local_batch(cost, config, config.device_memory * GB)
    lines = [
        f"data         {' × '.join(map(str, data.shape))}, {data.num_classes or 'no'} classes"
        + "".join(f", condition {spec.name} ({spec.kind})" for spec in data.specs)
        + (", as the configuration expects them; they are not read" if config.expects else ""),
        f"network      {cost.parameters / 1e6:,.1f} M parameters{per_sample}",
        f"step         {in_digits(step / 1e12, 4)} TFLOP "
        f"({in_digits(cost.flops / 1e9, 4)} GFLOP per sample, forward and backward)",
        f"run          {config.steps:,} steps of {config.batch_size:,}: {seen:,} samples{epochs}{tokens}",
        "",
        f"memory on each device, GB{'':12}" + "".join(f"{n:>10} device{'s' * (n > 1)}" for n in DEVICES),
        *(f"  {part:34}" + "".join(f"{in_digits(column[part] / GB):>17}" for column in columns) for part in columns[0]),
        f"  {'together':34}" + "".join(f"{in_digits(sum(column.values()) / GB):>17}" for column in columns),
        "",
        _advice(config, fits),
        "",
        f"time         {in_digits(hours)} device-hours at {config.utilisation:.0%} of {in_digits(config.peak, 6)} TFLOP/s"
        + "".join(f"; {in_digits(hours / n)} hours on {n}" for n in DEVICES[1:]),
        "             (set --utilisation, --peak-tflops and --device-memory for your devices; sampling takes additional time)",
    ]
    return "\n".join(lines)


def _advice(config: PlanConfig, fits: int) -> str:
    device = f"A device of {in_digits(config.device_memory, 6)} GB"
    if not fits:
        return f"{device} cannot hold the weights, gradients, optimiser and averages of this model."
    where = f"{device} takes {fits:,} samples at once"
    for devices in DEVICES:
        if config.batch_size % devices == 0:
            local = config.batch_size // devices
            parts = next(n for n in range(1, local + 1) if local % n == 0 and local / n <= fits)
            where += f"; on {devices} device{'s' * (devices > 1)}: --accumulate {parts}"
    return where + " (leave a tenth free: activations outside the backward pass and fragmentation need more memory)."


def as_json(config: PlanConfig, data: Expected, cost: Cost) -> dict[str, Any]:
    """The plan as plain data."""
    return {
        "data": {name: value for name, value in vars(data).items() if value or name != "conditions"},
        "parameters": cost.parameters,
        "tokens_per_sample": cost.tokens,
        "flops_per_sample": cost.flops,
        "flops_per_step": cost.flops * config.batch_size,
        "bytes_per_device": {str(devices): memory(cost, config, devices) for devices in DEVICES},
        "device_hours": device_hours(config, cost),
        "utilisation": config.utilisation,
        "peak_tflops": config.peak,
    }


def dry_run(config: TrainConfig, batch_size: int = 2, steps: int = 2) -> Fitted:
    """Take real optimiser steps of the true-size model, averages included, with a small batch of Gaussian noise as data.

    Raises the errors of `train_run` and `expected_data`.
    """
    data = expected_data(config)
    config, chosen = choose_network(config, tuple(data.shape), data.num_classes)
    if chosen:
        chosen = timed(chosen, config, tuple(data.shape), data.num_classes)
        print(chosen.as_text(config, data.num_samples), file=sys.stderr)
    generator = torch.Generator().manual_seed(config.seed)
    x = torch.randn(2 * batch_size, *data.shape, generator=generator)
    y = torch.randint(data.num_classes, (len(x),), generator=generator) if data.num_classes else None
    conditions = {} if y is None else {"y": y}
    for spec in data.specs:
        drawn = torch.randn(len(x), *spec.shape, generator=generator)
        conditions[spec.name] = drawn.abs().long() % spec.num_classes if spec.kind == "class" else drawn
    small = replace(config, steps=steps, batch_size=batch_size, accumulate=1, log_every=1, warmup=0, tensorboard=False)
    made = partial(moments, x), lambda: x
    size = tuple(data.shape), data.num_classes
    model = build_model(config, config.target, *size, config.seed, *made, conditions=data.specs)
    if config.start_from is not None:
        print(as_started(start_from(model, config, x, y)), file=sys.stderr)
    if config.precision == "auto":
        faster = faster_precision(DiffusionObjective(model), x, conditions, small, str(config.network), data.shape, data.specs)
        print(faster, file=sys.stderr)
        small = replace(small, precision=faster.precision)
    return fit(DiffusionObjective(model), x, conditions, small, progress="dry run")


def peak_memory() -> float:
    """The most bytes that this process has held, on the GPU if there is one, else in main memory."""
    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    import resource

    # ru_maxrss is in kilobytes on Linux and in bytes on macOS.
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024))
