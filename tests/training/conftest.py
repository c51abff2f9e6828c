"""Toy objectives whose training takes a fraction of a second."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kdiff import KDiff
from kdiff.networks import MLP
from kdiff.training.objective import DiffusionObjective


class Spy(nn.Module):
    """An MLP with dropout that records its inputs; `before` is called with the number of the call."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.network = MLP((4,), num_classes=3, width=width, depth=2)
        self.dropout = nn.Dropout(0.1)
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []
        self.before: Callable[[int], None] = lambda call: None

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.before(len(self.calls))
        self.calls.append((z.clone(), t.clone(), y.clone()))
        return self.dropout(self.network(z, t, y))


@pytest.fixture
def samples() -> tuple[Tensor, Tensor]:
    """100 samples on a plane in four dimensions, three classes."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(3, (100,), generator=generator)
    x = torch.zeros(100, 4)
    x[:, :2] = 0.3 * torch.randn(100, 2, generator=generator) + torch.stack([y - 1.0, (y == 1) * 2.0], dim=1)
    return x, y


@pytest.fixture
def make_objective() -> Callable[..., DiffusionObjective]:
    """Objectives of a `Spy`; the same seed, the same initial weights."""

    def make(target: object = "learned", seed: int = 0, width: int = 16) -> DiffusionObjective:
        torch.manual_seed(seed)
        model = KDiff(Spy(width), target, null={"y": 3}, null_rate=0.2)  # type: ignore[arg-type]
        return DiffusionObjective(model, torch.eye(4)[:, :2])

    return make


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """All files below a folder, hidden ones too, by relative path."""
    return lambda folder: {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
