"""The losses of linear networks under a grid of fixed k: read from the runs, and predicted by `kdiff.theory.gradient_flow`.

A line of metrics holds the mean over the steps since the line before; the loss of a step is computed before the step changes
the weights. Predictions are means over the same times. The trainer splits a loss into the parts along and across the leading
principal directions that hold 95 % of the variance. The predictions use the split that was logged and the spectrum of the
samples that were trained on.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.stats import t as student_t

from kdiff.claims.claim import Study
from kdiff.claims.quality import training_samples
from kdiff.data import principal_directions
from kdiff.run.build import build
from kdiff.studies.predictions import second_moments
from kdiff.theory import k_over_training, modes

Array = np.ndarray[Any, np.dtype[np.float64]]
SIDES = ("along", "across")
NOTHING = 1e-9  # at k = 1 the loss across the data is 0


@lru_cache
def directions(data: str) -> int:
    """The number of principal directions that the trainer takes for those along the data."""
    return principal_directions(training_samples(data)[0]).shape[1]


@dataclass(frozen=True)
class Cell:
    """Measured and predicted losses, by seed (S), fixed k (K) and line of metrics (T). Losses are means over D dimensions.

    Attributes:
        name: the name of the cell.
        ks: (K,) the grid of k.
        tau: (T,) the mean τ at which the losses of a line were computed.
        losses: measured losses along and across the data, (S, K, T) each.
        expected: predicted losses, (K, T) each.
        excess: the part of `expected` that decays.
        best: (S, T) the k with the lowest loss, the vertex of the parabola in k.
        theory: (T,) k*(τ).
        rule: k* at τ → ∞: D/(D + tr Σ), or the value for another law of t.
        bend: the largest relative distance of a loss from the parabola.
        rates: predicted decay rates along (mean over directions) and across.
    """

    name: str
    ks: Array
    tau: Array
    losses: dict[str, Array]
    expected: dict[str, Array]
    excess: dict[str, Array]
    best: Array
    theory: Array
    rule: float
    bend: float
    rates: dict[str, float]


def read(study: Study, name: str) -> Cell:
    """The measured and the predicted curves of one cell."""
    config, runs = study.cells[name], study.runs(cell=name)
    ks, seeds = sorted({float(run["target"]) for run in runs}), sorted({run["seed"] for run in runs})
    target = {float(run["target"]): run["target"] for run in runs}
    lines = {(s, k): study.metrics(name, target[k], seed) for s, seed in enumerate(seeds) for k in ks}
    losses = {
        side: np.array([[[row[f"loss_{side}"] for row in lines[s, k]] for k in ks] for s in range(len(seeds))])
        for side in SIDES
    }
    spectrum, times = second_moments(str(config.data)), build("timesteps", config.timesteps)
    D, q = len(spectrum), directions(str(config.data))
    h = config.learning_rate / D
    # The loss of a step is computed before the step. Three times per line give the mean over its steps (Simpson's rule).
    ends = np.array([row["step"] for row in lines[0, ks[0]]])
    starts = np.concatenate([[0], ends[:-1]])
    tau, weights = np.stack([starts, (starts + ends - 1) / 2, ends - 1]) * h, np.array([1, 4, 1]) / 6
    at = {k: modes(tau.ravel(), k, spectrum, times=times) for k in ks}
    side = {"along": slice(0, q), "across": slice(q, D)}

    def means(what: str, part: slice) -> Array:
        each = [(getattr(at[k], what) * at[k].counts)[:, _columns(at[k].counts, part)].sum(1) for k in ks]
        return np.array([weights @ one.reshape(3, -1) for one in each]) / D

    total = losses["along"] + losses["across"]
    fits = np.array([np.polyfit(ks, seed, 2) for seed in total])
    smooth = np.stack([np.array([np.polyval(fit[:, w], ks) for w in range(len(ends))]).T for fit in fits])
    return Cell(
        name=name,
        ks=np.array(ks),
        tau=weights @ tau,
        losses=losses,
        expected={name: means("loss", part) for name, part in side.items()},
        excess={name: means("excess", part) for name, part in side.items()},
        best=-fits[:, 1] / (2 * fits[:, 0]),
        theory=weights @ k_over_training(tau, spectrum, times=times),
        rule=float(k_over_training(np.inf, spectrum, times=times)),
        bend=float((np.abs(smooth - total) / total).max()),
        rates={"along": 4 / 3 * (1 + spectrum[:q].mean()), "across": 4 / 3},
    )


def _columns(counts: Array, part: slice) -> Array:
    """Which of the distinct variances, in descending order, belong to these directions."""
    last = counts.cumsum()
    return (last > part.start) & (last <= part.stop)


def noise_of(differences: Array) -> Array:
    """The standard deviation of the noise in measured − predicted, (..., T), from neighbouring points.

    A smooth error does not add to it. It is that of the whole curve or that of the quarter in which a point lies, whichever is
    larger, because the noise falls with the loss.
    """
    steps = np.square(np.diff(differences, append=differences[..., -2:-1])) / 2
    quarters = [np.broadcast_to(part.mean(-1, keepdims=True), part.shape) for part in np.array_split(steps, 4, axis=-1)]
    return np.sqrt(np.maximum(np.concatenate(quarters, axis=-1), steps.mean(-1, keepdims=True)))


def fitted_rate(tau: Array, losses: Array) -> float:
    """The rate r of ℓ_k(τ) = L_k + A_k exp(−r τ), the same for all k (K, T), by least squares of the relative error."""

    def misfit(r: float) -> float:
        total = 0.0
        for curve in losses:
            basis = np.stack([np.ones_like(tau), np.exp(-r * tau)], 1) / curve[:, None]
            total += float(np.linalg.lstsq(basis, np.ones_like(tau), rcond=None)[1].sum())
        return total

    return float(minimize_scalar(misfit, bounds=(0.2, 8.0), method="bounded", options={"xatol": 1e-6}).x)


def rates(cell: Cell, side: str) -> list[float]:
    """The rate fitted to each seed."""
    used = cell.expected[side].min(1) > NOTHING
    return [fitted_rate(cell.tau, seed[used]) for seed in cell.losses[side]]


def interval(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the mean, by Student's t."""
    return float(student_t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
