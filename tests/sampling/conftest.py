"""Flows that are known in closed form, and that remember where they were evaluated."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from kdiff import KDiff, LinearPath


class GaussianFlow:
    """The exact velocity of data x ~ N(μ, λ) on a path; z(t) − αμ then grows with s(t) = √(λα² + σ²), in float64."""

    def __init__(self, path=None):
        self.path = path or LinearPath()
        self.mean = torch.tensor([0.5, -1.0, 2.0, 0.0], dtype=torch.float64)
        self.variance = torch.tensor([0.25, 1.0, 4.0, 0.05], dtype=torch.float64)
        self.calls: list[float] = []

    def spread(self, t) -> Tensor:
        t = torch.as_tensor(t, dtype=torch.float64)
        return (self.variance * self.path.alpha(t).square() + self.path.sigma(t).square()).sqrt()

    def denoised(self, z: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """E[x | z] and E[n | z]."""
        alpha, sigma = self.path.alpha(t), self.path.sigma(t)
        centred = (z - alpha * self.mean) / (self.variance * alpha**2 + sigma**2)
        return self.mean + alpha * self.variance * centred, sigma * centred

    def __call__(self, z: Tensor, t: Tensor) -> Tensor:
        self.calls.append(float(t))
        x, n = self.denoised(z, t)
        return self.path.alpha_dot(t) * x + self.path.sigma_dot(t) * n

    def exact(self, z: Tensor, start: float, end: float) -> Tensor:
        """Where the flow takes z from the time `start` to the time `end`."""
        times = torch.tensor([start, end], dtype=torch.float64)
        first, last = self.path.alpha(times).unbind()
        return last * self.mean + self.spread(end) / self.spread(start) * (z - first * self.mean)

    def log_density(self, x: Tensor) -> Tensor:
        terms = -(x - self.mean).square() / self.variance / 2 - (2 * math.pi * self.variance).log() / 2
        return terms.sum(dim=-1)


class ExactNetwork(torch.nn.Module):
    """û = E[u | z, t] of a GaussianFlow, for the target of the model it is in."""

    def __init__(self, flow, target):
        super().__init__()
        self.flow = flow
        self.encode = target.encode
        self.calls: list[tuple[float, int]] = []

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        self.calls.append((t[0].item(), len(z)))
        return self.encode(*self.flow.denoised(z, t[:, None]), t)


@pytest.fixture
def gaussian():
    """GaussianFlow(path)."""
    return GaussianFlow


@pytest.fixture
def exact_model():
    """A KDiff whose network is perfect for a GaussianFlow, whatever the target and the path."""

    def build(target, flow=None) -> KDiff:
        flow = flow or GaussianFlow()
        model = KDiff(torch.nn.Identity(), target, flow.path)
        model.network = ExactNetwork(flow, model.target)
        return model

    return build
