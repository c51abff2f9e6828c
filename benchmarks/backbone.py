"""Measure the speed of the transformers on this machine, relative to its matrix product and to plain code.

    python benchmarks/backbone.py [--networks JiT-B/16 LightningDiT-B/1 …] [--rounds 10] [--profile]

Float32, batch 2. Three computations take turns, so that other work on the machine affects all of them equally:

    product     2048 × 2048 by 2048 × 2048, which measures the machine itself
    plain       the blocks as the formulas of the papers read, one PyTorch operation after the other (attention is PyTorch's)
    ours        `kdiff.networks` with the same weights

A fraction is (FLOPs of all matrix products, forward and backward) / (median time × rate of the product). The outputs of plain
and ours are compared before the timing starts. "plain / ours" is the median of the ratios of neighbouring steps, with its 95 %
bootstrap interval. "with AdamW" is a whole training step of ours. `--profile` lists the operations that take the most time.
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
import types
from collections.abc import Callable

import torch
import torch.nn.functional as F
from objective import interval
from torch import Tensor, nn

from kdiff.networks import published
from kdiff.networks.transformer import ModulatedBlock, RMSNorm, SwiGLU
from kdiff.run.heap import keep_freed_memory
from kdiff.training.cost import flop_counter

SAMPLES = {"JiT-B/16": (3, 256), "LightningDiT-B/1": (32, 16), "SiT-B/2": (4, 32), "DiT-B/4": (4, 32)}
BATCH, SIDE = 2, 2048


def plain_norm(norm: nn.Module, x: Tensor) -> Tensor:
    if isinstance(norm, RMSNorm):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + norm.eps) * norm.weight
    return norm(x)


def plain_rotation(x: Tensor, rotary: Tensor) -> Tensor:
    first, second = x.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack([-second, first], dim=-1).flatten(-2)
    cosine, sine = (table[0].repeat_interleave(2, dim=-1) for table in (rotary.real, rotary.imag))
    return x * cosine + turned * sine


def plain_attention(attention: nn.Module, x: Tensor, rotary: Tensor | None) -> Tensor:
    batch, tokens, width = x.shape
    qkv = attention.qkv(x).reshape(batch, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    q, k, v = qkv.unbind(0)
    q, k = plain_norm(attention.q_norm, q), plain_norm(attention.k_norm, k)
    if rotary is not None:
        q, k = plain_rotation(q, rotary), plain_rotation(k, rotary)
    return attention.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, tokens, width))


def plain_perceptron(mlp: nn.Module, x: Tensor) -> Tensor:
    if isinstance(mlp, SwiGLU):
        gate, value = mlp.w12(x).chunk(2, dim=-1)
        return mlp.w3(F.silu(gate) * value)
    return mlp.fc2(F.gelu(mlp.fc1(x), approximate=mlp.approximate))


def plain_modulation(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return x * (1 + scale.unsqueeze(1)) + shift.unsqueeze(1)


def plain_block(block: ModulatedBlock, x: Tensor, c: Tensor, rotary: Tensor | None = None) -> Tensor:
    shift1, scale1, gate1, shift2, scale2, gate2 = block.adaLN_modulation(c).chunk(6, dim=1)
    x = x + gate1.unsqueeze(1) * plain_attention(
        block.attn, plain_modulation(plain_norm(block.norm1, x), shift1, scale1), rotary
    )
    return x + gate2.unsqueeze(1) * plain_perceptron(block.mlp, plain_modulation(plain_norm(block.norm2, x), shift2, scale2))


def plain(network: nn.Module) -> nn.Module:
    """A copy of the network with plain blocks; embeddings and the last layer cost little and stay as they are."""
    other = copy.deepcopy(network)
    for module in other.modules():
        if isinstance(module, ModulatedBlock):
            module.forward = types.MethodType(plain_block, module)
    return other


def build(name: str) -> tuple[nn.Module, tuple[Tensor, Tensor, Tensor]]:
    torch.manual_seed(0)
    channels, side = SAMPLES[name]
    network = published(name, side, channels, 1000)
    for parameter in network.parameters():
        # Modulation that is initialised with zeros would hide the output of the blocks.
        if not parameter.any():
            nn.init.normal_(parameter, std=0.02)
    return network, (torch.randn(BATCH, channels, side, side), torch.rand(BATCH), torch.arange(BATCH))


def forward_backward(network: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    network(*inputs).square().mean().backward()


def whole_step(network: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], None]:
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-6, fused=True)

    def step() -> None:
        forward_backward(network, inputs)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def without_optimizer(network: nn.Module, inputs: tuple[Tensor, ...]) -> Callable[[], None]:
    def step() -> None:
        forward_backward(network, inputs)
        network.zero_grad(set_to_none=True)

    return step


def product(a: Tensor, b: Tensor) -> None:
    torch.mm(a, b)


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare(name: str, rounds: int) -> str:
    network, inputs = build(name)
    other = plain(network)
    with torch.no_grad():
        difference = (network(*inputs) - other(*inputs)).abs().max().item()
    assert difference < 1e-4, f"plain and ours differ by {difference:.2g}"
    with flop_counter() as counter:
        forward_backward(network, inputs)
    flops = counter.get_total_flops()
    network.zero_grad(set_to_none=True)
    a, b = torch.randn(SIDE, SIDE), torch.randn(SIDE, SIDE)
    steps: dict[str, Callable[[], None]] = {
        "product": lambda: product(a, b),
        "plain": without_optimizer(other, inputs),
        "ours": without_optimizer(network, inputs),
        "with AdamW": whole_step(network, inputs),
    }
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {what: [] for what in steps}
    for i in range(rounds):
        # The caches depend on the previous step, so plain and ours follow the product, and each other, equally often.
        for what in ["product", *(["plain", "ours"] if i % 2 else ["ours", "plain"]), "with AdamW"]:
            times[what].append(seconds(steps[what]))
    median = {what: statistics.median(values) for what, values in times.items()}
    rate = 2 * SIDE**3 / median["product"]
    figures = [f"{median[what]:.3f} ({flops / median[what] / rate:.2f})" for what in ("plain", "ours", "with AdamW")]
    ratios = [p / o for p, o in zip(times["plain"], times["ours"])]
    low, high = interval(ratios)
    compared = f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})"
    return f"| {name} | {flops / 1e9:.0f} | {rate / 1e9:.0f} | {' | '.join(figures)} | {compared} | {difference:.1g} |"


def profile(name: str) -> str:
    network, inputs = build(name)
    step = without_optimizer(network, inputs)
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as found:
        step()
    events = sorted(found.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    lines = [f"  {event.self_cpu_time_total / total:6.1%}  {event.count:5d} ×  {event.key}" for event in events[:16]]
    return "\n".join([f"{name}, forward and backward, share of the time", *lines])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(SAMPLES), choices=list(SAMPLES))
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--profile", action="store_true")
    arguments = parser.parse_args()
    keep_freed_memory()  # as the commands do
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {torch.get_num_threads()} threads, torch {torch.__version__}, batch {BATCH}, float32")
    header = ["network", "GFLOP", "product, GFLOP/s", "plain, s (fraction)", "ours", "ours with AdamW", "plain / ours (95 %)"]
    print(f"| {' | '.join([*header, 'difference'])} |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.networks:
        print(compare(name, arguments.rounds), flush=True)
    if arguments.profile:
        for name in arguments.networks:
            print(f"\n{profile(name)}", flush=True)


if __name__ == "__main__":
    main()
