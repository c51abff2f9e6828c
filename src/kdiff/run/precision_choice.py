"""Whether bfloat16 is faster than float32 here: measured once for each machine, network and batch, and kept in the cache.

A piece of work (an evaluation of the network, or a forward and backward pass) is timed in turn in float32 and under autocast
to bfloat16, first for one sample, then for more, until the batch is reached or a second and a half is spent. The fastest time
of each counts. bfloat16 is chosen only if it saves a tenth of the time, because it costs digits. CPUs and GPUs without
instructions for bfloat16 are not measured: they emulate it, slowly.
"""

from __future__ import annotations

import contextlib
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list
from torch import Tensor

from kdiff.config.plain import PRECISIONS, Precision
from kdiff.files.cache import entry, json_of
from kdiff.model import autocast_to
from kdiff.run.generate import evaluation_of
from kdiff.run.run import Run

LIMIT = 1.5  # seconds of measuring, unless one sample takes longer
MOST = 10  # pairs of times
GAIN = 0.9  # bfloat16 is chosen if its time is at most this share of that of float32
BATCH = 500  # samples that are drawn at a time

Work = Callable[[int], Tensor]  # does the work for so many samples; reading the result waits for the device
Seconds = Callable[[int, str], float]


@dataclass(frozen=True)
class PrecisionChoice:
    """A precision and why: the seconds of the work for `samples` samples in each, or the reason why nothing was measured."""

    precision: Precision
    work: str
    samples: int = 0
    float32: float = 0.0
    bf16: float = 0.0
    why: str = ""

    def __str__(self) -> str:
        """The choice in one line."""
        name = {"no": "no (float32)"}.get(self.precision, self.precision)
        if self.why:
            return f"precision {name}: {self.why}"
        many = f"{self.samples} sample{'s' * (self.samples > 1)}"
        times = f"{1e3 * self.bf16:.3g} ms in bfloat16 and {1e3 * self.float32:.3g} ms in float32"
        return f"precision {name}: {self.work} of {many} takes {times} on this machine"


def choose_precision(name: str, work: Work, batch: int, device: torch.device, *facts: Any) -> PrecisionChoice:
    """The faster precision for a piece of work; the same in all processes.

    Args:
        name: what the work is called in a message, as in "an evaluation".
        work: does the work for a number of samples, in the precision of autocast.
        batch: the number of samples at a time, in earnest.
        device: where the work is done.
        facts: what the time depends on besides the batch and the machine, such as the network.
    """
    found: list[Any] = [asdict(_chosen(name, work, batch, device, facts)) if _is_first() else None]
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        broadcast_object_list(found)
    return PrecisionChoice(**found[0])


def _is_first() -> bool:
    """Whether this is the first of several processes, or the only one."""
    return not (torch.distributed.is_available() and torch.distributed.is_initialized()) or torch.distributed.get_rank() == 0


def _chosen(name: str, work: Work, batch: int, device: torch.device, facts: tuple[Any, ...]) -> PrecisionChoice:
    if why := lacks_bfloat16(device):
        return PrecisionChoice("no", name, why=why)

    def seconds(count: int, precision: str) -> float:
        began = time.perf_counter()
        with autocast_to(precision, device):
            work(count).flatten()[:1].float().cpu()  # waits for the device
        return time.perf_counter() - began

    def measured() -> dict[str, Any]:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            return measure(seconds, batch)

    path = entry("precision", name, batch, machine(device), *facts).with_suffix(".json")
    try:
        times = json_of(path, measured)
    except OSError:  # a cache that cannot be written to keeps nothing
        times = measured()
    faster = times["bf16"] <= GAIN * times["float32"]
    return PrecisionChoice("bf16" if faster else "no", name, **times)


def measure(seconds: Seconds, batch: int) -> dict[str, Any]:
    """The fastest of the times `seconds(count, precision)` in each precision, and for how many samples."""
    count, pair = 1, (seconds(1, "no"), seconds(1, "bf16"))
    spent = sum(pair)
    while count < batch and 2 * sum(pair) <= (LIMIT - spent) / 4:
        count = min(2 * count, batch)
        pair = seconds(count, "no"), seconds(count, "bf16")
        spent += sum(pair)
    pairs = [pair]
    while spent + sum(pair) <= LIMIT and len(pairs) < MOST:
        pairs.append((seconds(count, "no"), seconds(count, "bf16")))
        spent += sum(pairs[-1])
    full, half = (min(each) for each in zip(*pairs))
    return {"samples": count, "float32": full, "bf16": half}


def lacks_bfloat16(device: torch.device) -> str:
    """Why bfloat16 cannot be faster on a device; empty if it can."""
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "this GPU has no instructions for bfloat16"
    if device.type == "cpu" and platform.machine().lower() in ("x86_64", "amd64"):
        known = [getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
        if all(known) and not any(supported() for supported in known if supported):
            return "this CPU has no instructions for bfloat16 (AVX-512 BF16 or AMX)"
    return ""


def machine(device: torch.device) -> tuple[str, ...]:
    """What the speed of a machine depends on: the model of the device, threads, version of PyTorch."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device), torch.__version__
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
        model = next(line for line in lines if line.startswith("model name")).partition(":")[2].strip()
    return model, torch.backends.cpu.get_cpu_capability(), str(torch.get_num_threads()), device.type, torch.__version__


def run_in(precision: str, *runs: Run, batch: int = BATCH) -> str:
    """Let the networks of these runs compute in a precision, which is returned; "auto" measures with the first, and says so.

    `batch` is the number of samples that are drawn at a time.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision is {precision!r}; expected {' or '.join(PRECISIONS)}")
    if precision == "auto":
        first, batch = runs[0], min(batch, BATCH)
        device = next(first.model.parameters()).device
        facts = str(first.config.network), first.shape, first.data["num_classes"], str(first.data.get("conditions"))
        work = evaluation_of(first.model, first.shape, first.given)
        choice = choose_precision("an evaluation", work, batch, device, *facts)
        precision = choice.precision
        if _is_first():
            print(choice, file=sys.stderr)
    for run in runs:
        run.model.precision = precision
    return precision
