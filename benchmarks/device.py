"""Prepared for a GPU: training and sampling in float32, bfloat16, compiled, and next to the official code of JiT.

    python benchmarks/device.py --out FOLDER [--minutes 11] [--parts train sample]      # on a machine with a GPU
    python benchmarks/device.py --out FOLDER --rehearse                                  # small networks, any machine

`train` times whole steps (forward, backward, clipping, AdamW, averages) of published and of small networks. `sample` times
guided sampling: the official loop of JiT, 50 Heun steps with both branches one after the other in float32, against
`KDiff.sample` with 20 evaluations of ab3. Every variant starts in the same process, warms up, and is then timed in the turns
of a round, so that the clock of the device affects all alike. A row has the median and the range over the rounds, the peak
memory, and the share of the device's peak: FLOPs of all matrix products and attention, divided by time and peak. `graphs` is
torch.compile with mode="reduce-overhead", which records CUDA graphs. The folder gets device.md and device.json. No variant is
started after `--minutes`; those that are left out are named.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiff import KDiff
from kdiff.files.atomic import write_text
from kdiff.model import autocast_to
from kdiff.networks import MLP, JiT, published
from kdiff.training.cost import flop_counter

# Dense peaks in FLOP/s: bfloat16 on tensor cores, float32 as PyTorch multiplies it by default (no TF32).
PEAKS = {"H200": (989e12, 67e12), "H100": (989e12, 67e12), "A100": (312e12, 19.5e12)}
ROUNDS, STEPS = 5, 10


@dataclass
class Case:
    """A network with its batch. `official` is the official code of the same network, if a package has it."""

    name: str
    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    classes: int
    batch: int
    small: bool = False
    official: Callable[[], nn.Module] | None = None


def official_jit(**options: Any) -> nn.Module:
    """The official JiT as azula carries it; its blocks are compiled."""
    from azula.plugins.jit._src.model import JiT as Official

    return Official(**options)


def cases(rehearse: bool) -> list[Case]:
    fashion = {"hidden_size": 128, "depth": 6, "num_heads": 4, "bottleneck": 32, "context_tokens": 4, "context_start": 2}
    digits = Case("MLP 4×256", lambda: MLP((1, 8, 8), 10, width=256, depth=4), (1, 8, 8), 10, 128, small=True)
    small = Case("JiT 6×128", lambda: JiT(28, 7, 1, 10, **fashion), (1, 28, 28), 10, 128, small=True)
    if rehearse:
        options = {"input_size": 32, "hidden_size": 64, "depth": 2, "num_heads": 2, "bottleneck_dim": 16, "in_context_len": 4}
        tiny = {"hidden_size": 64, "depth": 2, "num_heads": 2, "bottleneck": 16, "context_tokens": 4, "context_start": 1}
        same = {**options, "patch_size": 8, "num_classes": 1000, "in_context_start": 1}
        return [
            Case("JiT 2×64", lambda: JiT(32, 8, 3, 1000, **tiny), (3, 32, 32), 1000, 4, official=lambda: official_jit(**same))
        ]
    base = {"input_size": 256, "hidden_size": 768, "depth": 12, "num_heads": 12, "in_context_len": 32, "in_context_start": 4}
    jit = Case("JiT-B/16", lambda: published("JiT-B/16", 256, 3, 1000), (3, 256, 256), 1000, 64)
    jit.official = lambda: official_jit(**base, bottleneck_dim=128)
    lightning = Case("LightningDiT-XL/1", lambda: published("LightningDiT-XL/1", 16, 32, 1000), (32, 16, 16), 1000, 64)
    return [jit, lightning, small, digits]


def filled(network: nn.Module, device: torch.device) -> nn.Module:
    """The network on the device. Layers that begin with zeros get small numbers, as they have after some steps."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network.to(device)


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


@dataclass
class Variant:
    """One way to do the work: `work()` does it once. `flops` are those of once, `half` whether they run in bfloat16."""

    work: Callable[[], object]
    flops: float
    half: bool
    device: torch.device
    seconds: list[float] = field(default_factory=list)
    warm_up: float = 0.0
    memory: float = 0.0

    def begin(self) -> None:
        """Warm up, compilation included, and measure the peak memory of what follows."""
        began = time.perf_counter()
        for _ in range(3):
            self.work()
        synchronise(self.device)
        self.warm_up = time.perf_counter() - began
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
            self.work()
            self.memory = torch.cuda.max_memory_allocated() / 1e9

    def turn(self, steps: int) -> None:
        synchronise(self.device)
        began = time.perf_counter()
        for _ in range(steps):
            self.work()
        synchronise(self.device)
        self.seconds.append((time.perf_counter() - began) / steps)

    def row(self, case: str, label: str, peaks: tuple[float, float] | None) -> dict[str, Any]:
        middle = statistics.median(self.seconds)
        share = self.flops / middle / peaks[0 if self.half else 1] if peaks else None
        facts = {
            "network": case,
            "variant": label,
            "seconds": middle,
            "least": min(self.seconds),
            "most": max(self.seconds),
        }
        return {**facts, "warm_up": self.warm_up, "memory_gb": self.memory, "share_of_peak": share}


