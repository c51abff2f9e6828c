"""Targets beyond one number: any a and b, two learned parameters, and a k that is learned as a function of time.

    u = k₀ x − k₁ n                                      two parameters: one direction on the line and a scale of u
    u = k(t) x − (1 − k(t)) n,   logit k(t) = Σ_j w_j φ_j(t)

Where a and b depend on t, so does the denominator α b + σ a of the conversion, and nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from kdiff.target.base import PAPER_CLAMP, Coefficient, Target
from kdiff.target.constant import Learned, initial_logit, refuse_other

NEAREST_TIME = 1e-3  # to 0 and 1, at which logit t is cut off


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


class LearnedPair(Learned):
    """u = k₀ x − k₁ n with k₀ and k₁ each a sigmoid(rate · w): the paper's two independent parameters.

    v̂ is the same for (k₀, k₁, û) and (c k₀, c k₁, c û), so the pair is the direction k₀/(k₀ + k₁), logged as k, and a scale
    of the network's output.

    Args:
        init: k₀ and 1 − k₁ at the start.
        rate: the pace, as of `LearnedK`.
    """

    def __init__(
        self, init: float = 0.5, rate: float = 10.0, min_denominator: float = PAPER_CLAMP, clamp_target: bool = True
    ) -> None:
        super().__init__(min_denominator, clamp_target)
        self._learn([initial_logit(init), -initial_logit(init)], rate)

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """k₀, k₁, of shape (1,)."""
        a, b = torch.sigmoid(self.rate * self.w).split(1)
        return a, b

    @property
    def k(self) -> float:
        """The direction k₀/(k₀ + k₁)."""
        a, b = torch.sigmoid(self.rate * self.w.detach()).tolist()
        return a / (a + b)

    def state(self) -> dict[str, float]:
        """k, k₀ and k₁."""
        a, b = torch.sigmoid(self.rate * self.w.detach()).tolist()
        return {"k": self.k, "k0": a, "k1": b}


class LearnedKOfTime(Learned):
    """u = k(t) x − (1 − k(t)) n with a k that is learned as a function of time.

    Args:
        form: "table": logit k is w_j at `size` times j/(size − 1), straight lines in between: free.
            "polynomial": Σ_j w_j P_j(2t − 1), Legendre polynomials of degree below `size`: smooth, low-order.
            "wiener": w₀ − w₁ logit t. It holds the constant (w₁ = 0) and the best k(t) at û = 0 (w₁ = 1:
            `kdiff.theory.k_of_time`); logit t is cut off at t = 0.001 and 0.999.
        size: how many w; 16 for a table and 3 for a polynomial if left out, always 2 for "wiener".
        init: k at the start, at all times.
        rate: the pace, as of `LearnedK`.
    """

    form_number: Tensor

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
        # The same w mean something else in another form.
        self.register_buffer("form_number", torch.tensor(float(list(sizes).index(form))))
        if self.size < 2 or (form == "wiener" and self.size != 2):
            raise ValueError(f"size is {size}; expected at least 2, and no other for form 'wiener'")
        first = initial_logit(init)
        self._learn([first] * self.size if form == "table" else [first] + [0.0] * (self.size - 1), rate)

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *rest: Any) -> None:
        refuse_other(state_dict, prefix + "form_number", self.form_number.item(), rest[-1])
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def logit(self, t: Tensor) -> Tensor:
        """logit k(t), shaped like t, with gradients to w."""
        w = self.rate * self.w
        if self.form == "wiener":
            return w[0] - w[1] * torch.logit(t, eps=NEAREST_TIME)
        if self.form == "table":
            place = t * (self.size - 1)
            left = place.floor().clamp(0, self.size - 2).long()
            # Not torch.lerp, which wants times and w in one precision.
            return w[left] + (w[left + 1] - w[left]) * (place - left)
        # P_0 = 1, P_1 = s, (j + 1) P_{j+1} = (2j + 1) s P_j − j P_{j−1}
        s = 2 * t - 1
        before, now, total = torch.ones_like(s), s, w[0] + w[1] * s
        for j in range(1, self.size - 1):
            before, now = now, ((2 * j + 1) * s * now - j * before) / (j + 1)
            total = total + w[j + 1] * now
        return total

    def coefficients(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """k(t), 1 − k(t), shaped like t."""
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
        times = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], device=self.w.device)
        at = {f"k({t:g})": k for t, k in zip((0.05, 0.25, 0.5, 0.75, 0.95), self.k_at(times).tolist())}
        return {"k": self.k, **at}

    def _logged(self) -> dict[str, int]:
        """A table's at its ends, t = 0 and 1, where the density of t may vanish; of the other forms all."""
        return {"w_gradient(0)": 0, "w_gradient(1)": self.size - 1} if self.form == "table" else super()._logged()

    def extra_repr(self) -> str:
        """For print."""
        return f"form={self.form!r}, size={self.size}, rate={self.rate:g}"
