"""The prediction target u = a x − b n, and the conversions from u to the velocity, the data and the noise.

k-Diff (arXiv 2601.21419) puts the usual targets on one line, a = k and b = 1 − k: the noise (as −n) at k = 0, the velocity (as
(x − n)/2) at k = ½, and the data at k = 1. It learns k = sigmoid(w). Only this package computes with k.

On any Gaussian path z = α x + σ n, with den = α b + σ a,

    v = ((α' b + σ' a) z + (α' σ − σ' α) u) / den          linear path:  v = ((1 − 2k) z + u) / (k (1 − t) + (1 − k) t)

The loss compares velocities, ‖v̂_c − v_c‖². The formula above gives v̂_c from the network's output û and v_c from the target u,
with |den| clamped below at 0.05, and with k detached in v_c. An exact network, û = E[u | z, t], is then optimal for every k and
gives k no gradient: k changes what is easy to learn, but not what is learned. A plain loss on u lacks this property, because
its scale changes with k, and so does a v-loss whose clamped target is not detached.
"""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from kdiff.path import PAPER_CLAMP, GaussianPath, LinearPath, at_least_float32, broadcast_time, check_shapes, full_precision
from kdiff.targets.description import Axis, Curve, Description
from kdiff.targets.float32 import Float32Module

Coefficient = Tensor | float
LINEAR = LinearPath()
SMALLEST_DENOMINATOR = 1e-8  # in float32 only an exactly singular one is smaller (k = 1 at t = 1, k = 0 at t = 0)


def as_coefficient(value: Coefficient, like: Tensor, t: Tensor) -> Tensor:
    """A coefficient on the data's device, in their precision. A number is created there, so no copy has to be waited for."""
    dtype = torch.promote_types(like.dtype, t.dtype)
    if isinstance(value, Tensor):
        return value.to(device=like.device, dtype=torch.promote_types(dtype, value.dtype))
    return torch.full((), value, dtype=dtype, device=like.device)


def _denominator(t: Tensor, path: GaussianPath, a: Tensor, b: Tensor) -> Tensor:
    return path.alpha(t) * b + path.sigma(t) * a


