"""The targets of k-Diff, u = k x − (1 − k) n with one k for all times and dimensions: fixed, or learned as k = sigmoid(w)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from kdiff.targets.description import LINE
from kdiff.targets.target import PAPER_CLAMP, Target


class FixedK(Target):
    """u = k x − (1 − k) n with a fixed k: "noise" (0), "velocity" (½), "data" (1) or any number in [0, 1].

    k also fixes the sign and the scale of u: (x − n)/2 at k = ½, and −n at k = 0. Networks that were trained elsewhere to
    predict x − n or +n need `GeneralTarget(1, 1)` or `GeneralTarget(0, -1)`.
    """

    axis = LINE
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
        self._mark("fixed_k", self.k)

    def coefficients(self, t: Tensor) -> tuple[float, float]:
        """k and 1 − k."""
        return self.k, 1 - self.k

    def state(self) -> dict[str, float]:
        """k."""
        return {"k": self.k}

    def extra_repr(self) -> str:
        """The options that `print` shows."""
        return f"k={self.k:g}"


def whole(value: Tensor) -> Tensor:
    """The whole tensor. Of one that `fully_shard` has sharded, every process must ask for it at the same time."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


class Learned(Target):
    """The base of all targets with learned parameters w. They use rate · w; see `LearnedK` for the reason."""

    w: Tensor  # a parameter, or a buffer where it is fixed
    axis = LINE

    def _learn(self, logits: list[float], rate: float) -> None:
        """Create w so that rate · w = logits."""
        if not rate > 0:
            raise ValueError(f"rate is {rate}; expected a positive number (1 is the paper's)")
        self.rate = float(rate)
        self.w = nn.Parameter(torch.tensor(logits) / rate)
        self._mark("pace", self.rate)  # w has a meaning only together with the rate

    def _keep_fixed(self, values: list[float], names: list[str]) -> None:
        """Keep w at these values, which are not learned. The names are those under which weights are checked for them."""
        self.rate = 1.0
        self.register_buffer("w", torch.tensor(values))
        for name, value in zip(names, values):
            self._mark(name, value)

    def _logged(self) -> dict[str, int]:
        """The name of each gradient to log, and its index in w."""
        return {f"w{i}_gradient": i for i in range(len(self.w))}

    def gradients(self) -> dict[str, Tensor]:
        """The gradients of w, copied: processes may share the memory of gradients, and the next step overwrites it."""
        if self.w.grad is None:
            return {}
        gradient = whole(self.w.grad).clone()
        return {name: gradient[i] for name, i in self._logged().items()}


def initial_logit(k: float) -> float:
    """logit k for a k to start from; ValueError unless 0 < k < 1."""
    if not 0 < k < 1:
        raise ValueError(f"init is {k}; expected a number strictly between 0 and 1, because a sigmoid never reaches 0 or 1")
    return math.log(k / (1 - k))


class LearnedK(Learned):
    """u = k x − (1 − k) n with k = sigmoid(rate · w), where w is learned together with the network.

    Args:
        init: k at the start, in (0, 1); the paper uses 0.5.
        rate: the pace of k; the paper uses 1. Adam moves w by about the learning rate per step, however large the gradient is.
            So the logit of k moves `rate` times as fast as a weight of the network.
    """

    def __init__(
        self, init: float = 0.5, rate: float = 10.0, min_denominator: float = PAPER_CLAMP, clamp_target: bool = True
    ) -> None:
        super().__init__(min_denominator, clamp_target)
        self._learn([initial_logit(init)], rate)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """k and 1 − k, of shape (1,), with gradients to w. 1 − k is computed as sigmoid(−rate · w), exact near k = 1."""
        logit = self.rate * whole(self.w)
        return torch.sigmoid(logit), torch.sigmoid(-logit)

    @property
    def k(self) -> float:
        """The present k, as a number. If the model was sharded, every process must ask for it at the same time."""
        return torch.sigmoid(self.rate * whole(self.w.detach())).item()

    def state(self) -> dict[str, float]:
        """k."""
        return {"k": self.k}

    def _logged(self) -> dict[str, int]:
        return {"w_gradient": 0}

    def extra_repr(self) -> str:
        """The options that `print` shows."""
        # One process alone may print a model, so nothing is gathered here.
        return f"rate={self.rate:g}, sharded" if hasattr(self.w, "full_tensor") else f"k={self.k:.4g}, rate={self.rate:g}"


