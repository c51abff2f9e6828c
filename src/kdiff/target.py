"""What the network is asked for: u = a x − b n, and back from u to the velocity, the data and the noise.

k-Diff (arXiv 2601.21419) puts the usual targets on one line, a = k, b = 1 − k: k = 0 is the noise (as −n), k = ½ the
velocity (as (x − n)/2), k = 1 the data; and learns k = sigmoid(w). This is the only file that computes with k.

On any Gaussian path z = α x + σ n, with den = α b + σ a,

    v = ((α' b + σ' a) z + (α' σ − σ' α) u) / den          linear path:  v = ((1 − 2k) z + u) / (k (1 − t) + (1 − k) t)

The loss is on the velocity: ‖v̂_c − v_c‖², both through this conversion with |den| clamped below at 0.05, and with k
detached in v_c. An exact network, û = E[u | z, t], is then optimal for every k and gives k no gradient: k changes what is
easy to learn, never what is learned. A plain u-loss lacks this (its scale moves with k), and so does a v-loss whose
clamped target is not detached.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kdiff.path import GaussianPath, LinearPath, broadcast_time
from kdiff.precision import full_precision

Coefficient = Tensor | float
LINEAR = LinearPath()
PAPER_CLAMP = 0.05
# Only an exactly singular denominator (k = 1 at t = 1, k = 0 at t = 0) is below this in float32.
SMALLEST_DENOMINATOR = 1e-8


def _tensor(value: Coefficient, like: Tensor, t: Tensor) -> Tensor:
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
        return _tensor(a, like, t), _tensor(b, like, t)

    def state(self) -> dict[str, float]:
        """What a training log should say of the target as it stands; nothing if it does not change and has no name for it."""
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


class FixedK(Target):
    """u = k x − (1 − k) n with a k that stays: "noise" (0), "velocity" (½), "data" (1) or any number in [0, 1].

    The line fixes sign and scale: k = ½ asks for (x − n)/2 and k = 0 for −n. Networks trained elsewhere for x − n or +n
    are `GeneralTarget(1, 1)` and `GeneralTarget(0, -1)`.
    """

    NAMES: dict[str, float] = {"noise": 0.0, "velocity": 0.5, "data": 1.0}  # noqa: RUF012

    def __init__(self, k: float | str, min_denominator: float = PAPER_CLAMP, clamp_target: bool = True) -> None:
        super().__init__(min_denominator, clamp_target)
        if isinstance(k, str):
            if k not in self.NAMES:
                raise ValueError(f"no target is called {k!r}; expected {', '.join(self.NAMES)} or a number in [0, 1]")
            k = self.NAMES[k]
        if not 0 <= k <= 1:
            raise ValueError(f"k is {k}; expected a number in [0, 1] (0 noise, 0.5 velocity, 1 data)")
        self.k = float(k)
        self.register_buffer("fixed_k", torch.tensor(self.k))

    def coefficients(self, t: Tensor) -> tuple[float, float]:
        """k, 1 − k."""
        return self.k, 1 - self.k

    def state(self) -> dict[str, float]:
        """k."""
        return {"k": self.k}

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        _refuse_other(state_dict, prefix + "fixed_k", self.k, rest[-1])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """For print."""
        return f"k={self.k:g}"


class LearnedK(Target):
    """u = k x − (1 − k) n with k = sigmoid(rate · w), w learned with the network.

    Args:
        init: k at the start, in (0, 1); the paper's is 0.5.
        rate: the pace of k. Adam moves w by about the learning rate per step whatever its gradient, so the logit of k
            moves `rate` times as fast as a weight of the network does; the paper's is 1.
    """

    def __init__(
        self,
        init: float = 0.5,
        rate: float = 10.0,
        min_denominator: float = PAPER_CLAMP,
        clamp_target: bool = True,
    ) -> None:
        super().__init__(min_denominator, clamp_target)
        if not 0 < init < 1:
            raise ValueError(f"init is {init}; expected a number strictly between 0 and 1: a sigmoid never reaches its ends")
        if not rate > 0:
            raise ValueError(f"rate is {rate}; expected a positive number (1 is the paper's)")
        self.rate = float(rate)
        self.w = nn.Parameter(torch.tensor([math.log(init / (1 - init)) / rate]))
        # Without it a state would not say what w means.
        self.register_buffer("pace", torch.tensor(self.rate))

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """k, 1 − k, of shape (1,), with gradients to w. 1 − k is computed as sigmoid(−rate · w), exact near k = 1."""
        logit = self.rate * self.w
        return torch.sigmoid(logit), torch.sigmoid(-logit)

    @property
    def k(self) -> float:
        """The present k, as a number."""
        return torch.sigmoid(self.rate * self.w.detach()).item()

    def state(self) -> dict[str, float]:
        """k, and the gradient of w if there is one."""
        gradient = {} if self.w.grad is None else {"w_gradient": self.w.grad.item()}
        return {"k": self.k, **gradient}

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        _refuse_other(state_dict, prefix + "pace", self.rate, rest[-1])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LearnedK:
        """Keep w in float32 under `.bfloat16()` and `.half()`, where Adam's small steps would round away and k stand still."""
        exact = self.w.data
        super()._apply(fn, recurse)
        if self.w.itemsize < 4:
            self.w.data = exact.to(self.w.device, torch.float32)
        return self

    def extra_repr(self) -> str:
        """For print."""
        return f"k={self.k:.4g}, rate={self.rate:g}"


