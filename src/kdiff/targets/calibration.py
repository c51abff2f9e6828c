"""A gain for every direction and time on what a trained network says of the data, near the line of conversions.

In an orthonormal basis, with x̂ the data prediction of the model and m the mean of the data,

    x̂_i ← m_i + g_i(t) (x̂_i − m_i),    g_i(t) = 1 + σ(t) h_i(t)
    v  ←  v + (α'σ − σ'α) Bᵀ[h(t) (B x̂ − B m)]

because a change of v by δ changes x̂ by δ σ/(α'σ − σ'α). h is linear between its knots in t and constant beyond them. Nothing is
divided by σ, so that v stays finite and g goes to 1 like σ at t = 1. h is found from a trained network by least squares, as
`kdiff.training.calibrating` explains; for an exact network it is 0.
"""

from __future__ import annotations

import torch
from torch import Tensor

from kdiff.path import GaussianPath, broadcast_time, full_precision
from kdiff.targets.bases import Basis
from kdiff.targets.float32 import Float32Module


class Calibration(Float32Module):
    """The correction above; all its numbers are buffers in float32, also if the model is in half precision.

    Args:
        basis: the directions.
        knots: the times (J,) between which h is linear, increasing within [0, 1].
        h: (J, *basis.coefficient_shape), at the knots; 0 if left out, which changes nothing.
        centre: B m, of shape basis.coordinate_shape; 0 if left out.

    Raises:
        ValueError: the knots do not increase within [0, 1], or h or the centre has another shape or is not finite.
    """

    knots: Tensor
    h: Tensor
    centre: Tensor

    def __init__(self, basis: Basis, knots: Tensor, h: Tensor | None = None, centre: Tensor | None = None) -> None:
        super().__init__()
        if knots.ndim != 1 or not len(knots) or knots[0] < 0 or knots[-1] > 1 or (knots.diff() <= 0).any():
            raise ValueError(f"the knots are {knots.tolist()}; expected increasing times in [0, 1]")
        self.basis = basis
        wanted = {"h": (len(knots), *basis.coefficient_shape), "centre": basis.coordinate_shape}
        self.register_buffer("knots", knots.detach().float().clone())
        for name, value in (("h", h), ("centre", centre)):
            value = torch.zeros(wanted[name]) if value is None else value.detach().float().clone()
            if value.shape != wanted[name] or not value.isfinite().all():
                raise ValueError(f"{name} has shape {tuple(value.shape)}; expected finite numbers of shape {wanted[name]}")
            self.register_buffer(name, value)

    def at(self, t: Tensor) -> Tensor:
        """h at the times t (batch,), or at one time: (batch or 1, *coefficient_shape), padded to the rank of coordinates."""
        t = t.reshape(-1).to(self.h).contiguous()
        after = torch.searchsorted(self.knots, t.detach()).clamp(1, max(1, len(self.knots) - 1))
        before, after = after - 1, after.clamp(max=len(self.knots) - 1)
        # Between knots that do not differ, which is only the case for a single knot, h is constant.
        part = ((t - self.knots[before]) / (self.knots[after] - self.knots[before]).clamp_min(1e-12)).clamp(0, 1)
        pad = (1,) * (len(self.basis.coordinate_shape) - len(self.basis.coefficient_shape))
        low, high = (self.h[place].reshape(-1, *pad, *self.basis.coefficient_shape) for place in (before, after))
        return torch.lerp(low, high, part.reshape(-1, *[1] * (low.ndim - 1)))

    def gain(self, t: Tensor, path: GaussianPath) -> Tensor:
        """g = 1 + σ(t) h(t) at the times t (batch,): (batch, *coefficient_shape)."""
        h = self.at(t).reshape(-1, *self.basis.coefficient_shape)
        return 1 + path.sigma(t).to(h).reshape(-1, *[1] * (h.ndim - 1)) * h

    @full_precision
    def forward(self, v: Tensor, z: Tensor, t: Tensor | float, path: GaussianPath) -> Tensor:
        """The calibrated velocity for the velocity v at (z, t): shaped like z, float32 or better, differentiable in both."""
        t = broadcast_time(t, z)
        c = self.basis.turn(path.data(z, v, t)) - self.centre
        return v + path.determinant(t) * self.basis.turn_back(self.at(t).to(c) * c)

    def extra_repr(self) -> str:
        """The options that `print` shows."""
        return f"knots={len(self.knots)}"
