"""What the network is asked for: u = a x − b n, and back from u to the velocity, the data and the noise.

k-Diff (arXiv 2601.21419) puts the usual targets on one line, a = k, b = 1 − k: k = 0 is the noise (as −n), k = ½ the
velocity (as (x − n)/2), k = 1 the data; and learns k = sigmoid(w). This package is the only place that computes with k.

On any Gaussian path z = α x + σ n, with den = α b + σ a,

    v = ((α' b + σ' a) z + (α' σ − σ' α) u) / den          linear path:  v = ((1 − 2k) z + u) / (k (1 − t) + (1 − k) t)

The loss is on the velocity: ‖v̂_c − v_c‖², both through this conversion with |den| clamped below at 0.05, and with k
detached in v_c. An exact network, û = E[u | z, t], is then optimal for every k and gives k no gradient: k changes what is
easy to learn, never what is learned. A plain u-loss lacks this (its scale moves with k), and so does a v-loss whose
clamped target is not detached.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from kdiff.path import GaussianPath, LinearPath, broadcast_time
from kdiff.precision import at_least_float32, full_precision

Coefficient = Tensor | float
LINEAR = LinearPath()
PAPER_CLAMP = 0.05
# Only an exactly singular denominator (k = 1 at t = 1, k = 0 at t = 0) is below this in float32.
SMALLEST_DENOMINATOR = 1e-8


def as_coefficient(value: Coefficient, like: Tensor, t: Tensor) -> Tensor:
    """A coefficient beside the data and in their precision; a number is filled in on the device, without a copy to wait for."""
    dtype = torch.promote_types(like.dtype, t.dtype)
    if isinstance(value, Tensor):
        return value.to(device=like.device, dtype=torch.promote_types(dtype, value.dtype))
    return torch.full((), value, dtype=dtype, device=like.device)


def _conversion(t: Tensor, path: GaussianPath, a: Tensor, b: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """p, q of v = p z + q u: the conversion above, with |den| no smaller than `floor`."""
    den = path.alpha(t) * b + path.sigma(t) * a
    with torch.no_grad():
        # a and b have one sign (checked where they are set), so den has it too, and a clamped den keeps it.
        floor = max(floor, SMALLEST_DENOMINATOR)
        clamped, small = torch.copysign(torch.full_like(den, floor), a + b), den.abs() < floor
    den = torch.where(small, clamped, den)
    return (path.alpha_dot(t) * b + path.sigma_dot(t) * a) / den, path.determinant(t) / den


class Target(nn.Module, ABC):
    """A prediction target u = a x − b n. A subclass gives `coefficients`; a and b must have the same sign.

    Args:
        min_denominator: the clamp of |den| in the loss (the sampler has its own; see `to_velocity`).
        clamp_target: clamp the target velocity as well as the prediction (the default, and at k = 1 JiT's loss). False
            compares with the exact velocity: an ablation in which û = E[u|z, t] is no longer optimal where the clamp acts.
    """

    def __init__(self, min_denominator: float = PAPER_CLAMP, clamp_target: bool = True) -> None:
        super().__init__()
        if not 0 <= min_denominator < 0.5:
            raise ValueError(f"min_denominator is {min_denominator}; expected a number in [0, 0.5), the paper's is 0.05")
        self.min_denominator = min_denominator
        self.clamp_target = clamp_target

    @abstractmethod
    def coefficients(self, t: Tensor) -> tuple[Coefficient, Coefficient]:
        """a and b at the times `t`: numbers, or tensors that broadcast against data of which `t` is the time.

        In conversions `t` comes with the rank of the data, (batch, 1, ...), so a function of t needs no reshaping.
        """

    def _coefficients(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.coefficients(t)
        return as_coefficient(a, like, t), as_coefficient(b, like, t)

    def state(self) -> dict[str, float]:
        """What a training log should say of the target as it stands; nothing if it does not change and has no name for it."""
        return {}

    def gradients(self) -> dict[str, Tensor]:
        """After a backward pass, the scalars of the gradient that a training log should have; none of what is not learned."""
        return {}

    @full_precision
    def encode(self, x: Tensor, n: Tensor, t: Tensor | float) -> Tensor:
        """u = a x − b n, what a perfect network would learn the mean of. x, n: (batch, ...); t: a number or (batch,)."""
        t = broadcast_time(t, x)
        a, b = self._coefficients(t, x)
        return a * x - b * n

    @full_precision
    def to_velocity(
        self,
        u: Tensor,
        z: Tensor,
        t: Tensor | float,
        path: GaussianPath = LINEAR,
        min_denominator: float = PAPER_CLAMP,
    ) -> Tensor:
        """The velocity that u means at (z, t), for a sampler: shaped like z, float32 or better.

        `min_denominator` clamps |den|: 0.05 as in the paper's sampler, 0 for the exact conversion. On the k-line a clamp
        acts only for k > 0.95 (near t = 1) or k < 0.05 (near t = 0), where the velocity then comes out too small.
        """
        t = broadcast_time(t, z)
        p, q = _conversion(t, path, *self._coefficients(t, z), min_denominator)
        return p * z + q * u

    @full_precision
    def to_data(
        self, u: Tensor, z: Tensor, t: Tensor | float, path: GaussianPath = LINEAR, min_denominator: float = 0.0
    ) -> Tensor:
        """The data x̂ that u means at (z, t), (σ u + b z)/den, by way of the velocity; exact unless a clamp is given.

        x̂ and n̂ always recombine to z, clamped or not. Finite at both ends of t; at a singular end (k = 1, t = 1) it is z.
        """
        return path.data(z, self.to_velocity(u, z, t, path, min_denominator), t)

    @full_precision
    def to_noise(
        self, u: Tensor, z: Tensor, t: Tensor | float, path: GaussianPath = LINEAR, min_denominator: float = 0.0
    ) -> Tensor:
        """The noise n̂ that u means at (z, t), (a z − α u)/den, by way of the velocity; exact unless a clamp is given."""
        return path.noise(z, self.to_velocity(u, z, t, path, min_denominator), t)

    @full_precision
    def velocity_error(self, u_hat: Tensor, x: Tensor, n: Tensor, t: Tensor | float, path: GaussianPath = LINEAR) -> Tensor:
        """v̂_c − v_c, shaped like x: the prediction's velocity less the target's. Gradients reach û and, through v̂_c, k."""
        t = broadcast_time(t, x)
        a, b = self._coefficients(t, x)
        p, q = _conversion(t, path, a, b, self.min_denominator)
        if not self.clamp_target:
            z, v = path.interpolate(x, n, t)
            return p * z + q * u_hat - v
        # v̂_c = p z + q û and v_c = p' z + q' (a' x − b' n), where ' is detached: without that an exact denoiser would still
        # push k wherever the clamp acts. The parts in z cancel in value, so that they are needed for k's gradient alone.
        fixed = q.detach()
        error = q * u_hat - (fixed * a.detach()) * x + (fixed * b.detach()) * n
        return error + (p - p.detach()) * path.mix(x, n, t) if p.requires_grad else error

    @full_precision
    @torch.no_grad()
    def loss_velocity(self, x: Tensor, n: Tensor, t: Tensor | float, path: GaussianPath = LINEAR) -> Tensor:
        """v_c, what the loss compares the prediction's velocity with: clamped like it unless `clamp_target` is False."""
        z, v = path.interpolate(x, n, t)
        return self.to_velocity(self.encode(x, n, t), z, t, path, self.min_denominator) if self.clamp_target else v

    @full_precision
    def output_error(self, u_hat: Tensor, x: Tensor, n: Tensor, t: Tensor | float) -> Tensor:
        """û − u, shaped like x, whose mean square is the loss on u. Gradients reach û and, through the target u, k.

        For the linear theory and for experiments: the scale of u moves with k, so this loss pulls k even for an exact network.
        """
        return at_least_float32(u_hat) - self.encode(x, n, t)

    def loss(self, u_hat: Tensor, x: Tensor, n: Tensor, t: Tensor | float, path: GaussianPath = LINEAR) -> Tensor:
        """The v-loss ‖v̂_c − v_c‖², averaged over batch and dimensions: a scalar.

        u_hat: what the network returned for z = α x + σ n; x, n: (batch, ...) like it; t: (batch,).
        """
        if u_hat.shape != x.shape or n.shape != x.shape:
            raise ValueError(
                f"u_hat {tuple(u_hat.shape)}, x {tuple(x.shape)} and n {tuple(n.shape)} must have one shape: "
                "the network returns a tensor shaped like its input"
            )
        return self.velocity_error(u_hat, x, n, t, path).square().mean()


@full_precision
def to_velocity(u: Tensor, z: Tensor, t: Tensor | float, k: Coefficient, min_denominator: float = PAPER_CLAMP) -> Tensor:
    """v = ((1 − 2k) z + u) / max(k (1 − t) + (1 − k) t, min_denominator): linear path, u = k x − (1 − k) n, shapes as z.

    k: a number or a tensor that broadcasts against z; gradients reach it.
    """
    t = broadcast_time(t, z)
    p, q = _conversion(t, LINEAR, as_coefficient(k, z, t), as_coefficient(1 - k, z, t), min_denominator)
    return p * z + q * u


@full_precision
def to_data(u: Tensor, z: Tensor, t: Tensor | float, k: Coefficient, min_denominator: float = 0.0) -> Tensor:
    """x̂ = z + (1 − t) v̂ on the linear path, with v̂ from `to_velocity`; exact unless a clamp is given."""
    return LINEAR.data(z, to_velocity(u, z, t, k, min_denominator), t)


@full_precision
def to_noise(u: Tensor, z: Tensor, t: Tensor | float, k: Coefficient, min_denominator: float = 0.0) -> Tensor:
    """n̂ = z − t v̂ on the linear path, with v̂ from `to_velocity`; exact unless a clamp is given."""
    return LINEAR.noise(z, to_velocity(u, z, t, k, min_denominator), t)
