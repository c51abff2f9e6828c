"""Exponential moving averages of the weights, k included: θ̄ ← d θ̄ + (1 − d) θ, for several decays d at once.

The averages are tensors by name, not a copy of the module. The module's state is read again at every update, because a module
may put new tensors in the place of old ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Kind = tuple[type, torch.Size, torch.dtype, torch.device]
# The types that are averaged in another one, because most steps of an average are smaller than their rounding.
FLOATS = (torch.float16, torch.bfloat16, *(t for name, t in vars(torch).items() if name.startswith("float8_")))
SMALL = {**dict.fromkeys(FLOATS, torch.float32), torch.complex32: torch.complex64}


class EMA:
    """Averages of every floating-point or complex entry of a module's state (parameters and buffers).

    An average has the precision of its entry, but at least float32. The decay of a step is min(d, (1 + step)/(10 + step)), so
    that the averages soon forget the random start. The average of an entry that appears later, or whose shape changes, starts
    from the value of that step.
    """

    def __init__(self, module: nn.Module, decays: Iterable[float]) -> None:
        self.module = module
        self.averages: dict[float, dict[str, Tensor]] = {decay: {} for decay in decays}
        self._found: dict[str, Tensor] = {}
        self._kinds: dict[str, Kind] = {}
        self._modules: list[nn.Module] = []
        self._objects: list[Tensor | nn.Module | None] = []  # held, so that their ids stay theirs
        self._ids: list[int] = []
        self._match(self._state())

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Update the averages after optimiser step number `step`, counted from 0.

        Raises:
            ValueError: the module was sharded after its averages were made (`fully_shard`).
        """
        state = self._state()
        if _kinds(state) != self._kinds:
            self._match(state)
        live = [value.to(exact) if (exact := SMALL.get(value.dtype)) else value for value in state.values()]
        for decay, average in self.averages.items():
            weight = 1 - min(decay, (1 + step) / (10 + step))
            torch._foreach_lerp_([average[name] for name in state], live, weight)

    def load(self, decay: float, tensors: Mapping[str, Tensor]) -> None:
        """Load saved averages. Their names and shapes must be those of the module."""
        for name, value in self.averages[decay].items():
            value.copy_(tensors[name])

    def _state(self) -> dict[str, Tensor]:
        """The present entries that are averaged."""
        if self._objects and list(map(id, _objects(self._modules))) == self._ids:
            return self._found  # the module holds the same tensors and submodules as before
        found = self.module.state_dict(keep_vars=True)
        tensors = {name: value for name, value in found.items() if isinstance(value, Tensor) and not is_lazy(value)}
        self._found = {name: value for name, value in tensors.items() if value.is_floating_point() or value.is_complex()}
        self._modules = list(self.module.modules())
        usual = len(tensors) == len(found) and all(map(_has_usual_state, self._modules))
        self._objects = _objects(self._modules) if usual else []
        self._ids = list(map(id, self._objects))
        return self._found

    def _match(self, state: Mapping[str, Tensor]) -> None:
        """Give the averages the names, shapes, types and devices of the state."""
        self._kinds = _kinds(state)
        for average in self.averages.values():
            for name, value in state.items():
                held, dtype = average.get(name), SMALL.get(value.dtype, value.dtype)
                if held is None or held.shape != value.shape:
                    average[name] = value.detach().to(dtype, copy=True)
                elif type(held) is not type(value.detach()):
                    raise ValueError(
                        f"{name} has become a {type(value).__name__}, and its average is a {type(held).__name__}; expected a "
                        "module that is sharded (fully_shard) first: make EMA(module, decays) after that"
                    )
                else:
                    average[name] = held.to(value.device, dtype)
            for name in average.keys() - state.keys():
                del average[name]


def _kinds(state: Mapping[str, Tensor]) -> dict[str, Kind]:
    return {name: (type(value), value.shape, value.dtype, value.device) for name, value in state.items()}


def _objects(modules: list[nn.Module]) -> list[Tensor | nn.Module | None]:
    """All that these modules hold: parameters, buffers and submodules."""
    found: list[Tensor | nn.Module | None] = []
    for module in modules:
        found += module._parameters.values()
        found += module._buffers.values()
        found += module._modules.values()
    return found


def _has_usual_state(module: nn.Module) -> bool:
    """Whether `state_dict` gives the parameters, persistent buffers and submodules of a module, and nothing else."""
    hooked = module._state_dict_hooks or module._state_dict_pre_hooks
    names = ("state_dict", "_save_to_state_dict", "get_extra_state")
    return not hooked and all(getattr(type(module), name) is getattr(nn.Module, name) for name in names)
