"""Somebody else's training loop, with a learned prediction target in three lines: points on a ring in 16 dimensions.

    python examples/plain_loop.py --steps 2000

Network, noise, times, optimiser, averaged weights and sampler are the loop's own. Of kdiff it takes a path and a target.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import kdiff


class Network(nn.Module):
    """Any module will do: z (batch, 16) and t (batch,) in, (batch, 16) out. It need not know what it is asked for."""

    def __init__(self, dimension: int, width: int = 128) -> None:
        super().__init__()
        sizes = [(dimension + 1, width), (width, width), (width, width)]
        layers = [layer for size in sizes for layer in (nn.Linear(*size), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, dimension))

    def forward(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The network's output u."""
        return self.layers(torch.cat([z, t[:, None]], dim=1))


def ring(count: int, basis: torch.Tensor) -> torch.Tensor:
    """Points on a circle of radius 2 in a plane of the space."""
    angle = 2 * torch.pi * torch.rand(count)
    return 2 * torch.stack([angle.cos(), angle.sin()], dim=1) @ basis


def main() -> tuple[list[float], float, float]:
    """Trains and samples; returns the losses, k, and how far the samples are from the ring, root mean square."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--dimension", type=int, default=16)
    options = parser.parse_args()
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(options.dimension, 2))[0].T

    path, target = kdiff.LinearPath(), kdiff.LearnedK()
    # In one module, so that the averages are of the network's weights and of k alike: they belong together.
    model = nn.ModuleDict({"network": Network(options.dimension), "target": target})
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.99))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    losses = []
    for step in range(options.steps):
        x = ring(256, basis)
        t, n = torch.rand(len(x)), torch.randn_like(x)
        z, _ = path.interpolate(x, n, t)
        loss = target.loss(model["network"](z, t), x, n, t)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        average.update_parameters(model)
        losses.append(loss.item())
        if step % 500 == 0 or step == options.steps - 1:
            print(f"step {step + 1:5d}  loss {sum(losses[-100:]) / len(losses[-100:]):.4f}  k {target.k:.4f}", flush=True)

    network, target = average.module["network"], average.module["target"]
    with torch.no_grad():
        z, steps = torch.randn(1000, options.dimension), 100
        for i in range(steps):  # Euler's method
            t = torch.full((len(z),), i / steps)
            z = z + target.to_velocity(network(z, t), z, t, path) / steps
    inside = z @ basis.T
    off = ((inside.norm(dim=1) - 2).square() + (z - inside @ basis).square().sum(dim=1)).mean().sqrt().item()
    print(f"samples are {off:.3f} from the ring, root mean square; noise is {(options.dimension**0.5):.1f} long")
    return losses, target.k, off


if __name__ == "__main__":
    main()
