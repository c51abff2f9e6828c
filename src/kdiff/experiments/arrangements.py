"""Which arrangement of `kdiff.theory.capacity` a trained low-rank network has settled on, read from its weights and its run.

The output lies in the span of P. With Π the projection onto it and V the data's directions, tr Vᵀ Π V says how many dimensions
of the data it holds: q of the theory, a whole number in each arrangement.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from kdiff.data import principal_directions
from kdiff.networks import LowRankLinear
from kdiff.theory import Arrangement, rank_limited
from kdiff.training.metrics import read_metrics
from kdiff.training.run import load_run


@dataclass(frozen=True)
class Room:
    """A rank-limited network on Gaussian data: D, the variances of the data's directions, and R."""

    D: int
    variances: Sequence[float]
    rank: int

    @property
    def strengths(self) -> np.ndarray:
        """Standard deviations of all D directions, descending."""
        full = np.concatenate([np.asarray(self.variances, dtype=float), np.zeros(self.D - len(self.variances))])
        return np.sqrt(np.sort(full)[::-1])

    def stable(self) -> list[Arrangement]:
        """The stable arrangements, by how many data directions they capture."""
        return sorted((one for one in rank_limited(self.strengths**2, self.rank) if one.stable), key=self.captured)

    def left_out(self, arrangement: Arrangement) -> np.ndarray:
        """Strengths of the D − R directions that it leaves out."""
        return self.strengths[arrangement.strongest : self.D - self.rank + arrangement.strongest]

    def captured(self, arrangement: Arrangement) -> int:
        """How many data directions it captures."""
        return len(self.variances) - int((self.left_out(arrangement) > 0).sum())

    def loss(self, arrangement: Arrangement, k: float) -> float:
        """r L + (D − R)/r + (π/2) Σ_captured x, per dimension: what it costs at any k, its own best or not."""
        out, r = self.left_out(arrangement), k / (1 - k)
        floor = np.pi / 2 * (self.strengths.sum() - out.sum())
        return float(r * out @ out + (self.D - self.rank) / r + floor) / self.D


MOVES, NEAR_ONE = 0.01, 0.9


@dataclass(frozen=True)
class Ended:
    """How a run ended: k then and half-way, the mean loss over the last tenth, and the data directions captured."""

    k: float
    half: float
    loss: float
    captured: float = float("nan")

    def at_rest(self, k: float, tolerance: float) -> bool:
        """Whether k is there, or came nearer to it by 0.01 or more over the second half of the run.

        The limit k = 1, which the last bit of loss to be had lies in, is never reached: k from 0.9 that does not fall.
        """
        if k == 1:
            return self.k >= max(NEAR_ONE, self.half)
        return abs(self.k - k) <= tolerance or abs(self.half - k) - abs(self.k - k) >= MOVES


def read_end(folder: Path, captured: bool = False) -> Ended:
    """From a run folder; `captured` for a `LowRankLinear`."""
    lines = read_metrics(folder / "metrics.jsonl")
    last = lines[-max(1, len(lines) // 10) :]
    loss = float(np.mean([line["loss"] for line in last]))
    return Ended(lines[-1]["k"], lines[(len(lines) - 1) // 2]["k"], loss, data_captured(folder) if captured else float("nan"))


def data_captured(folder: Path) -> float:
    """tr Vᵀ Π V: dimensions of the data within the output's subspace."""
    run = load_run(folder)
    network = run.model.network
    assert isinstance(network, LowRankLinear)
    basis = torch.linalg.qr(network.span.detach().cpu().double())[0]
    data = principal_directions(run.dataset().part("train")[0], energy=1.0).cpu().double()
    return float((basis.T @ data).square().sum())
