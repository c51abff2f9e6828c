"""How a linear network learns while k is fixed: errors along and across the data decay at different rates, as predicted.

A network û = W z starts from W = 0 and is trained with the u-loss by plain gradient descent, in one run for each k of a grid. A
step of rate η on the loss, averaged over D dimensions, advances the time τ of the theory by h = η/D
(`kdiff.theory.gradient_flow`). All k of a seed see the same batches. So W is affine in k, every logged loss is a parabola in k,
and the vertex of the parabola is the best k at this τ.

The trainer splits a loss into parts along and across the principal directions that hold 95 % of the variance. If there are up
to 16 equal variances, or if none is below 5 % of their sum, these are exactly the directions of the data. All cells are of this
kind.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import norm

from kdiff.claims.claim import Claim, Finding, Group, Outcome, Study, decided
from kdiff.claims.curves import NOTHING, SIDES, Array, Cell, interval, noise_of, rates, read
from kdiff.claims.panels import tidy
from kdiff.config.training import TrainConfig
from kdiff.report.drawing import new_figure, save_figure
from kdiff.studies.paired import Verdict
from kdiff.studies.tables import counted_seeds, markdown

RATE_TOLERANCE = 0.02  # relative to the predicted rate
LEVEL = 0.05  # the level of a test over all comparisons of a finding
WINDOW = 0.04  # τ between two lines of metrics
JIT = "logit_normal(mean=-0.8, std=0.8, stratified=True)"
UNIFORM = "uniform(stratified=True)"
# By name: D, variances of the data directions, law of t, whether the cell is in the quick form.
CELLS: dict[str, tuple[int, list[float], str, bool]] = {
    "D = 16, d = 8": (16, [1.0] * 8, UNIFORM, True),
    "D = 32, d = 16": (32, [1.0] * 16, UNIFORM, False),
    "D = 48, d = 12": (48, [1.0] * 12, UNIFORM, False),
    "D = 20, d = 2": (20, [1.0] * 2, UNIFORM, False),
    "variances 4, 2, 1, ½, D = 16": (16, [4.0, 2.0, 1.0, 0.5], UNIFORM, True),
    "variances 2, 2, ¼, ¼, D = 24": (24, [2.0, 2.0, 0.25, 0.25], UNIFORM, False),
    "D = 24, d = 4, JiT's times": (24, [1.0] * 4, JIT, False),
}


def flat(name: str) -> bool:
    """Whether a cell has whitened data and uniform times, as in the paper. Only such a cell has one rate along the data."""
    _, variances, law, _ = CELLS[name]
    return len(set(variances)) == 1 and law == UNIFORM


def step_of_time(full: bool) -> float:
    """h, the τ of one step: so small that Euler's steps follow the flow."""
    return 0.002 if full else 0.004


def plan(full: bool) -> list[Group]:
    """Every cell with a grid of fixed k, up to τ = 4 (quick: 3.2)."""
    h, end = step_of_time(full), 4.0 if full else 3.2
    descent: dict[str, Any] = {"optimizer": "sgd", "steps": round(end / h), "batch_size": 2048, "warmup": 0, "clip": 0.0}
    linear: dict[str, Any] = {"network": "Linear", "loss_space": "u", "ema": [0.0], "log_every": round(WINDOW / h)}
    cells = {}
    for name, (D, variances, law, quick) in CELLS.items():
        data = f"gaussian(ambient_dim={D}, intrinsic_dim={len(variances)}, variance={variances}, num_samples=30000)"
        if full or quick:
            cells[name] = TrainConfig(data=data, timesteps=law, learning_rate=h * D, **linear, **descent)
    ks = [round(i / 10, 1) for i in range(11)] if full else [0.0, 0.25, 0.5, 0.75, 1.0]
    return [Group(cells, list(ks), range(3))]


def surprises(cell: Cell) -> Array:
    """(measured − predicted)/standard error at every point of every curve; the measured value is the mean over seeds."""
    found = []
    for side in SIDES:
        expected = cell.expected[side]
        curves = expected.min(1) > NOTHING
        off = cell.losses[side].mean(0)[curves] / expected[curves] - 1
        found.append((off / noise_of(off)).ravel())
    return np.concatenate(found)


def rise(cell: Cell) -> list[float]:
    """By seed, how far the best k is above its end: the mean over all τ where the theory predicts half its rise or more."""
    above = cell.theory - cell.rule
    return (cell.best - cell.rule)[:, above >= above.max() / 2].mean(1).tolist()


