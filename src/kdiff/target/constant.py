"""k-Diff's own targets, u = k x − (1 − k) n with one k for everything: a fixed one, or k = sigmoid(w), learned."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kdiff.target.base import PAPER_CLAMP, Target


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
        refuse_other(state_dict, prefix + "fixed_k", self.k, rest[-1])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def extra_repr(self) -> str:
        """For print."""
        return f"k={self.k:g}"


class Learned(Target):
    """A target with parameters w, of which it uses rate · w: what those that are learned share.

    Adam moves w by about the learning rate per step whatever its gradient, so rate · w moves `rate` times as fast as a weight
    of the network does.
    """

    w: nn.Parameter

    def _learn(self, logits: list[float], rate: float) -> None:
        """Make w, with rate · w = logits at the start."""
        if not rate > 0:
            raise ValueError(f"rate is {rate}; expected a positive number (1 is the paper's)")
        self.rate = float(rate)
        self.w = nn.Parameter(torch.tensor(logits) / rate)
        # Without it a state would not say what w means.
        self.register_buffer("pace", torch.tensor(self.rate))

    def _logged(self) -> dict[str, int]:
        """The names of the gradients to log, and which w they are of."""
        return {f"w{i}_gradient": i for i in range(len(self.w))}

    def gradients(self) -> dict[str, Tensor]:
        """Copies: processes may share the memory of gradients, and write the next step's there."""
        if self.w.grad is None:
            return {}
        gradient = self.w.grad.clone()
        return {name: gradient[i] for name, i in self._logged().items()}

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        refuse_other(state_dict, prefix + "pace", self.rate, rest[-1])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Learned:
        """Keep w in float32 under `.bfloat16()` and `.half()`, where Adam's small steps would round away and k stand still."""
        exact = self.w.data
        super()._apply(fn, recurse)
        if self.w.itemsize < 4:
            self.w.data = exact.to(self.w.device, torch.float32)
        return self


def initial_logit(k: float) -> float:
    """logit k of a k to start from.

    Raises:
        ValueError: k not strictly between 0 and 1.
    """
    if not 0 < k < 1:
        raise ValueError(f"init is {k}; expected a number strictly between 0 and 1: a sigmoid never reaches its ends")
    return math.log(k / (1 - k))


class LearnedK(Learned):
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
        self._learn([initial_logit(init)], rate)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """k, 1 − k, of shape (1,), with gradients to w. 1 − k is computed as sigmoid(−rate · w), exact near k = 1."""
        logit = self.rate * self.w
        return torch.sigmoid(logit), torch.sigmoid(-logit)

    @property
    def k(self) -> float:
        """The present k, as a number."""
        return torch.sigmoid(self.rate * self.w.detach()).item()

    def state(self) -> dict[str, float]:
        """k."""
        return {"k": self.k}

    def _logged(self) -> dict[str, int]:
        """The names of the gradients to log, and which w they are of."""
        return {"w_gradient": 0}

    def extra_repr(self) -> str:
        """For print."""
        return f"k={self.k:.4g}, rate={self.rate:g}"


def learned_from(target: Target, init: float | None = None, rate: float = 10.0) -> tuple[LearnedK, float]:
    """A learned k to go on with from a constant target, and what the network's output is to be multiplied by.

    u/(a + b) = k x − (1 − k) n with k = a/(a + b): strictly inside the line that is exact, and k starts there. At its ends,
    noise and data prediction, k starts at `init`, and the factor is the share of u that the network knows, init for data and
    1 − init for noise, over a + b.

    Raises:
        ValueError: a target that depends on t, differs between channels or is learned; an init that is missing at an end, or
            given inside.
    """
    k, total = _position_and_scale(target)
    if 0 < k < 1:
        if init is not None:
            raise ValueError(f"init is {init}, but the model is at k = {k:g}, and starts there exactly: leave init out")
        start, factor = k, 1 / total
    else:
        if init is None:
            raise ValueError(
                f"the model predicts the {'data' if k else 'noise'}, k = {k:g}, which a sigmoid never reaches: "
                f"give a k close by, init={0.99 if k else 0.01}, in a configuration learned(init={0.99 if k else 0.01})"
            )
        start, factor = init, (init if k else 1 - init) / total
    return LearnedK(start, rate, target.min_denominator, target.clamp_target), factor


def rescaled(before: Target, after: Target) -> float:
    """What the output of a network for one constant target is to be multiplied by to be one for another of the same k.

    (a′ + b′)/(a + b), for u = a x − b n and u′ = a′ x − b′ n with a′/b′ = a/b.

    Raises:
        ValueError: targets that depend on t, differ between channels or are learned; or of different k.
    """
    (k, total), (other, wanted) = _position_and_scale(before), _position_and_scale(after)
    if not math.isclose(k, other, abs_tol=1e-6):
        raise ValueError(
            f"the network predicts k = {k:g}, and the target is k = {other:g}: what it says of the one is not what it would "
            "say of the other. Keep its k, or let it be learned"
        )
    return wanted / total


def _position_and_scale(target: Target) -> tuple[float, float]:
    """a/(a + b) and a + b of a constant target; ValueError for any other."""
    early, late = (
        [torch.as_tensor(value) for value in target.coefficients(torch.tensor([t], device=_device(target)))]
        for t in (0.25, 0.75)
    )
    one = all(value.numel() == 1 for value in early) and all(torch.equal(*pair) for pair in zip(early, late))
    if isinstance(target, Learned) or not one:
        raise ValueError(f"the target is {target}; expected a fixed one, the same at every t and for every channel")
    a, b = (float(value) for value in early)
    return a / (a + b) + 0.0, a + b  # noise prediction's 0/−1 is −0


def _device(target: Target) -> torch.device:
    return next((tensor.device for tensor in [*target.parameters(), *target.buffers()]), torch.device("cpu"))


def refuse_other(state_dict: dict[str, Tensor], key: str, own: float, errors: list[str]) -> None:
    """A state trained for another target would load without a word and sample nonsense."""
    if key in state_dict and not math.isclose(state_dict[key].item(), own, rel_tol=1e-2, abs_tol=1e-6):
        errors.append(f"{key} is {state_dict[key].item():g} in this state; the target here has {own:g}")


def as_target(target: Target | str | float) -> Target:
    """A target from itself, a name ("noise", "velocity", "data", "learned") or a fixed k."""
    if isinstance(target, Target):
        return target
    return LearnedK() if target == "learned" else FixedK(target)
