"""Log-likelihood by the instantaneous change of variables (FFJORD, arXiv 1810.01367; Song et al., arXiv 2011.13456).

Along dz/dt = v(z, t) the density of z changes by d log p/dt = −div v. From data x = z(1) back to noise z(0) ~ N(0, I),

    log p(x) = log N(z(0); 0, I) − ∫₀¹ div v(z(t), t) dt

One solver integrates both: z, and the integral as one more number of each sample. The divergence is the trace of the Jacobian J
of v. It is exact, with D products, or Hutchinson's estimate: the mean of ε·Jε over probes ε of mean 0 and variance 1. The
probes are drawn once for each sample, by its index, and used at all times.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor

from kdiff.sampling.noise import draw_noise, mix_seed
from kdiff.sampling.runge_kutta import heun
from kdiff.sampling.walk import Solver, Velocity

Divergence = Callable[[Tensor, Tensor], Tensor]
Law = Literal["rademacher", "gaussian"]
PROBES = 0x70726F6265  # keeps the probes different from the noise that a sample with the same seed starts from


def exact_divergence(v: Tensor, z: Tensor) -> Tensor:
    """Σ_i ∂v_i/∂z_i for every sample, (batch,). v must have its graph back to z. D backward passes."""
    flat = v.flatten(1)
    gradients = (_gradient(flat[:, i], z, keep=i + 1 < flat.shape[1]).flatten(1)[:, i] for i in range(flat.shape[1]))
    return torch.stack(list(gradients)).sum(dim=0)


def hutchinson_divergence(probes: Tensor) -> Divergence:
    """The mean of ε·Jε over probes (number, batch, ...), an unbiased estimate. One backward pass per probe."""

    def divergence(v: Tensor, z: Tensor) -> Tensor:
        last = len(probes) - 1
        products = [(_gradient(v * e, z, keep=i < last) * e).flatten(1).sum(dim=1) for i, e in enumerate(probes)]
        return torch.stack(products).mean(dim=0)

    return divergence


def draw_probes(
    indices: int | Iterable[int], shape: tuple[int, ...], number: int, law: Law = "rademacher", seed: int = 0
) -> Tensor:
    """Probes (number, len(indices), *shape) of mean 0 and variance 1, float32, on the CPU; drawn by index, like `draw_noise`.

    Rademacher probes are ±1. Their estimate of a trace varies less, because the diagonal of J adds nothing to its variance.
    """
    if number < 1 or law not in ("rademacher", "gaussian"):
        raise ValueError(f"{number} probes of law {law!r}; expected at least 1, and 'rademacher' or 'gaussian'")
    normal = draw_noise(indices, (number, *shape), mix_seed(seed, PROBES)).transpose(0, 1)
    return torch.where(normal < 0, -1.0, 1.0) if law == "rademacher" else normal


@torch.no_grad()
def log_likelihood(
    velocity: Velocity,
    x: Tensor,
    times: Tensor,
    solver: Solver = heun,
    divergence: Divergence = exact_divergence,
    noise_scale: float = 1.0,
) -> Tensor:
    """log p(x) in nats, (batch,), for the density that the flow gives to x, in the units of x.

    Args:
        velocity: called as velocity(z, t); differentiable in z, and each sample's velocity is independent of the other samples.
        x: data, (batch, ...).
        times: decreasing from 1 to 0.
        solver: the solver of the flow.
        divergence: called as divergence(v, z); see `exact_divergence` and `hutchinson_divergence`.
        noise_scale: s of the noise N(0, s² I) at t = 0.

    Raises:
        ValueError: the times do not run from 1 to 0.
    """
    if times[0] != 1 or times[-1] != 0:
        raise ValueError(f"the likelihood needs times from 1 (data) to 0 (noise); found {times[0]:g} to {times[-1]:g}")

    def augmented(state: Tensor, t: Tensor) -> Tensor:
        with torch.enable_grad():
            z = state[:, :-1].reshape(x.shape).detach().requires_grad_()
            v = velocity(z, t)
            trace = divergence(v, z)
        return torch.cat([v.flatten(1), trace[:, None]], dim=1).detach()

    state = solver(augmented, torch.cat([x.flatten(1), x.new_zeros(len(x), 1)], dim=1), times)
    z, integral = state[:, :-1], state[:, -1]
    # On its way from t = 1 back to 0 the solver has summed −∫₀¹ div v dt.
    variance = noise_scale**2
    return integral - z.square().sum(dim=1) / (2 * variance) - z.shape[1] * math.log(2 * math.pi * variance) / 2


def bits_per_dim(log_likelihood: Tensor, dimension: int, bin_width: float = 1.0) -> Tensor:
    """−(log p + D log(bin width))/(D log 2): the code length in bits for each of D values, known to within a bin.

    Args:
        log_likelihood: in nats.
        dimension: D.
        bin_width: the width of a bin in the units of x: 2/255 for 8-bit images scaled to [−1, 1]. Uniform noise of this width
            should have been added to such values. Otherwise the density says nothing about them (arXiv 1511.01844).
    """
    return -(log_likelihood / dimension + math.log(bin_width)) / math.log(2)


def _gradient(values: Tensor, z: Tensor, keep: bool) -> Tensor:
    """∂ Σ values / ∂z; 0 where values do not depend on z."""
    if not values.requires_grad:
        return torch.zeros_like(z)
    return torch.autograd.grad(values.sum(), z, retain_graph=keep, allow_unused=True, materialize_grads=True)[0]
