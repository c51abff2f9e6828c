"""Measure the cost of a learned k: the time of a training step with LearnedK and with FixedK("velocity").

    python benchmarks/objective.py [--networks digits fashion JiT-B/16] [--steps 200]

The two models differ only in their target. They take turns at every step, so that other work on the machine affects both
equally. The output is the median seconds per step (forward, backward, clipping, AdamW), the ratio of the medians, and the
median of the ratios of neighbouring steps with its 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time

import torch

from kdiff import FixedK, KDiff, LearnedK
from kdiff.networks import MLP, JiT, published


def fashion() -> JiT:
    """The network of configs/fashion_pixel.yaml."""
    return JiT(28, 7, 1, 10, hidden_size=128, depth=6, num_heads=4, bottleneck=32, context_tokens=4, context_start=2)


NETWORKS = {
    "digits": (lambda: MLP((1, 8, 8), 10, width=256, depth=4), (1, 8, 8), 128),
    "fashion": (fashion, (1, 28, 28), 128),
    "JiT-B/16": (lambda: published("JiT-B/16", 256, 3, 1000), (3, 256, 256), 2),
}


class Trainee:
    def __init__(self, make, target, shape, batch, device):
        torch.manual_seed(0)
        network = make().to(device)
        # Output layers that are initialised with zeros would make the first steps differ from later ones.
        for p in network.parameters():
            if not p.any():
                torch.nn.init.normal_(p, std=0.02)
        self.model = KDiff(network, target.to(device))
        self.optimizer = torch.optim.AdamW(self.model.parameter_groups(1e-4), fused=True)
        self.x = torch.randn(batch, *shape, device=device)
        self.y = torch.arange(batch, device=device) % network.num_classes

    def step(self) -> float:
        synchronise(self.x.device)
        start = time.perf_counter()
        loss = self.model.loss(self.x, y=self.y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        synchronise(self.x.device)
        return time.perf_counter() - start


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def interval(ratios: list[float], draws: int = 2000) -> tuple[float, float]:
    """The 95 % bootstrap interval of the median."""
    values = torch.tensor(ratios)
    rows = torch.randint(len(values), (draws, len(values)), generator=torch.Generator().manual_seed(0))
    medians = values[rows].median(dim=1).values
    return medians.quantile(0.025).item(), medians.quantile(0.975).item()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument(
        "--steps", type=int, default=0, help="steps per model; 0: as many as fit into about a minute, at least 10"
    )
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(
        f"{platform.processor() or platform.machine()}, {device}, {torch.get_num_threads()} threads, torch {torch.__version__}"
    )
    print("| network | batch | FixedK('velocity'), s | LearnedK, s | ratio of medians | median ratio (95 %) | steps |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name in arguments.networks:
        make, shape, batch = NETWORKS[name]
        pair = [Trainee(make, target, shape, batch, device) for target in (FixedK("velocity"), LearnedK())]
        warm = [[trainee.step() for trainee in pair] for _ in range(5)]
        steps = arguments.steps or max(10, min(1000, int(60 / (2 * warm[-1][0]))))
        times: list[list[float]] = [[], []]
        for i in range(steps):
            for which in (0, 1) if i % 2 else (1, 0):
                times[which].append(pair[which].step())
        fixed, learned = (statistics.median(values) for values in times)
        ratios = [b / a for a, b in zip(*times)]
        low, high = interval(ratios)
        print(
            f"| {name} | {batch} | {fixed:.5f} | {learned:.5f} | {learned / fixed:.4f} "
            f"| {statistics.median(ratios):.4f} ({low:.4f} to {high:.4f}) | {steps} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