class GeneralTarget(Target):
    """u = a x − b n with any a and b of one sign: numbers, tensors that broadcast against the data, or functions of t.

    Examples: `GeneralTarget(1, 1)` is x − n, `GeneralTarget(0, -1)` is +n; a tensor of shape (C, 1, 1) gives each channel
    of an image its own, and an `nn.Parameter` is learned; `GeneralTarget(lambda t: 1 - t, lambda t: t)` depends on time,
    which comes as (batch, 1, ...).
    """

    def __init__(
        self,
        a: Coefficient | Callable[[Tensor], Coefficient],
        b: Coefficient | Callable[[Tensor], Coefficient],
        min_denominator: float = PAPER_CLAMP,
        clamp_target: bool = True,
    ) -> None:
        super().__init__(min_denominator, clamp_target)
        if not callable(a) and not callable(b):
            product, total = torch.as_tensor(a) * torch.as_tensor(b), torch.as_tensor(a) + torch.as_tensor(b)
            if (product < 0).any() or (total == 0).any():
                raise ValueError(
                    f"a = {a} and b = {b}: they must have one sign and not both be 0, "
                    "else α b + σ a vanishes at some time and u says nothing about the velocity there"
                )
        self._keep("a", a)
        self._keep("b", b)

    def _keep(self, name: str, value: Coefficient | Callable) -> None:
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self.register_buffer(name, value.detach().clone())
        else:
            setattr(self, name, value)

    def coefficients(self, t: Tensor) -> tuple[Coefficient, Coefficient]:
        """a(t), b(t)."""
        return tuple(value(t) if callable(value) else value for value in (self.a, self.b))  # type: ignore[return-value]


def _refuse_other(state_dict: dict[str, Tensor], key: str, own: float, errors: list[str]) -> None:
    """A state trained for another target would load without a word and sample nonsense."""
    if key in state_dict and not math.isclose(state_dict[key].item(), own, rel_tol=1e-2, abs_tol=1e-6):
        errors.append(f"{key} is {state_dict[key].item():g} in this state; the target here has {own:g}")


def as_target(target: Target | str | float) -> Target:
    """A target from itself, a name ("noise", "velocity", "data", "learned") or a fixed k."""
    if isinstance(target, Target):
        return target
    return LearnedK() if target == "learned" else FixedK(target)


@full_precision
def to_velocity(u: Tensor, z: Tensor, t: Tensor | float, k: Coefficient, min_denominator: float = PAPER_CLAMP) -> Tensor:
    """v = ((1 − 2k) z + u) / max(k (1 − t) + (1 − k) t, min_denominator): linear path, u = k x − (1 − k) n, shapes as z.

    k: a number or a tensor that broadcasts against z; gradients reach it.
    """
    t = broadcast_time(t, z)
    p, q = _conversion(t, LINEAR, _tensor(k, z, t), _tensor(1 - k, z, t), min_denominator)
    return p * z + q * u


@full_precision
def to_data(u: Tensor, z: Tensor, t: Tensor | float, k: Coefficient, min_denominator: float = 0.0) -> Tensor:
    """x̂ = z + (1 − t) v̂ on the linear path, with v̂ from `to_velocity`; exact unless a clamp is given."""
    return LINEAR.data(z, to_velocity(u, z, t, k, min_denominator), t)


@full_precision
def to_noise(u: Tensor, z: Tensor, t: Tensor | float, k: Coefficient, min_denominator: float = 0.0) -> Tensor:
    """n̂ = z − t v̂ on the linear path, with v̂ from `to_velocity`; exact unless a clamp is given."""
    return LINEAR.noise(z, to_velocity(u, z, t, k, min_denominator), t)
