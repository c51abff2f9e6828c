"""Modules that stay in float32 when the model around them is cast to half precision by `.bfloat16()` or `.half()`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class Float32Module(nn.Module):
    """Keeps its own parameters and buffers in float32 or better. Its submodules decide for themselves.

    Conversions need float32, and in half precision the small steps of Adam and of running means are rounded away.
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        exact = {id(held): {n: v.data for n, v in held.items() if v is not None} for held in (self._parameters, self._buffers)}
        super()._apply(fn, recurse)
        for held in (self._parameters, self._buffers):
            for name, value in exact[id(held)].items():
                now = held[name]
                if now is not None and now.is_floating_point() and now.itemsize < 4 <= value.itemsize:
                    now.data = value.to(now.device, torch.promote_types(value.dtype, torch.float32))
        return self
