"""A plain PyTorch training loop with a learned prediction target in three lines, for points on a ring in 16 dimensions.

    python examples/plain_loop.py --steps 2000

The loop has its own network, noise, times, optimiser, averaged weights and sampler. It uses only a path and a target of kdiff.
"""

from __future__ import annotations

import argparse

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import kdiff


class Network(nn.Module):
    """Any module from z (batch, 16) and t (batch,) to (batch, 16) can be used; it need not know its prediction target."""

    def __init__(self, dimension: int, width: int = 128) -> None:
        super().__init__()
        sizes = [(dimension + 1, width), (width, width), (width, width)]
        layers = [layer for size in sizes for layer in (nn.Linear(*size), nn.SiLU())]
        self.layers = nn.Sequential(*layers, nn.Linear(width, dimension))

    def forward(self, z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The network's output u."""
        return self.layers(torch.cat([z, t[:, None]], dim=1))


def ring(count: int, basis: torch.Tensor) -> torch.Tensor:
    """Points on a circle of radius 2 in the plane that the basis spans."""
    angle = 2 * torch.pi * torch.rand(count)
    return 2 * torch.stack([angle.cos(), angle.sin()], dim=1) @ basis


def main() -> tuple[list[float], float, float]:
    """Train and sample; returns the losses, k, and the root mean square distance of the samples from the ring."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--dimension", type=int, default=16)
    options = parser.parse_args()
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(options.dimension, 2))[0].T

    path, target = kdiff.LinearPath(), kdiff.LearnedK()
    # One module for both, so that the averages include the network's weights and k, which belong together.
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
    print(f"root mean square distance of the samples from the ring: {off:.3f}; norm of noise: {(options.dimension**0.5):.1f}")
    return losses, target.k, off


if __name__ == "__main__":
    main()