def examine(study: Study) -> Outcome:
    """Rates, curves and the best k, compared with the closed forms."""
    cells = [read(study, name) for name in study.cells]
    paper, others = [cell for cell in cells if flat(cell.name)], [cell for cell in cells if not flat(cell.name)]
    fitted = {cell.name: {side: rates(cell, side) for side in SIDES} for cell in paper}
    lines = []
    for cell in cells:
        figures = ["no single rate"] * len(SIDES)
        if cell.name in fitted:
            found = [(fitted[cell.name][side], cell.rates[side]) for side in SIDES]
            figures = [f"{statistics.mean(values):.3f} ± {interval(values):.1g} ({rate:.3f})" for values, rate in found]
        peak, best, z = int(cell.theory.argmax()), cell.best.mean(0), surprises(cell)
        figures += [f"{np.sqrt(np.mean(z**2)):.2f}, {np.abs(z).max():.1f} of {len(z)}", f"{best[0]:.3f} ({cell.theory[0]:.3f})"]
        figures += [f"{best[i]:.3f} ({cell.theory[i]:.3f}) at {cell.tau[i]:.2f}" for i in (peak, -1)]
        lines.append([cell.name, *figures, f"{cell.rule:.3f}"])
    header = [
        "data",
        "rate along",
        "rate across",
        "standard errors off the closed form: root mean square, largest of all points",
    ]
    header += ["best k at the start", "best k where it is highest", "best k at the end", "best k for τ → ∞"]
    findings = [
        _rates(paper, fitted),
        _curves("on whitened data the losses along and across the data follow the closed forms, for every k", paper),
        _curves("the losses follow the closed forms on other spectra and under another law of t too", others),
        _best("the k with the lowest loss at each τ follows k*(τ)", cells),
        _above([cell for cell in cells if cell.rule < 1 and CELLS[cell.name][2] == UNIFORM]),
    ]
    seeds = counted_seeds(len({job.config.seed for job in study.jobs}))
    notes = [
        f"predictions are in brackets; ± is half a 95 % interval over {seeds}",
        "sampling error is estimated for each quarter of a curve since a first quick run, in which it varied along the curve "
        "(farthest best k: 3.6 standard errors, bound 3.6)",
        f"a step advances τ by {step_of_time(study.full)}; losses are parabolas in k to {max(c.bend for c in cells):.0e}",
    ]
    return Outcome(findings, markdown(header, lines), notes)


def _rates(cells: Sequence[Cell], fitted: dict[str, dict[str, list[float]]]) -> Finding:
    parts, verdicts = [], []
    for cell in cells:
        low_high = {}
        for side, predicted in cell.rates.items():
            values = fitted[cell.name][side]
            mean, half, margin = statistics.mean(values), interval(values), RATE_TOLERANCE * predicted
            low_high[side] = (mean - half, mean + half)
            parts.append(f"{mean:.3f} ± {half:.1g} ({predicted:.3f}) {side}, {cell.name}")
            verdicts.append(decided(abs(mean - predicted) <= margin, abs(mean - predicted) > margin + half))
        (low, high), (lowest, highest) = low_high["along"], low_high["across"]
        verdicts.append(decided(low > highest, high < lowest))
    statement = "on whitened data errors along the data decay at rate 8/3 and errors across them at 4/3, within 2 %"
    return Finding(f"{statement} (along: 4(1 + λ)/3 with the λ of the samples)", _worst(verdicts), "; ".join(parts))


def _worst(verdicts: Sequence[str]) -> Verdict:
    return decided(set(verdicts) == {"confirmed"}, "refuted" in verdicts)


def _bound(comparisons: int) -> float:
    """The bound that the largest of so many standard normal numbers exceeds with 5 % probability at most (Bonferroni)."""
    return float(norm.ppf(1 - LEVEL / 2 / comparisons))


def _curves(statement: str, cells: Sequence[Cell]) -> Finding:
    """Whether all points of all curves differ from the closed forms by no more than sampling error."""
    z = np.concatenate([surprises(cell) for cell in cells])
    bound, most = _bound(len(z)), float(np.abs(z).max())
    off = {
        side: max(float(np.abs(c.losses[side].mean(0) - c.expected[side]).max() / c.expected[side].max()) for c in cells)
        for side in SIDES
    }
    evidence = (
        f"of {len(z)} points ({len(cells)} cells) the farthest is {most:.1f} standard errors off (bound {bound:.1f}), root "
        f"mean square {np.sqrt(np.mean(z**2)):.2f}; the largest difference is {100 * off['along']:.1f} % of the loss along and "
        f"{100 * off['across']:.1f} % of the loss across"
    )
    return Finding(statement, "confirmed" if most <= bound else "refuted", evidence)


