"""Compare the speed of guided sampling in kdiff with that of a plain loop.

    python benchmarks/guidance.py [--network JiT-B/16] [--batches 1 2 8] [--steps 4] [--rounds 5]

    plain    at every step the network with the label, then the network without it, even outside the guidance interval
    ours     `KDiff.sample`: inside the guidance interval one batch of twice the size, outside only the branch with the label

Both take Euler steps. Their samples are compared before the timing starts. They take turns, so that other work on the machine
affects both equally. "saved" is the share of the plain loop's branches that the guidance interval makes unnecessary. If
plain / ours exceeds 1/(1 − saved), the rest is the gain from the common batch.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from kdiff import KDiff
from kdiff.networks import published
from kdiff.run.heap import keep_freed_memory
from kdiff.sampling.times import uniform_times

SCALE = 2.0
INTERVALS = {"everywhere": (0.0, 1.0), "0.1 to 1 (JiT's)": (0.1, 1.0), "0.25 to 0.75": (0.25, 0.75)}


def build(name: str) -> KDiff:
    torch.manual_seed(0)
    network = published(name, 256, 3, 1000)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.02)
    return KDiff(network, target="data", null={"y": 1000}).eval()


def inside(t: float, interval: tuple[float, float]) -> bool:
    low, high = interval
    return t < high and (low == 0 or t > low)


@torch.no_grad()
def plain(model: KDiff, z: Tensor, y: Tensor, times: Tensor, interval: tuple[float, float]) -> Tensor:
    null = torch.full_like(y, 1000)
    for t, t_next in zip(times[:-1], times[1:]):
        conditional, unconditional = model.velocity(z, t, y=y), model.velocity(z, t, y=null)
        scale = SCALE if inside(t.item(), interval) else 1.0
        z = z + (t_next - t) * (unconditional + scale * (conditional - unconditional))
    return z


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def seconds(sample: Callable[[], Tensor], device: torch.device) -> float:
    synchronise(device)
    start = time.perf_counter()
    sample()
    synchronise(device)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="JiT-B/16")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    keep_freed_memory()  # as the commands do
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model, times = build(arguments.network).to(device), uniform_times(arguments.steps).to(device)
    machine = platform.processor() or platform.machine()
    print(f"{machine}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}, {arguments.network}, float32")
    print("| guidance | batch | plain, s a step | ours, s a step | plain / ours | saved | rounds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for label, interval in INTERVALS.items():
        off = sum(not inside(t, interval) for t in times[:-1].tolist())
        for batch in arguments.batches:
            noise, y = torch.randn(batch, 3, 256, 256, device=device), torch.arange(batch, device=device)
            options = {"solver": "euler", "last_step": "euler", "guidance": SCALE, "guidance_interval": interval}
            pair: list[Callable[[], Tensor]] = [
                lambda z=noise, y=y, i=interval: plain(model, z, y, times, i),
                lambda z=noise, y=y, o=options: model.sample(z, times=times, y=y, **o),
            ]
            wanted = pair[0]()
            difference = ((pair[1]() - wanted).norm() / wanted.norm()).item()
            assert difference < 1e-4, f"plain and ours differ by {difference:.2g} of the samples' norm"
            both: list[list[float]] = [[], []]
            for i in range(arguments.rounds):
                for which in (0, 1) if i % 2 else (1, 0):
                    both[which].append(seconds(pair[which], device))
            slow, fast = (statistics.median(values) / arguments.steps for values in both)
            ratio = statistics.median(a / b for a, b in zip(*both))
            saved = off / (2 * arguments.steps)
            print(
                f"| {label} | {batch} | {slow:.3f} | {fast:.3f} | {ratio:.3f} | {saved:.1%} | {arguments.rounds} |", flush=True
            )


if __name__ == "__main__":
    main()