class Step:
    """A whole training step; `loss` is compiled where `mode` is not None."""

    def __init__(self, network: nn.Module, case: Case, device: torch.device, half: bool, mode: str | None) -> None:
        self.model = KDiff(network, "learned", null={"y": case.classes}).to(device).train()
        self.half, self.device = half, device
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.model.parameter_groups(1e-4), fused=True)
        self.parameters, self.averages = parameters, [p.detach().clone() for p in parameters]
        self.x = torch.randn(case.batch, *case.shape, device=device)
        self.y = torch.arange(case.batch, device=device) % case.classes
        self.loss = self.model.loss if mode is None else torch.compile(self.model.loss, mode=mode)

    def __call__(self) -> None:
        with autocast_to("bf16" if self.half else "no", self.device):
            loss = self.loss(self.x, y=self.y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        with torch.no_grad():
            torch._foreach_lerp_(self.averages, self.parameters, 1e-3)


class OfficialStep(Step):
    """The same step around the official network, with the velocity loss that its authors use, in plain code."""

    def __init__(self, network: nn.Module, case: Case, device: torch.device, half: bool) -> None:
        super().__init__(network, case, device, half, None)
        self.network, self.loss = network, self.plain

    def plain(self, x: Tensor, y: Tensor) -> Tensor:
        t = torch.randn(len(x), device=x.device).mul(0.8).sub(0.8).sigmoid().reshape(-1, 1, 1, 1)
        noise = torch.randn_like(x)
        z = t * x + (1 - t) * noise
        predicted = self.network(z, t.flatten(), y).float()
        return ((predicted - x) / (1 - t).clamp_min(0.05)).square().mean()


@torch.no_grad()
def official_loop(network: nn.Module, z: Tensor, y: Tensor, null: Tensor, steps: int, scale: float = 2.0) -> Tensor:
    """Heun's method on x-prediction with both branches at each evaluation, one after the other; Euler in the last step."""
    times = torch.linspace(0, 1, steps + 1, device=z.device)

    def velocity(z: Tensor, t: Tensor) -> Tensor:
        t = t.expand(len(z))
        room = (1 - t).clamp_min(0.05).reshape(-1, 1, 1, 1)
        with_label, without = ((network(z, t, label).float() - z) / room for label in (y, null))
        return without + scale * (with_label - without)

    for t, after in zip(times[:-1], times[1:]):
        slope = velocity(z, t)
        ahead = z + (after - t) * slope
        z = ahead if after == 1 else z + (after - t) * (slope + velocity(ahead, after)) / 2
    return z


Variants = Iterator[tuple[str, Callable[[], Variant]]]


def training(case: Case, device: torch.device) -> Variants:
    """The names of the variants of training, each with what builds it when its turn comes."""
    modes = {"": None, ", compiled": "default", **({", graphs": "reduce-overhead"} if device.type == "cuda" else {})}

    def ours(half: bool, mode: str | None) -> Variant:
        return Variant(Step(filled(case.make(), device), case, device, half, mode), flops_of(case), half, device)

    def theirs(half: bool) -> Variant:
        assert case.official
        return Variant(OfficialStep(filled(case.official(), device), case, device, half), flops_of(case), half, device)

    for half in (False, True):
        precision = "bf16" if half else "float32"
        if case.official:
            yield f"official, {precision}, its blocks compiled", partial(theirs, half)
        for label, mode in modes.items():
            yield f"kdiff, {precision}{label}", partial(ours, half, mode)


def sampling(case: Case, device: torch.device, batch: int, steps: int) -> Variants:
    """The same for guided sampling."""
    z, y = torch.randn(batch, *case.shape, device=device), torch.arange(batch, device=device) % case.classes
    forward = flops_of(case) / 3 / case.batch * batch  # a backward pass costs two forward passes

    def theirs() -> Variant:
        assert case.official
        network, null = filled(case.official(), device).eval(), torch.full_like(y, case.classes)
        work = partial(official_loop, network, z, y, null, steps)
        return Variant(work, forward * 2 * (2 * steps - 1), False, device)

    def ours(half: bool) -> Variant:
        model = KDiff(filled(case.make(), device), "data", null={"y": case.classes}).eval()

        def work() -> None:
            with torch.no_grad(), autocast_to("bf16" if half else "no", device):
                model.sample(z, solver="ab3", steps=20, y=y, guidance=2.0)

        return Variant(work, forward * 2 * 20, half, device)

    if case.official:
        yield f"official, {steps} Heun steps", theirs
    for half in (False, True):
        yield f"kdiff, ab3, 20 evaluations, {'bf16' if half else 'float32'}", partial(ours, half)


FLOPS: dict[str, float] = {}


def flops_of(case: Case) -> float:
    """FLOPs of forward and backward, counted once on one sample."""
    if case.name not in FLOPS:
        network = filled(case.make(), torch.device("cpu"))
        inputs = (torch.randn(1, *case.shape), torch.rand(1), torch.zeros(1, dtype=torch.long))
        with flop_counter() as counter:
            network(*inputs).square().mean().backward()
        FLOPS[case.name] = float(counter.get_total_flops()) * case.batch
    return FLOPS[case.name]


def measure(name: str, variants: Variants, until: float, steps: int, peaks: tuple[float, float] | None) -> list[dict[str, Any]]:
    """The rows of one table. Variants take turns; one that fails is named with its error."""
    ready: dict[str, Variant] = {}
    rows = []
    for label, build in variants:
        if time.monotonic() > until:
            rows.append({"network": name, "variant": "the rest", "problem": "left out: no time"})
            break
        try:
            variant = build()
            variant.begin()
        except Exception as error:  # a variant that fails must not cost the others their figures
            message = str(error).partition("\n")[0][:200]
            rows.append({"network": name, "variant": label, "problem": f"{type(error).__name__}: {message}"})
            print(f"{name}: {label} failed: {rows[-1]['problem']}", flush=True)
            continue
        ready[label] = variant
        print(f"{name}: {label} is ready after {variant.warm_up:.1f} s", flush=True)
    for _ in range(ROUNDS):
        for variant in ready.values():
            variant.turn(steps)
    return [variant.row(name, label, peaks) for label, variant in ready.items()] + rows


def table(rows: list[dict[str, Any]]) -> str:
    lines = ["| network | variant | seconds (range) | against the first | peak memory, GB | share of peak | warm-up, s |"]
    lines += ["| --- | --- | --- | --- | --- | --- | --- |"]
    first: dict[str, float] = {}
    for row in rows:
        if "problem" in row:
            lines.append(f"| {row['network']} | {row['variant']} | {row['problem']} | | | | |")
            continue
        base = first.setdefault(row["network"], row["seconds"])
        share = "" if row["share_of_peak"] is None else f"{row['share_of_peak']:.1%}"
        memory = f"{row['memory_gb']:.2f}" if row["memory_gb"] else ""
        spread = f"{row['seconds']:.4g} ({row['least']:.4g} to {row['most']:.4g})"
        cells = [
            row["network"],
            row["variant"],
            spread,
            f"{base / row['seconds']:.2f} ×",
            memory,
            share,
            f"{row['warm_up']:.1f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=["train", "sample"], default=["train", "sample"])
    parser.add_argument("--minutes", type=float, default=11.0, help="no variant is started later than this")
    parser.add_argument("--out", type=Path, required=True, help="the folder for device.md and device.json")
    parser.add_argument(
        "--rehearse", action="store_true", help="small networks and few steps, to try the script on any machine"
    )
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not given.rehearse:
        parser.error("no GPU is found; --rehearse tries the script with small networks")
    until = time.monotonic() + 60 * given.minutes
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    peaks = next((peak for chip, peak in PEAKS.items() if chip in name), None)
    facts = f"{name}, torch {torch.__version__}, {ROUNDS} rounds" + (", rehearsal" if given.rehearse else "")
    print(facts, flush=True)
    given.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for case in cases(given.rehearse):
        for part in given.parts:
            if part == "sample" and (case.small or len(case.shape) != 3):
                continue
            steps = 1 if given.rehearse or part == "sample" else STEPS
            work = (
                training(case, device)
                if part == "train"
                else sampling(case, device, min(16, case.batch), 4 if given.rehearse else 50)
            )
            found.setdefault(part, []).extend(measure(case.name, work, until, steps, peaks))
            if device.type == "cuda":
                torch.cuda.empty_cache()
            titles = {"train": "Training, a step", "sample": "Guided sampling, a batch"}
            text = "\n\n".join(f"## {titles[part]}\n\n{table(rows)}" for part, rows in found.items())
            write_text(given.out / "device.md", f"# On a device\n\n{facts}\n\n{text}\n")
            write_text(given.out / "device.json", json.dumps({"machine": facts, "results": found}, indent=2) + "\n")
    print((given.out / "device.md").read_text())


if __name__ == "__main__":
    main()
