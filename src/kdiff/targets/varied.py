"""Targets beyond one number: any a and b, two learned parameters, and a k that is learned as a function of time.

    u = k₀ x − k₁ n                                      two parameters: a direction on the line and a scale of u
    u = k(t) x − (1 − k(t)) n,   logit k(t) = Σ_j w_j φ_j(t)

Where a and b depend on t, the denominator α b + σ a of the conversion does so too. Nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from kdiff.path import checked_time
from kdiff.targets.constant import Learned, initial_logit, whole
from kdiff.targets.description import Curve
from kdiff.targets.target import PAPER_CLAMP, Coefficient, Target

NEAREST_TIME = 1e-3  # the distance from t = 0 and t = 1 at which logit t is cut off
Varying = Coefficient | Callable[[Tensor], Coefficient]


class GeneralTarget(Target):
    """u = a x − b n with any a and b of the same sign: numbers, tensors that broadcast against the data, or functions of t.

    Examples: `GeneralTarget(1, 1)` is x − n, and `GeneralTarget(0, -1)` is +n. A tensor of shape (C, 1, 1) gives each channel
    of an image its own coefficient. An `nn.Parameter` is learned. `GeneralTarget(lambda t: 1 - t, lambda t: t)` depends on
    time; such a function gets t with shape (batch, 1, ...).
    """

    def __init__(self, a: Varying, b: Varying, min_denominator: float = PAPER_CLAMP, clamp_target: bool = True) -> None:
        super().__init__(min_denominator, clamp_target)
        if not callable(a) and not callable(b):
            product, total = torch.as_tensor(a) * torch.as_tensor(b), torch.as_tensor(a) + torch.as_tensor(b)
            if (product < 0).any() or (total == 0).any():
                raise ValueError(
                    f"a = {a} and b = {b} must have the same sign and must not both be 0, "
                    "because otherwise α b + σ a is 0 at some time, where u does not determine the velocity"
                )
        self._keep("a", a)
        self._keep("b", b)

    def _keep(self, name: str, value: Varying) -> None:
        if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
            self.register_buffer(name, value.detach().clone())
        else:
            setattr(self, name, value)

    def coefficients(self, t: Tensor) -> tuple[Coefficient, Coefficient]:
        """a(t), b(t)."""
        t = checked_time(t)
        return tuple(value(t) if callable(value) else value for value in (self.a, self.b))  # type: ignore[return-value]


class LearnedPair(Learned):
    """u = k₀ x − k₁ n, where k₀ and k₁ are each a sigmoid(rate · w): the paper's two independent parameters.

    v̂ is the same for (k₀, k₁, û) and (c k₀, c k₁, c û). So the pair is a direction k₀/(k₀ + k₁), which is logged as k, and a
    scale of the network's output.

    Args:
        init: k₀ and 1 − k₁ at the start.
        rate: the pace, as for `LearnedK`.
    """

    def __init__(
        self, init: float = 0.5, rate: float = 10.0, min_denominator: float = PAPER_CLAMP, clamp_target: bool = True
    ) -> None:
        super().__init__(min_denominator, clamp_target)
        self._learn([initial_logit(init), -initial_logit(init)], rate)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """k₀ and k₁, of shape (1,)."""
        a, b = torch.sigmoid(self.rate * whole(self.w)).split(1)
        return a, b

    @property
    def k(self) -> float:
        """The direction k₀/(k₀ + k₁)."""
        a, b = torch.sigmoid(self.rate * whole(self.w.detach())).tolist()
        return a / (a + b)

    def state(self) -> dict[str, float]:
        """k, k₀ and k₁."""
        a, b = torch.sigmoid(self.rate * whole(self.w.detach())).tolist()
        return {"k": self.k, "k0": a, "k1": b}


class LearnedKOfTime(Learned):
    """u = k(t) x − (1 − k(t)) n, where k is learned as a function of time.

    Args:
        form: "table": logit k is w_j at the times j/(size − 1) and linear in between, in any shape.
            "polynomial": logit k is Σ_j w_j P_j(2t − 1) with Legendre polynomials of degree below `size`: a smooth curve.
            "wiener": logit k is w₀ − w₁ logit t, with logit t cut off at t = 0.001 and 0.999. This form includes the constant k
            (w₁ = 0) and the best k(t) at û = 0 (w₁ = 1: `kdiff.theory.k_of_time`).
        size: the number of w. By default 16 for a table and 3 for a polynomial; always 2 for "wiener".
        init: k at the start, at all times.
        rate: the pace, as for `LearnedK`.
    """

    def __init__(
        self,
        form: Literal["table", "polynomial", "wiener"] = "table",
        size: int | None = None,
        init: float = 0.5,
        rate: float = 10.0,
        min_denominator: float = PAPER_CLAMP,
        clamp_target: bool = True,
    ) -> None:
        super().__init__(min_denominator, clamp_target)
        sizes = {"table": 16, "polynomial": 3, "wiener": 2}
        if form not in sizes:
            raise ValueError(f"form is {form!r}; expected table, polynomial or wiener")
        self.form, self.size = form, sizes[form] if size is None else size
        self._mark("form_number", float(list(sizes).index(form)))  # w has another meaning in another form
        if self.size < 2 or (form == "wiener" and self.size != 2):
            raise ValueError(f"size is {size}; expected at least 2, and exactly 2 for form 'wiener'")
        first = initial_logit(init)
        self._learn([first] * self.size if form == "table" else [first] + [0.0] * (self.size - 1), rate)

    def logit(self, t: Tensor) -> Tensor:
        """logit k(t), shaped like t, with gradients to w."""
        t, w = checked_time(t), self.rate * whole(self.w)
        if self.form == "wiener":
            return w[0] - w[1] * torch.logit(t, eps=NEAREST_TIME)
        if self.form == "table":
            place = t * (self.size - 1)
            left = place.floor().clamp(0, self.size - 2).long()
            # torch.lerp would need times and w in the same precision.
            return w[left] + (w[left + 1] - w[left]) * (place - left)
        # P_0 = 1, P_1 = s, (j + 1) P_{j+1} = (2j + 1) s P_j − j P_{j−1}
        s = 2 * t - 1
        before, now, total = torch.ones_like(s), s, w[0] + w[1] * s
        for j in range(1, self.size - 1):
            before, now = now, ((2 * j + 1) * s * now - j * before) / (j + 1)
            total = total + w[j + 1] * now
        return total

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """k(t) and 1 − k(t), shaped like t."""
        logit = self.logit(t)
        return torch.sigmoid(logit), torch.sigmoid(-logit)

    @torch.no_grad()
    def k_at(self, t: Tensor) -> Tensor:
        """k(t), shaped like t."""
        return torch.sigmoid(self.logit(t))

    @property
    def k(self) -> float:
        """The mean of k over all times."""
        return self.k_at(torch.linspace(0, 1, 101, device=self.w.device)).mean().item()

    def state(self) -> dict[str, float]:
        """The mean k, and k at five times."""
        times = (0.05, 0.25, 0.5, 0.75, 0.95)
        at = self.k_at(torch.tensor(times, device=self.w.device)).tolist()
        return {"k": self.k, **{f"k({t:g})": k for t, k in zip(times, at)}}

    def curves(self) -> list[Curve]:
        """k over t."""
        times = torch.linspace(0, 1, 51, device=self.w.device)
        return [Curve("k", "t", times.tolist(), self.k_at(times).tolist())]

    def _logged(self) -> dict[str, int]:
        """The two ends of a table, t = 0 and 1, where the density of t may vanish; all w of the other forms."""
        return {"w_gradient(0)": 0, "w_gradient(1)": self.size - 1} if self.form == "table" else super()._logged()

    def extra_repr(self) -> str:
        """The options that `print` shows."""
        return f"form={self.form!r}, size={self.size}, rate={self.rate:g}"
