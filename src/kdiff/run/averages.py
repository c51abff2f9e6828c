"""Exponential moving averages of the weights, k included: θ̄ ← d θ̄ + (1 − d) θ, for several decays d at once.

The averages are float32 tensors by name, not a copy of the module. So they survive wrapping and sharding of the module.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn


class EMA:
    """Averages of every floating-point entry of a module's state (parameters and buffers).

    The decay of a step is min(d, (1 + step)/(10 + step)), so that the averages soon forget the random start.
    """

    def __init__(self, module: nn.Module, decays: Iterable[float]) -> None:
        self._live = {name: value for name, value in module.state_dict(keep_vars=True).items() if value.is_floating_point()}
        self.averages = {
            decay: {name: value.detach().to(torch.float32, copy=True) for name, value in self._live.items()} for decay in decays
        }

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the averages after optimiser step number `step`, counted from 0."""
        live = [value.detach().float() for value in self._live.values()]
        for decay, average in self.averages.items():
            weight = 1 - min(decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(list(average.values()), live, weight)

    def load(self, decay: float, tensors: Mapping[str, Tensor]) -> None:
        """Load saved averages. Their names and shapes must be those of the module."""
        for name, value in self.averages[decay].items():
            value.copy_(tensors[name])