def learned_from(target: Target, init: float | None = None, rate: float = 10.0) -> tuple[LearnedK, float]:
    """A learned k that continues from a constant target, and the factor by which to multiply the network's output.

    For a constant target, u/(a + b) = k x − (1 − k) n with k = a/(a + b). If 0 < k < 1, the learned k starts at this k, and the
    conversion is exact. A sigmoid cannot start at noise prediction (k = 0) or data prediction (k = 1), so there k starts at
    `init`. The factor is then the share of the new u that the network knows (init for data, 1 − init for noise), divided by a +
    b. Raises ValueError if the target depends on t, differs between channels or is learned, if `init` is missing at k = 0 or 1,
    or if it is given for another k.
    """
    k, total = _position_and_scale(target)
    if 0 < k < 1:
        if init is not None:
            raise ValueError(f"init is {init}, but a learned k starts exactly at the model's own k = {k:g}; leave init out")
        start, factor = k, 1 / total
    else:
        if init is None:
            raise ValueError(
                f"the model predicts the {'data' if k else 'noise'} (k = {k:g}), where a sigmoid cannot start; "
                f"give a k close to it: init={0.99 if k else 0.01}, or learned(init={0.99 if k else 0.01}) in a configuration"
            )
        start, factor = init, (init if k else 1 - init) / total
    return LearnedK(start, rate, target.min_denominator, target.clamp_target), factor


def rescaled(before: Target, after: Target) -> float:
    """The factor that turns a network's output for one constant target into the output for another one with the same k.

    The factor is (a′ + b′)/(a + b), for u = a x − b n and u′ = a′ x − b′ n with a′/b′ = a/b. Raises ValueError if the two k
    differ, or if a target depends on t, differs between channels or is learned.
    """
    (k, total), (other, wanted) = _position_and_scale(before), _position_and_scale(after)
    if not math.isclose(k, other, abs_tol=1e-6):
        raise ValueError(
            f"the network was trained at k = {k:g}, and the target has k = {other:g}; the output for one k cannot be used for "
            "the other. Keep the network's k, or let k be learned"
        )
    return wanted / total


def is_constant(target: Target) -> bool:
    """Whether a and b are two fixed numbers: not learned, and the same at every t and for every channel."""
    return _constants(target) is not None


def _constants(target: Target) -> tuple[float, float] | None:
    if any(True for _ in target.parameters()):
        return None
    if type(target).velocity_error is not Target.velocity_error:  # a loss of its own, such as that of two answers
        return None
    device = next((buffer.device for buffer in target.buffers()), torch.device("cpu"))
    pairs = (target.coefficients(torch.tensor([t], device=device)) for t in (0.25, 0.75))
    early, late = ([torch.as_tensor(value) for value in pair] for pair in pairs)
    one = all(value.numel() == 1 for value in early) and all(torch.equal(*pair) for pair in zip(early, late))
    return (float(early[0]), float(early[1])) if one else None


def _position_and_scale(target: Target) -> tuple[float, float]:
    """k = a/(a + b) and the scale a + b of a constant target; ValueError for any other target."""
    constants = _constants(target)
    if constants is None:
        raise ValueError(
            f"the target is {target}; expected a fixed one, without learned parameters and the same at every t and for every "
            "channel"
        )
    a, b = constants
    return a / (a + b) + 0.0, a + b  # + 0.0 turns −0 into 0: noise prediction has 0/−1
