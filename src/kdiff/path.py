"""Gaussian paths from noise to data: z = α(t) x + σ(t) n, with velocity v = dz/dt = α'(t) x + σ'(t) n.

Everywhere in kdiff, time runs from t = 0 (noise: α = 0, σ = 1) to t = 1 (data: α = 1, σ = 0).

Conversions divide by numbers as small as 0.05 and subtract large ones. In bfloat16 (eight bits) their results would be useless,
so they run in float32 or better, whatever the precision of the network is (see `full_precision`).
"""

from __future__ import annotations

import contextlib
import functools
import math
import numbers
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

from kdiff.config.parts import Spec, resolve

P = ParamSpec("P")
R = TypeVar("R")

PAPER_CLAMP = 0.05  # least denominator in the conversion from an output to a velocity (k-Diff, arXiv 2601.21419)
ROUNDING = 2.0**-23  # the distance from 1 to the next float32: how far a computed time may miss [0, 1]
TIMES = "times in [0, 1] (0 is noise, 1 is data)"
# The tensors of times that were checked, by id, as weak references: functions that pass such a tensor on check it only once.
_CHECKED: dict[int, weakref.ref[Tensor]] = {}
# The least and the greatest time that each device has seen since the last `raise_wrong_times`, by device, name and expectation.
_SEEN: dict[tuple[torch.device, str, str], tuple[Tensor, Tensor]] = {}


def at_least_float32(value: Any) -> Any:
    """A half-precision tensor as float32. Any other value is returned unchanged."""
    if isinstance(value, Tensor) and value.is_floating_point() and value.itemsize < 4:
        return value.float()
    return value


