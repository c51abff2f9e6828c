"""The weight of the velocity's error over time. For every weight an exact network gives k no gradient.

    none    mean ‖v̂_c − v_c‖²                       the v-loss as it is: the paper's
    den     mean ‖(v̂_c − v_c)/q‖²                   q = (α' σ − σ' α)/den_c of the target, detached: the size of the error of û
                                                    itself, without the pull that a loss on u has on k
    log     mean ω(t) ‖v̂_c − v_c‖², ω ∝ 1/m(t)      m(t): the running mean-square error at t, detached. It has the gradient of
                                                    E_t log E‖v̂_c − v_c‖²: each time counts by the share, not by the size, of
                                                    the error that a step removes there

Weights are detached, and where the network is exact, the error v̂_c − v_c has no gradient to k at any t. So k has none under
any of these weights: they change what a network without room for everything learns first, but not what it learns in the end.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from kdiff.path import GaussianPath, full_precision
from kdiff.targets.float32 import Float32Module
from kdiff.targets.target import LINEAR, Target

BINS = 25  # intervals of t of equal length, each with its own running mean
MEMORY = 0.98  # the share of a running mean that a new sample of its interval leaves
LARGEST = 1e4  # the largest ratio of two weights: a time without any error would else have all the weight


class Weighting(Float32Module):
    """No weight: the loss is the mean square of the error. The other weightings extend this one."""

    @full_precision
    def forward(self, error: Tensor, t: Tensor, target: Target, path: GaussianPath = LINEAR) -> Tensor:
        """The loss, a scalar, of the errors v̂_c − v_c (batch, ...) at the times t, (batch,) or (batch, 1, ...)."""
        return error.square().mean()

    def observe(self, error: Tensor, t: Tensor) -> None:
        """Take note of the errors (batch, ...) of a micro-batch at the times t; `settle` uses them."""

    def settle(self, add: Callable[[Tensor], Tensor] | None = None) -> None:
        """Update the running means with all that was observed since the last call.

        `add` sums a tensor over all processes. It is left out if there is one process.
        """


class OutputWeighting(Weighting):
    """The weight "den": the mean square of the error of the network's output û, in the units of û."""

    @full_precision
    def forward(self, error: Tensor, t: Tensor, target: Target, path: GaussianPath = LINEAR) -> Tensor:
        """The loss, a scalar, of the errors v̂_c − v_c (batch, ...) at the times t, (batch,) or (batch, 1, ...)."""
        return target.output_units(error, t, path).square().mean()


class LogWeighting(Weighting):
    """The weight "log": 1/m(t), scaled so that its mean over the samples is 1.

    m is a running mean over the samples in each of 25 intervals of t. It is part of the model's state: it is saved with the
    weights. The weights of a step come from the steps before it, so they do not depend on how a batch is divided.
    """

    mean_square: Tensor
    visits: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean_square", torch.ones(BINS))
        self.register_buffer("visits", torch.zeros(BINS, dtype=torch.int64))
        self._seen: Tensor | None = None  # sums of squares and counts. No buffer: DDP would copy that of one process to all

    def _intervals(self, t: Tensor, batch: int) -> Tensor:
        t = torch.as_tensor(t, device=self.mean_square.device).detach().reshape(-1)
        t = t.repeat(batch // len(t))  # one time for all samples, or a batch of two answers for each time
        return (t.to(self.mean_square.dtype) * BINS).long().clamp(0, BINS - 1)

    @torch.no_grad()
    def weights(self) -> Tensor:
        """The weight of each interval, (25,). An interval without samples so far has the weight of the mean error."""
        share = self.visits / self.visits.sum().clamp(min=1)
        known = self.visits > 0
        mean = (share * self.mean_square).sum()
        m = torch.where(known, self.mean_square, mean)
        inverse = 1 / torch.maximum(m, m.max() / LARGEST).clamp(min=torch.finfo(m.dtype).tiny)
        return torch.where(known.any(), inverse / (share * inverse).sum(), torch.ones_like(inverse))

    @full_precision
    def forward(self, error: Tensor, t: Tensor, target: Target, path: GaussianPath = LINEAR) -> Tensor:
        """The loss, a scalar, of the errors v̂_c − v_c (batch, ...) at the times t, (batch,) or (batch, 1, ...)."""
        weights = self.weights()[self._intervals(t, len(error))]
        return (weights * error.square().flatten(1).mean(1)).mean()

    @torch.no_grad()
    @full_precision
    def observe(self, error: Tensor, t: Tensor) -> None:
        """Take note of the errors (batch, ...) of a micro-batch at the times t; `settle` uses them."""
        # A product with ones, and not index_add, whose sums have no fixed order on a GPU.
        ones = nn.functional.one_hot(self._intervals(t, len(error)), BINS).to(self.mean_square.dtype)
        squares = error.detach().square().flatten(1).mean(1).to(ones.dtype)
        found = torch.stack([(ones * squares[:, None]).sum(0), ones.sum(0)])
        self._seen = found if self._seen is None else self._seen + found

    @torch.no_grad()
    def settle(self, add: Callable[[Tensor], Tensor] | None = None) -> None:
        """Update the running means with all that was observed since the last call.

        `add` sums a tensor over all processes. It is left out if there is one process.
        """
        if self._seen is None:
            return
        sums, counts = add(self._seen) if add else self._seen
        self._seen = None
        kept = torch.where(self.visits > 0, MEMORY**counts, (counts == 0).to(counts.dtype))
        self.mean_square.copy_(kept * self.mean_square + (1 - kept) * sums / counts.clamp(min=1))
        self.visits += counts.long()


WEIGHTINGS: dict[str, type[Weighting]] = {"none": Weighting, "den": OutputWeighting, "log": LogWeighting}


def make_weighting(name: str | Weighting) -> Weighting:
    """The weighting of this name, or the given one. Raises ValueError for an unknown name."""
    if isinstance(name, Weighting):
        return name
    if name not in WEIGHTINGS:
        raise ValueError(f"weighting is {name!r}; expected {', '.join(WEIGHTINGS)}")
    return WEIGHTINGS[name]()