def _conversion(t: Tensor, path: GaussianPath, a: Tensor, b: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """p and q of v = p z + q u: the conversion above, with |den| no smaller than `floor`."""
    den = _denominator(t, path, a, b)
    with torch.no_grad():
        # a and b have the same sign, which is checked where they are set. den has this sign too, and keeps it when clamped.
        floor = max(floor, SMALLEST_DENOMINATOR)
        clamped, small = torch.copysign(torch.full_like(den, floor), a + b), den.abs() < floor
    den = torch.where(small, clamped, den)
    return (path.alpha_dot(t) * b + path.sigma_dot(t) * a) / den, path.determinant(t) / den


class Target(Float32Module, ABC):
    """A prediction target u = a x − b n. A subclass defines `coefficients`; a and b must have the same sign.

    A target may work in another orthonormal basis. `turn` takes samples there, `turn_back` brings them back, and a and b apply
    to the turned samples: u = turn_back(a turn(x) − b turn(n)). Users of the target see only the data's own coordinates.

    A target that is built by its name gets what its constructor asks for: `shape`, that of a sample; `path` and `noise_scale`,
    those of the model; `moments`, `samples`, functions that return `kdiff.data.Moments` of the training data and their samples.
    Both are None when a saved model is read back: all that is made of the data must be in buffers, saved with the weights.

    Args:
        min_denominator: the clamp of |den| in the loss. The sampler has its own clamp; see `to_velocity`.
        clamp_target: clamp the target velocity like the prediction (the default, and at k = 1 JiT's loss). False compares with
            the exact velocity. In this ablation û = E[u|z, t] is no longer optimal where the clamp acts.
    """

    axis: Axis | None = None  # the axis of the numbers in `state` and `curves`

    def __init__(self, min_denominator: float = PAPER_CLAMP, clamp_target: bool = True) -> None:
        super().__init__()
        if not 0 <= min_denominator < 0.5:
            raise ValueError(f"min_denominator is {min_denominator}; expected a number in [0, 0.5), the paper's is 0.05")
        self.min_denominator = min_denominator
        self.clamp_target = clamp_target
        self._marks: dict[str, float] = {}

    def _mark(self, name: str, value: float) -> None:
        """Save a number with the weights. Weights with another value belong to another target, and loading refuses them."""
        self._marks[name] = value
        self.register_buffer(name, torch.tensor(value))

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        for name, own in self._marks.items():
            found = state_dict.get(prefix + name)
            if found is not None and not math.isclose(found.item(), own, rel_tol=1e-2, abs_tol=1e-6):
                rest[-1].append(f"{prefix}{name} is {found.item():g} in these weights; the target here has {own:g}")
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Coefficient, Coefficient]:
        """a and b at the times `t`: numbers, or tensors that broadcast against the turned data at these times.

        In conversions `t` has the rank of the turned data, (batch, 1, ...), so a function of t needs no reshaping.
        """

    def turn(self, x: Tensor) -> Tensor:
        """Samples (batch, ...) in the basis that the target works in; x itself by default."""
        return x

    def turn_back(self, x: Tensor) -> Tensor:
        """The inverse of `turn`, which keeps lengths."""
        return x

    def _turned(self, names: str, t: Tensor | float, *samples: Tensor) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """t, a, b and the samples in the target's basis, where t has the rank of the turned samples."""
        check_shapes(names, *samples)
        t = broadcast_time(t, samples[0])
        turned = [self.turn(x) for x in samples]
        if turned[0].ndim != samples[0].ndim and t.ndim:
            t = t.reshape(-1, *[1] * (turned[0].ndim - 1))
        a, b = (as_coefficient(value, turned[0], t) for value in self.coefficients(t))
        return t, a, b, turned

    @torch.no_grad()
    def check_signs(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError if a and b have opposite signs at t = 0, ¼, … or 1, for samples of this shape."""
        _, a, b, _ = self._turned("x", torch.linspace(0, 1, 5), torch.zeros(5, *shape))
        if (a * b < 0).any():
            raise ValueError(f"the coefficients a and b of {type(self).__name__} have opposite signs; expected the same sign")

    @torch.no_grad()
    def clamped(
        self, times: Tensor, shape: tuple[int, ...], path: GaussianPath = LINEAR, min_denominator: float = PAPER_CLAMP
    ) -> bool:
        """Whether `to_velocity` clamps |den| at one of these times (n,), for samples of this shape."""
        device = next((each.device for each in itertools.chain(self.parameters(), self.buffers())), None)
        t, a, b, _ = self._turned("x", times.to(device), torch.zeros(len(times), *shape, device=device))
        return bool((_denominator(t, path, a, b).abs() < min_denominator).any())

    def penalty(self) -> Tensor | None:
        """A scalar that the model's loss adds, such as a pull of k to a value; None by default."""

    def state(self) -> dict[str, float]:
        """The numbers that a training log should show of the target, the main one first; empty by default."""
        return {}

    def curves(self) -> list[Curve]:
        """The curves that a picture should show of the target, over time or over directions; empty by default."""
        return []

    def describe(self) -> Description:
        """The numbers, the axis and the curves of the target."""
        return Description(self.state(), self.axis, self.curves())

    def gradients(self) -> dict[str, Tensor]:
        """The scalar gradients that a training log should show after a backward pass; empty if nothing is learned."""
        return {}

    @full_precision
    def encode(self, x: Tensor, n: Tensor, t: Tensor | float) -> Tensor:
        """u = a x − b n. A perfect network predicts its mean, given z and t. x, n: (batch, ...); t: a number or (batch,)."""
        _, a, b, (x, n) = self._turned("x n", t, x, n)
        return self.turn_back(a * x - b * n)

    @full_precision
    def to_velocity(
        self, u: Tensor, z: Tensor, t: Tensor | float, path: GaussianPath = LINEAR, min_denominator: float = PAPER_CLAMP
    ) -> Tensor:
        """The velocity that belongs to u at (z, t), for a sampler: shaped like z, float32 or better.

        `min_denominator` clamps |den|: 0.05 as in the paper's sampler, 0 for the exact conversion. For a = k and b = 1 − k the
        clamp acts only if k > 0.95 (near t = 1) or k < 0.05 (near t = 0). The velocity is then too small there.
        """
        t, a, b, (z, u) = self._turned("z u", t, z, u)
        p, q = _conversion(t, path, a, b, min_denominator)
        return self.turn_back(p * z + q * u)

    @full_precision
    def to_data(
        self, u: Tensor, z: Tensor, t: Tensor | float, path: GaussianPath = LINEAR, min_denominator: float = 0.0
    ) -> Tensor:
        """The data x̂ = (σ u + b z)/den that belong to u at (z, t), from the velocity; exact unless a clamp is given.

        x̂ and n̂ always recombine to z, also with a clamp. x̂ is finite at both ends of t, and z at a singular end (k = 1, t = 1).
        """
        t = broadcast_time(t, z)
        return path.data(z, self.to_velocity(u, z, t, path, min_denominator), t)

    @full_precision
    def to_noise(
        self, u: Tensor, z: Tensor, t: Tensor | float, path: GaussianPath = LINEAR, min_denominator: float = 0.0
    ) -> Tensor:
        """The noise n̂ = (a z − α u)/den that belongs to u at (z, t), from the velocity; exact unless a clamp is given."""
        t = broadcast_time(t, z)
        return path.noise(z, self.to_velocity(u, z, t, path, min_denominator), t)

    @full_precision
    def velocity_error(self, u_hat: Tensor, x: Tensor, n: Tensor, t: Tensor | float, path: GaussianPath = LINEAR) -> Tensor:
        """v̂_c − v_c, shaped like x: the prediction's velocity minus the target's. Gradients reach û and, through v̂_c, k."""
        t, a, b, (x, n, u_hat) = self._turned("x n u_hat", t, x, n, u_hat)
        p, q = _conversion(t, path, a, b, self.min_denominator)
        if not self.clamp_target:
            z, v = path.interpolate(x, n, t)
            return self.turn_back(p * z + q * u_hat - v)
        # v̂_c = p z + q û and v_c = p' z + q' (a' x − b' n), where ' means detached. Without detaching, an exact denoiser would
        # still push k wherever the clamp acts. The terms in z cancel in value, so only the gradient of k needs them.
        fixed = q.detach()
        error = q * u_hat - (fixed * a.detach()) * x + (fixed * b.detach()) * n
        return self.turn_back(error + (p - p.detach()) * path.mix(x, n, t) if p.requires_grad else error)

    @full_precision
    def output_units(self, error: Tensor, t: Tensor | float, path: GaussianPath = LINEAR) -> Tensor:
        """The error of û that belongs to an error of v̂_c: it is divided by q = (α' σ − σ' α)/den_c, which is detached."""
        t, a, b, (error,) = self._turned("error", t, error)
        return self.turn_back(error / _conversion(t, path, a, b, self.min_denominator)[1].detach())

    @full_precision
    @torch.no_grad()
    def loss_velocity(self, x: Tensor, n: Tensor, t: Tensor | float, path: GaussianPath = LINEAR) -> Tensor:
        """v_c, the target's velocity in the loss; clamped like the prediction's velocity unless `clamp_target` is False."""
        t = broadcast_time(t, x)
        z, v = path.interpolate(x, n, t)
        return self.to_velocity(self.encode(x, n, t), z, t, path, self.min_denominator) if self.clamp_target else v

    @full_precision
    def output_error(self, u_hat: Tensor, x: Tensor, n: Tensor, t: Tensor | float) -> Tensor:
        """û − u, shaped like x; its mean square is the loss on u. Gradients reach û and, through the target u, k.

        It is for theory and experiments. The scale of u depends on k, so this loss moves k even if the network is exact.
        """
        check_shapes("x u_hat", x, u_hat)
        return at_least_float32(u_hat) - self.encode(x, n, t)

    def loss(self, u_hat: Tensor, x: Tensor, n: Tensor, t: Tensor | float, path: GaussianPath = LINEAR) -> Tensor:
        """The v-loss ‖v̂_c − v_c‖², averaged over batch and dimensions: a scalar.

        u_hat: the network's output for z = α x + σ n; x, n: (batch, ...), shaped like u_hat; t: (batch,).
        """
        if u_hat.shape != x.shape or n.shape != x.shape:
            raise ValueError(
                f"u_hat {tuple(u_hat.shape)}, x {tuple(x.shape)} and n {tuple(n.shape)} must have the same shape: "
                "the network must return a tensor shaped like its input"
            )
        return self.velocity_error(u_hat, x, n, t, path).square().mean()


@full_precision
def to_velocity(u: Tensor, z: Tensor, t: Tensor | float, k: Coefficient, min_denominator: float = PAPER_CLAMP) -> Tensor:
    """v = ((1 − 2k) z + u) / max(k (1 − t) + (1 − k) t, min_denominator) for u = k x − (1 − k) n on the linear path.

    u, z: of one shape, which is v's shape too. k: a number, or a tensor that broadcasts against z; gradients reach it.
    """
    check_shapes("z u", z, u)
    t = broadcast_time(t, z)
    p, q = _conversion(t, LINEAR, as_coefficient(k, z, t), as_coefficient(1 - k, z, t), min_denominator)
    return p * z + q * u


@full_precision
def to_data(u: Tensor, z: Tensor, t: Tensor | float, k: Coefficient, min_denominator: float = 0.0) -> Tensor:
    """x̂ = z + (1 − t) v̂ on the linear path, with v̂ from `to_velocity`; exact unless a clamp is given."""
    t = broadcast_time(t, z)
    return LINEAR.data(z, to_velocity(u, z, t, k, min_denominator), t)


@full_precision
def to_noise(u: Tensor, z: Tensor, t: Tensor | float, k: Coefficient, min_denominator: float = 0.0) -> Tensor:
    """n̂ = z − t v̂ on the linear path, with v̂ from `to_velocity`; exact unless a clamp is given."""
    t = broadcast_time(t, z)
    return LINEAR.noise(z, to_velocity(u, z, t, k, min_denominator), t)