def _best(statement: str, cells: Sequence[Cell]) -> Finding:
    """Whether the vertex of the parabola in k differs from k*(τ) by no more than sampling error, at every line."""
    z, off = [], 0.0
    for cell in cells:
        difference = cell.best.mean(0) - cell.theory
        off = max(off, float(np.abs(difference).max()))
        z.append(difference / noise_of(difference))
    most, count = float(np.abs(np.concatenate(z)).max()), sum(map(len, z))
    bound = _bound(count)
    evidence = f"{count} τ in {len(cells)} cells: at most {off:.4f} and {most:.1f} standard errors off (bound {bound:.1f})"
    return Finding(statement, "confirmed" if most <= bound else "refuted", evidence)


def _above(cells: Sequence[Cell]) -> Finding:
    """Whether the best k is above the rule in between, by the interval over seeds, and back at the end."""
    parts, verdicts = [], []
    for cell in cells:
        values = rise(cell)
        mean, half, back = statistics.mean(values), interval(values), float(cell.best[:, -5:].mean() - cell.rule)
        verdicts.append(decided(mean > half and back < mean / 2, mean + half < 0))
        parts.append(f"{mean:+.4f} ± {half:.1g}, at the end {back:+.4f} ({cell.name})")
    statement = "in between, the best k lies above D/(D + tr Σ) (D/(D + d) on whitened data), and returns to it (uniform times)"
    return Finding(statement, _worst(verdicts), "height over the upper half of the predicted rise: " + "; ".join(parts))


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """The remaining errors along and across over τ, and the best k."""
    cells = [read(study, name) for name in study.cells]
    left, right = (figure := new_figure(10, 4.2)).subplots(1, 2)
    cell = cells[0]
    for side, k, colour in (("along", -1, "#c44e52"), ("across", 0, "#4c72b0")):
        start, floor = cell.excess[side][k], cell.expected[side][k] - cell.excess[side][k]
        scale = start[0] / math.exp(-cell.rates[side] * cell.tau[0])
        seen = start / scale > 0.005  # below this, only sampling error is left
        measured = (cell.losses[side][:, k] - floor).mean(0) / scale
        left.plot(cell.tau[seen], measured[seen], ".", color=colour, markersize=4, label=side)
        left.plot(cell.tau, start / scale, color=colour, linewidth=1, alpha=0.7)
    left.set(yscale="log", ylim=(2e-3, 1.3), xlim=(0, None), xlabel="τ", ylabel="remaining share of the error")
    tidy(left, f"{cell.name}: dots measured, lines exp(−8τ/3), exp(−4τ/3)", fontsize=8)
    for cell, colour in zip(cells, ("#c44e52", "#4c72b0", "#55a868", "#dd8452", "#8172b3", "#937860", "#7f7f7f")):
        right.axhline(cell.rule, color=colour, linewidth=0.8, linestyle=":")
        right.plot(cell.tau, cell.theory, color=colour, linewidth=1, alpha=0.7)
        right.plot(cell.tau, cell.best.mean(0), ".", color=colour, markersize=4, label=cell.name)
    right.set(xlabel="τ", ylabel="k with the lowest loss")
    tidy(right, "Best k: dots measured, lines k*(τ), dotted its end", fontsize=7)
    save_figure(figure, path)


CLAIM = Claim(
    name="dynamics",
    title="do errors along and across the data decay at different rates, and does the best k move with them?",
    says="A linear network loses its error along the data as exp(−8τ/3) and its error across the data as exp(−4τ/3) (variance "
    "1, u-loss, uniform times). So no fixed k is best throughout training: in between, the best k, k*(τ), is above D/(D + d).",
    varied="A grid of fixed k; D and d of whitened data; then other spectra and another law of t. Three seeds; all k see the "
    "same batches. Training is by plain gradient descent, where a step of rate η advances τ by η/D.",
    measured="The loss along and across the data over τ, the rates fitted to it, and the k with the lowest loss at each τ, "
    "compared with kdiff.theory.modes and k_over_training for the spectrum of the samples.",
    refuted_if="a fitted rate differs from the predicted one by more than 2 % plus half its 95 % interval, or the two rates "
    "are not distinguishable; or a point of a curve or of the best k is farther from the closed form than sampling error "
    "explains (at 5 %, with Bonferroni's correction and the error estimated from neighbouring points); or the best k is not "
    "above D/(D + tr Σ) in between.",
    core_hours=(0.03, 0.4),
    plan=plan,
    examine=examine,
    draw=draw,
)
