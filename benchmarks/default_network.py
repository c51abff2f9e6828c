"""Train networks from the ladder of `kdiff.networks.choice`, and the MLP, for the same processor time, and compare them.

    python benchmarks/default_network.py [--data fashion field digits …] [--seconds 20] [--rungs 0] [--seed 0]

Each network predicts the velocity, with AdamW (learning rate 10⁻³, batch 64, averaged with decay 0.99), on one thread.
`--rungs` are places in the ladder, 0 for the smallest transformer. For digits, which get the MLP, it is the transformer with
patches of 2 × 2. Printed are the error of the velocity on held-out samples, E|v̂ − v|² per number, at a quarter, at half and
at the end of the time, and the sliced Wasserstein distance of 500 samples (18 steps) to the held-out samples, in units of the
distance between equally many training samples and them.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from kdiff import KDiff, draw_noise, load_data
from kdiff.config.parts import Part
from kdiff.evaluation.sliced import sliced_wasserstein
from kdiff.networks.choice import candidates
from kdiff.run.build import build

BATCH, HELD_OUT = 64, 500


def fields(count: int = 4000, side: int = 24) -> Tensor:
    """Two channels: the velocity of a flow without divergence, made of a few vortices of random place, size and strength."""
    places = torch.arange(side) / side
    y, x = torch.meshgrid(places, places, indexing="ij")
    stream = torch.zeros(count, side, side)
    for _ in range(4):
        cy, cx = torch.rand(2, count, 1, 1)
        dy, dx = ((y - cy + 0.5) % 1 - 0.5), ((x - cx + 0.5) % 1 - 0.5)
        radius, strength = 0.05 + 0.1 * torch.rand(count, 1, 1), torch.randn(count, 1, 1)
        stream += strength * torch.exp(-(dx**2 + dy**2) / (2 * radius**2))
    u = torch.roll(stream, -1, 1) - torch.roll(stream, 1, 1)
    v = torch.roll(stream, 1, 2) - torch.roll(stream, -1, 2)
    return torch.stack([u, v], dim=1)


def signals(count: int = 4000, length: int = 128) -> Tensor:
    """One channel: two bursts of random place, width, frequency and phase."""
    t = torch.arange(length) / length
    x = torch.zeros(count, 1, length)
    for _ in range(2):
        place, width, frequency, phase = torch.rand(4, count, 1, 1)
        burst = torch.exp(-(((t - place) / (0.03 + 0.1 * width)) ** 2))
        x += burst * torch.cos(2 * math.pi * ((5 + 20 * frequency) * t + phase))
    return x


def volumes(count: int = 3000, side: int = 16) -> Tensor:
    """One channel: three balls of random place and size."""
    axis = torch.arange(side) / side
    z, y, x = torch.meshgrid(axis, axis, axis, indexing="ij")
    found = torch.zeros(count, side, side, side)
    for _ in range(3):
        a, b, c, radius = torch.rand(4, count, 1, 1, 1)
        distance = ((z - a) ** 2 + (y - b) ** 2 + (x - c) ** 2).sqrt()
        found += torch.sigmoid(40 * (0.08 + 0.15 * radius - distance))
    return found[:, None]


def normalised(x: Tensor) -> Tensor:
    return (x - x.mean()) / x.std()


DATA: dict[str, Callable[[], Tensor]] = {
    "fashion": lambda: load_data("fashion").part("train")[0][:10000],
    "glyphs": lambda: load_data("glyphs", size=32).part("train")[0][:10000],
    "field": lambda: normalised(fields()),
    "signal": lambda: normalised(signals()),
    "volume": lambda: normalised(volumes()),
    "digits": lambda: load_data("digits").part("train")[0][:].reshape(-1, 1, 8, 8),
}


def error(model: KDiff, x: Tensor) -> float:
    """The error of the velocity on x, at times in the middle of equal parts of [0, 1]."""
    generator = torch.Generator().manual_seed(1)
    noise, t = torch.randn(x.shape, generator=generator), (torch.arange(len(x)) + 0.5) / len(x)
    weight = t.reshape(-1, *(1,) * (x.ndim - 1))
    with torch.no_grad():
        return (model.velocity(weight * x + (1 - weight) * noise, t) - (x - noise)).square().mean().item()


def train(model: KDiff, x: Tensor, held_out: Tensor, seconds: float) -> tuple[KDiff, int, list[float]]:
    """The averaged model, the number of steps, and the errors at a quarter, at half and at the end of the time."""
    optimiser, averaged, generator = torch.optim.AdamW(model.parameters(), lr=1e-3), copy.deepcopy(model), torch.Generator()
    steps, errors, spent = 0, [], 0.0
    for share in (0.25, 0.5, 1.0):
        while spent < share * seconds:
            started = time.process_time()
            for group in optimiser.param_groups:
                group["lr"] = 1e-3 * min(1.0, (steps + 1) / 20)
            optimiser.zero_grad()
            model.loss(x[torch.randint(len(x), (BATCH,), generator=generator)]).backward()
            torch.nn.utils.clip_grad_norm_(model.network.parameters(), 1.0)
            optimiser.step()
            steps += 1
            decay = min(0.99, steps / (steps + 10))
            for kept, new in zip(averaged.parameters(), model.parameters()):
                kept.data.lerp_(new.data, 1 - decay)
            spent += time.process_time() - started
        errors.append(error(averaged, held_out))
    return averaged, steps, errors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=DATA, default=list(DATA))
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rungs", type=int, nargs="+", default=[0])
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.data:
        torch.manual_seed(options.seed)
        x = DATA[name]()
        x = x[torch.randperm(len(x))]
        x, held_out = x[HELD_OUT:], x[:HELD_OUT]
        shape = tuple(x.shape[1:])
        floor = sliced_wasserstein(x[:HELD_OUT], held_out)
        ladder = candidates(Part("auto", {"patch_size": 2}) if name == "digits" else Part("auto"), shape)
        for network in [Part("MLP"), *(ladder[rung].network for rung in options.rungs)]:
            torch.manual_seed(options.seed)
            size = {"shape": shape, "channels": shape[0], "image_size": shape[1:]}
            model = KDiff(build("network", network, num_classes=0, **size), "velocity")
            averaged, steps, errors = train(model, x, held_out, options.seconds)
            samples = averaged.sample(draw_noise(HELD_OUT, shape), steps=18)
            far = sliced_wasserstein(samples, held_out) / floor
            shown = ", ".join(f"{value:.4f}" for value in errors)
            print(f"{name} {shape} {network}: {steps} steps, error {shown}, distance {far:.2f}", flush=True)


if __name__ == "__main__":
    main()
