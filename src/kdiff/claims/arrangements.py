"""Which arrangement of `kdiff.theory.capacity` a trained low-rank network has reached, read from its weights and its run.

The output lies in the span of a matrix P. With Π the projection onto this span and V the directions of the data, tr Vᵀ Π V is
the number of data dimensions that the span holds. It is q of the theory, a whole number in each arrangement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kdiff.data import principal_directions
from kdiff.networks import LowRankLinear
from kdiff.run.metrics import read_metrics
from kdiff.run.run import load_run
from kdiff.theory import Arrangement, rank_limited


@dataclass(frozen=True)
class Room:
    """A rank-limited network on Gaussian data: D, the variances in the directions of the data, and the rank R."""

    D: int
    variances: Sequence[float]
    rank: int

    @property
    def strengths(self) -> np.ndarray:
        """The standard deviations of all D directions, in descending order."""
        full = np.concatenate([np.asarray(self.variances, dtype=float), np.zeros(self.D - len(self.variances))])
        return np.sqrt(np.sort(full)[::-1])

    def stable(self) -> list[Arrangement]:
        """The stable arrangements, in order of the number of data directions that they capture."""
        return sorted((one for one in rank_limited(self.strengths**2, self.rank) if one.stable), key=self.captured)

    def left_out(self, arrangement: Arrangement) -> np.ndarray:
        """The strengths of the D − R directions that an arrangement leaves out."""
        return self.strengths[arrangement.strongest : self.D - self.rank + arrangement.strongest]

    def captured(self, arrangement: Arrangement) -> int:
        """How many data directions an arrangement captures."""
        return len(self.variances) - int((self.left_out(arrangement) > 0).sum())

    def loss(self, arrangement: Arrangement, k: float) -> float:
        """r L + (D − R)/r + (π/2) Σ_captured x, per dimension: the loss of an arrangement at any k, r = k/(1 − k)."""
        out, r = self.left_out(arrangement), k / (1 - k)
        floor = np.pi / 2 * (self.strengths.sum() - out.sum())
        return float(r * out @ out + (self.D - self.rank) / r + floor) / self.D


MOVES, NEAR_ONE = 0.01, 0.9


@dataclass(frozen=True)
class Ended:
    """How a run ended: k at the end and half-way, the mean loss over the last tenth, and the data directions captured."""

    k: float
    half: float
    loss: float
    captured: float = float("nan")

    def at_rest(self, k: float, tolerance: float) -> bool:
        """Whether the run ended at this k, or came closer to it by 0.01 or more over its second half.

        The limit k = 1 is never reached, because little loss is left to gain near it. There k must be 0.9 or more, not falling.
        """
        if k == 1:
            return self.k >= max(NEAR_ONE, self.half)
        return abs(self.k - k) <= tolerance or abs(self.half - k) - abs(self.k - k) >= MOVES


def read_end(folder: Path, captured: bool = False) -> Ended:
    """How the run in a folder ended; `captured` also counts data directions, and needs a `LowRankLinear`."""
    lines = read_metrics(folder / "metrics.jsonl")
    last = lines[-max(1, len(lines) // 10) :]
    loss = float(np.mean([line["loss"] for line in last]))
    return Ended(lines[-1]["k"], lines[(len(lines) - 1) // 2]["k"], loss, data_captured(folder) if captured else float("nan"))


def data_captured(folder: Path) -> float:
    """tr Vᵀ Π V: the number of data dimensions within the subspace of the output."""
    run = load_run(folder, calibrated=False)
    network = run.model.network
    assert isinstance(network, LowRankLinear)
    basis = torch.linalg.qr(network.span.detach().cpu().double())[0]
    data = principal_directions(run.dataset().part("train")[0], energy=1.0).cpu().double()
    return float((basis.T @ data).square().sum())