def full_precision(function: Callable[P, R]) -> Callable[P, R]:
    """Make `function` run with half-precision tensors as float32 and with autocast off."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next((a.device.type for a in (*args, *kwargs.values()) if isinstance(a, Tensor)), "cpu")
        args_, kwargs_ = map(at_least_float32, args), {name: at_least_float32(a) for name, a in kwargs.items()}
        autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        with torch.autocast(device, enabled=False) if autocast else contextlib.nullcontext():
            return function(*args_, **kwargs_)

    return wrapper


def waits(t: Tensor) -> bool:
    """Whether reading a value of `t` would wait for a device to finish its work."""
    return not t.is_cpu


def checked_time(t: Any, name: str = "t", expected: str = TIMES) -> Any:
    """The times `t`, a number or a tensor, if they lie in [0, 1]; times that miss it by one float32 rounding become 0 or 1.

    The result is remembered, so that functions that pass it on check it only once. To read a tensor on a device would wait for
    the device. Its least and greatest value are therefore kept there, and `raise_wrong_times` reads them later. Tensors without
    values (while a function is compiled, traced or mapped over by vmap) are not checked.

    Args:
        t: the times.
        name: what the message calls them.
        expected: what the message says is expected.

    Raises:
        TypeError: `t` is neither a number nor a tensor of numbers.
        ValueError: a number, or an entry of a tensor on the CPU, lies outside [0, 1] or is not finite.
    """
    if not isinstance(t, Tensor):
        if not isinstance(t, float | int | numbers.Real):
            raise TypeError(f"{name} is a {type(t).__name__}; expected a number or a tensor: {expected}")
        if not 0 <= float(t) <= 1:
            _check_range(float(t), float(t), name, expected)
            return min(max(float(t), 0.0), 1.0)
        return t
    if torch.compiler.is_compiling() or t.is_meta or _was_checked(t):
        return t
    inside = t.clamp(0, 1)
    if waits(t):
        # At the ends the gradient of a clamp is 0, so times with a gradient keep their rounding.
        return _remember(inside if _note(t.detach(), name, expected) and not t.requires_grad else t.view_as(t))
    try:
        if torch.equal(inside, t):
            return _remember(t.view_as(t))  # the caller cannot change this one in place
    except RuntimeError:  # no values
        return t
    low, high = torch.aminmax(t.detach())
    _check_range(low.item(), high.item(), name, expected)
    return _remember(inside)


def raise_wrong_times() -> None:
    """Raise ValueError if a device was given times outside [0, 1] since the last call; waits for the device.

    kdiff calls this where it waits anyway: before a line of metrics is logged, and at the end of sampling. In a training loop
    of your own on a device, call it where you read the loss.
    """
    seen = list(_SEEN.items())
    _SEEN.clear()
    for (_, name, expected), (low, high) in seen:
        _check_range(low.item(), high.item(), name, expected)


def _note(t: Tensor, name: str, expected: str) -> bool:
    """Keep the least and the greatest value on the device, without waiting for it; False for tensors without values."""
    if not t.numel() or type(t) is not Tensor or torch._C._functorch.is_functorch_wrapped_tensor(t):
        return False
    key, (low, high) = (t.device, name, expected), torch.aminmax(t)
    if key in _SEEN:
        low, high = torch.minimum(_SEEN[key][0], low), torch.maximum(_SEEN[key][1], high)
    _SEEN[key] = low, high
    return True


def _remember(t: Tensor) -> Tensor:
    """Remember a new tensor of times in [0, 1] as long as it exists."""
    if not torch.compiler.is_compiling():
        key = id(t)
        _CHECKED[key] = weakref.ref(t, lambda _: _CHECKED.pop(key, None))
    return t


def _was_checked(t: Tensor) -> bool:
    known = None if torch.compiler.is_compiling() else _CHECKED.get(id(t))
    return known is not None and known() is t


def _check_range(low: float, high: float, name: str, expected: str) -> None:
    if low >= -ROUNDING and high <= 1 + ROUNDING:
        return
    found = f"{low:.9g}" if low == high or math.isnan(low) else f"{low:.9g} … {high:.9g}"
    raise ValueError(f"{name} = {found}; expected {expected}")


def check_shapes(names: str, first: Tensor, *others: Tensor) -> None:
    """Raise ValueError unless these tensors have one shape: broadcasting would use one number in place of many.

    names: what the message calls them, in their order, as in "x n".
    """
    for other in others:
        if other.shape != first.shape:
            shapes = ", ".join(f"{name} {tuple(each.shape)}" for name, each in zip(names.split(), (first, *others)))
            raise ValueError(f"the shapes are {shapes}; expected one shape, because nothing is broadcast")


def per_sample(value: Tensor, like: Tensor, name: str) -> Tensor:
    """`value` in a shape that broadcasts against `like` (batch, ...) without making it larger.

    value: one number, (batch,), or a shape of the rank of `like` whose sizes are those of `like` or 1.
    """
    if value.ndim == 0 or (value.ndim == like.ndim and all(own in (1, other) for own, other in zip(value.shape, like.shape))):
        return value
    if value.ndim == 1 and value.shape[0] in (1, like.shape[0]):
        return value.reshape(-1, *[1] * (like.ndim - 1))
    raise ValueError(
        f"{name} has shape {tuple(value.shape)}; expected a number, ({like.shape[0]},) or a shape of rank {like.ndim} "
        f"that broadcasts against {tuple(like.shape)}"
    )


def broadcast_time(t: Tensor | float, like: Tensor) -> Tensor:
    """`t` in a shape that broadcasts against `like` (batch, ...). t: a number, (batch,), or a shape of the rank of `like`.

    Times have float32 precision or better, even if the samples are in half precision. Raises the errors of `checked_time`.
    """
    t = checked_time(t)
    if not isinstance(t, Tensor):
        dtype = like.dtype if like.itemsize >= 4 else torch.float32
        return _remember(torch.full((), t, dtype=dtype, device=like.device))
    placed = per_sample(t, like, "t")
    return _remember(placed) if placed is not t and _was_checked(t) else placed


class GaussianPath(ABC):
    """z = α(t) x + σ(t) n. A path defines α, σ and their derivatives. Everything else follows from them.

    Data and noise are recovered from a point and its velocity by inverting the 2×2 system (z, v) ← (x, n). Its determinant
    `α'σ − σ'α` must be positive on [0, 1].
    """

    @abstractmethod
    def alpha(self, t: Tensor) -> Tensor:
        """The coefficient α(t) of the data, with α(0) = 0 and α(1) = 1."""

    @abstractmethod
    def sigma(self, t: Tensor) -> Tensor:
        """The coefficient σ(t) of the noise, with σ(0) = 1 and σ(1) = 0."""

    @abstractmethod
    def alpha_dot(self, t: Tensor) -> Tensor | float:
        """dα/dt."""

    @abstractmethod
    def sigma_dot(self, t: Tensor) -> Tensor | float:
        """dσ/dt."""

    def determinant(self, t: Tensor) -> Tensor | float:
        """α'σ − σ'α, which is positive. It is 1 on the linear path."""
        return self.alpha_dot(t) * self.sigma(t) - self.sigma_dot(t) * self.alpha(t)

    @full_precision
    def mix(self, x: Tensor, n: Tensor, t: Tensor | float) -> Tensor:
        """The noisy sample z = α x + σ n. x, n: (batch, ...); t: a number or (batch,)."""
        check_shapes("x n", x, n)
        t = broadcast_time(t, x)
        return self.alpha(t) * x + self.sigma(t) * n

    @full_precision
    def interpolate(self, x: Tensor, n: Tensor, t: Tensor | float) -> tuple[Tensor, Tensor]:
        """The noisy sample z and its velocity v. x, n: (batch, ...); t: a number or (batch,)."""
        t = broadcast_time(t, x)
        return self.mix(x, n, t), self.alpha_dot(t) * x + self.sigma_dot(t) * n

    @full_precision
    def data(self, z: Tensor, v: Tensor, t: Tensor | float) -> Tensor:
        """x = (σ v − σ' z) / (α'σ − σ'α); on the linear path z + (1 − t) v."""
        check_shapes("z v", z, v)
        t = broadcast_time(t, z)
        return (self.sigma(t) * v - self.sigma_dot(t) * z) / self.determinant(t)

    @full_precision
    def noise(self, z: Tensor, v: Tensor, t: Tensor | float) -> Tensor:
        """n = (α' z − α v) / (α'σ − σ'α); on the linear path z − t v."""
        check_shapes("z v", z, v)
        t = broadcast_time(t, z)
        return (self.alpha_dot(t) * z - self.alpha(t) * v) / self.determinant(t)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"


class LinearPath(GaussianPath):
    """z = t x + (1 − t) n, v = x − n: flow matching, rectified flow, JiT, LightningDiT."""

    def alpha(self, t: Tensor) -> Tensor:
        """t."""
        return t

    def sigma(self, t: Tensor) -> Tensor:
        """1 − t."""
        return 1 - t

    def alpha_dot(self, t: Tensor) -> float:
        """1."""
        return 1.0

    def sigma_dot(self, t: Tensor) -> float:
        """−1."""
        return -1.0

    def determinant(self, t: Tensor) -> float:
        """1, without the rounding of (1 − t) + t."""
        return 1.0


class VariancePreservingPath(GaussianPath):
    """z = sin(πt/2) x + cos(πt/2) n. As α² + σ² = 1, data of unit variance give z of unit variance at every t.

    This is the trigonometric path of Albergo & Vanden-Eijnden (arXiv 2209.15571). Its derivatives are bounded at both ends,
    unlike those of the diffusion schedules with linear β.
    """

    def alpha(self, t: Tensor) -> Tensor:
        """sin(πt/2)."""
        return torch.sin(t * (math.pi / 2))

    def sigma(self, t: Tensor) -> Tensor:
        """cos(πt/2), computed as sin(π(1 − t)/2), which is exactly 0 at t = 1."""
        return torch.sin((1 - t) * (math.pi / 2))

    def alpha_dot(self, t: Tensor) -> Tensor:
        """(π/2) cos(πt/2)."""
        return self.sigma(t) * (math.pi / 2)

    def sigma_dot(self, t: Tensor) -> Tensor:
        """−(π/2) sin(πt/2)."""
        return self.alpha(t) * (-math.pi / 2)

    def determinant(self, t: Tensor) -> float:
        """π/2, constant."""
        return math.pi / 2


PATHS: dict[str, Callable[..., GaussianPath]] = {"linear": LinearPath, "variance_preserving": VariancePreservingPath}


def find_path(spec: Spec, **given: Any) -> Callable[[], GaussianPath]:
    """The path that `spec` names, ready to be called. `kdiff.config.parts.resolve` explains `given` and the errors."""
    return resolve("path", spec, PATHS, given, of=GaussianPath)
