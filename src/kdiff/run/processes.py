"""The processes of a run, and their accelerator. torchrun or accelerate launch starts them, and accelerate joins them.

accelerate reads settings from the environment, where a launcher or a shell may have left them: gradient accumulation,
precision, compilation, sharding. Such a setting would change every step, so it is hidden from accelerate. Only the run's own
configuration says what a step computes. The environment may say where it is computed (`PLACES`).
"""

from __future__ import annotations

import contextlib
import datetime
import os
import warnings
from collections.abc import Iterator
from importlib import import_module

import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, parse_flag_from_env

# How long one process waits for another. The first draws pictures, hashes, judges and writes while the others wait. If one
# dies, torchrun ends them all.
PATIENCE = datetime.timedelta(days=1)
SETTINGS = ("ACCELERATE_", "FSDP_", "MEGATRON_LM_", "PARALLELISM_CONFIG_")
PLACES = ("ACCELERATE_USE_CPU", "ACCELERATE_TORCH_DEVICE", "ACCELERATE_CPU_AFFINITY", "ACCELERATE_DEBUG_MODE")
# The variables that ask for another training, with the values that ask for nothing.
ASKING = {
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("1", "auto"),
    "ACCELERATE_MIXED_PRECISION": ("no", "none"),
    "ACCELERATE_DYNAMO_BACKEND": ("no",),
    **{f"ACCELERATE_USE_{kind}": ("false", "0") for kind in ("FSDP", "DEEPSPEED", "MEGATRON_LM", "PARALLELISM_CONFIG")},
}
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


@contextlib.contextmanager
def without_launcher_settings() -> Iterator[None]:
    """Hide accelerate's settings in the environment, except those of places."""
    hidden = {name: value for name, value in os.environ.items() if name.startswith(SETTINGS) and name not in PLACES}
    for name in hidden:
        del os.environ[name]
    try:
        yield
    finally:
        os.environ.update(hidden)


def join_processes() -> PartialState:
    """Join the processes of this run (torchrun, accelerate launch). accelerate must be told to join them on CPUs."""
    launched = int(os.environ.get("WORLD_SIZE", "1")) > 1
    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or (
        launched and not (torch.cuda.is_available() or torch.xpu.is_available())
    )
    if torch.distributed.is_available():
        # Parts of torch import this module later. Its functions would keep the connections as their default, and closing the
        # connections would not end their threads, which can abort Python at exit.
        import_module("torch.distributed.nn.functional")
    with without_launcher_settings():
        return PartialState(cpu=cpu, timeout=PATIENCE)


def make_accelerator(precision: str) -> Accelerator:
    """An accelerator of this precision that adds nothing, whatever the environment and earlier accelerators of the process say.

    Raises:
        ValueError: the process has already joined the others to shard a model.
    """
    processes = join_processes()
    if processes.distributed_type in SHARDED:
        raise ValueError(
            f"this process has an accelerator for {processes.distributed_type.value}, which shards a model over processes; "
            "kdiff trains whole models only. Expected a process without such an accelerator"
        )
    asked = [f"{name}={value}" for name, value in os.environ.items() if name in ASKING and value.lower() not in ASKING[name]]
    if asked and processes.is_main_process:
        warnings.warn(
            f"{', '.join(asked)} in the environment is ignored: kdiff trains whole models, as its own options say "
            "(--accumulate, --precision)",
            stacklevel=2,
        )
    # accelerate keeps one state per process: its precision and its compiler would be those of the first accelerator.
    AcceleratorState._reset_state()
    # Gradients lie in the buckets that processes exchange; separate copies would double their memory.
    buckets = DistributedDataParallelKwargs(gradient_as_bucket_view=True)
    with without_launcher_settings():
        accelerator = Accelerator(mixed_precision=precision, kwargs_handlers=[buckets])
    # An earlier loop may have stopped between two micro-batches. The optimiser would then take no step.
    accelerator.gradient_state.sync_gradients = True
    return accelerator
