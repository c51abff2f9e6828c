"""How a linear network learns while k is held: errors along and across the data decay at different rates, as predicted.

Networks û = W z from W = 0 under the u-loss, plain gradient descent, one run for each of a grid of fixed k. A step of rate η
on the loss averaged over D dimensions passes h = η/D of the theory's time τ (`kdiff.theory.dynamics`). All k of a seed see the
same batches, so W is affine in k and every logged loss a parabola in k: its vertex is the best k at that τ.

The trainer splits a loss along and across the principal directions that hold 95 % of the variance. With up to 16 equal
variances, or none below 5 % of their sum, these are exactly the directions of the data; the cells are chosen so.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy.stats import norm

from kdiff.experiments.claim import Claim, Finding, Group, Outcome, Study, Verdict, counted_seeds, markdown
from kdiff.experiments.curves import NOTHING, SIDES, Array, Cell, interval, noise_of, rates, read
from kdiff.report.samples import INK, new_figure, save_figure
from kdiff.training.config import TrainConfig

RATE_TOLERANCE = 0.02  # of the predicted rate
LEVEL = 0.05  # over all comparisons of a finding
WINDOW = 0.04  # of τ, between lines of metrics
JIT = "logit_normal(mean=-0.8, std=0.8, stratified=True)"
UNIFORM = "uniform(stratified=True)"
# Name: D, variances of the data directions, law of t; in the quick form or not.
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
    """Whether a cell is the paper's: whitened data, uniform times. Only such a cell has one rate along the data."""
    _, variances, law, _ = CELLS[name]
    return len(set(variances)) == 1 and law == UNIFORM


def step_of_time(full: bool) -> float:
    """h: τ passed by one step, small enough for Euler's steps to follow the flow."""
    return 0.002 if full else 0.004


def plan(full: bool) -> list[Group]:
    """Every cell with a grid of fixed k, up to τ = 4 (quick: 3.2)."""
    h, end = step_of_time(full), 4.0 if full else 3.2
    cells = {
        name: TrainConfig(
            data=f"gaussian(ambient_dim={D}, intrinsic_dim={len(variances)}, variance={variances}, num_samples=30000)",
            network="Linear",
            timesteps=law,
            loss_space="u",
            optimizer="sgd",
            learning_rate=h * D,
            steps=round(end / h),
            batch_size=2048,
            warmup=0,
            clip=0.0,
            ema=[0.0],
            log_every=round(WINDOW / h),
        )
        for name, (D, variances, law, quick) in CELLS.items()
        if full or quick
    }
    ks = [round(i / 10, 1) for i in range(11)] if full else [0.0, 0.25, 0.5, 0.75, 1.0]
    return [Group(cells, list(ks), range(3))]


def surprises(cell: Cell) -> Array:
    """(measured − predicted)/standard error of every point of every curve, measured being the mean over seeds."""
    found = []
    for side in SIDES:
        expected = cell.expected[side]
        curves = expected.min(1) > NOTHING
        off = cell.losses[side].mean(0)[curves] / expected[curves] - 1
        found.append((off / noise_of(off)).ravel())
    return np.concatenate(found)


def rise(cell: Cell) -> list[float]:
    """Of each seed: how far the best k is above where it ends, while theory has it at half its rise or more."""
    above = cell.theory - cell.rule
    return (cell.best - cell.rule)[:, above >= above.max() / 2].mean(1).tolist()


def examine(study: Study) -> Outcome:
    """Rates, curves and the best k, beside the closed forms."""
    cells = [read(study, name) for name in dict.fromkeys(job.cell for job in study.jobs)]
    paper, others = [cell for cell in cells if flat(cell.name)], [cell for cell in cells if not flat(cell.name)]
    fitted = {cell.name: {side: rates(cell, side) for side in SIDES} for cell in paper}
    lines = []
    for cell in cells:
        figures = [
            f"{statistics.mean(fitted[cell.name][side]):.3f} ± {interval(fitted[cell.name][side]):.1g} ({cell.rates[side]:.3f})"
            if cell.name in fitted
            else "no single rate"
            for side in SIDES
        ]
        peak, best = int(cell.theory.argmax()), cell.best.mean(0)
        z = surprises(cell)
        figures += [f"{np.sqrt(np.mean(z**2)):.2f}, {np.abs(z).max():.1f} of {len(z)}", f"{best[0]:.3f} ({cell.theory[0]:.3f})"]
        figures += [f"{best[i]:.3f} ({cell.theory[i]:.3f}) at {cell.tau[i]:.2f}" for i in (peak, -1)]
        lines.append([cell.name, *figures, f"{cell.rule:.3f}"])
    header = ["data", "rate along", "rate across", "off the closed form: rms, most (in standard errors)"]
    header += ["best k at the start", "where it is highest", "at the end", "τ → ∞"]
    seeds = len({job.config.seed for job in study.jobs})
    return Outcome(
        [
            _rates(paper, fitted),
            _curves("loss along and across the data follow the closed forms on whitened data, for every k", paper),
            _curves("and on other spectra and another law of t", others),
            _best("the k with the lowest loss at each τ follows k*(τ)", cells),
            _above([cell for cell in cells if cell.rule < 1 and CELLS[cell.name][2] == UNIFORM]),
        ],
        markdown(header, lines),
        [
            f"predictions in brackets; ± is half a 95 % interval over {counted_seeds(seeds)}",
            "sampling error is taken by quarters of a curve since a first quick run, where it varied (farthest best k: 3.6 "
            "standard errors, bound 3.6)",
            f"a step passes {step_of_time(study.full)} of τ; losses are parabolas in k to {max(c.bend for c in cells):.0e}",
        ],
    )


def _rates(cells: Sequence[Cell], fitted: dict[str, dict[str, list[float]]]) -> Finding:
    parts, verdicts = [], []
    for cell in cells:
        low_high = {}
        for side, predicted in cell.rates.items():
            values = fitted[cell.name][side]
            mean, half, margin = statistics.mean(values), interval(values), RATE_TOLERANCE * predicted
            low_high[side] = (mean - half, mean + half)
            parts.append(f"{mean:.3f} ± {half:.1g} ({predicted:.3f}) {side}, {cell.name}")
            verdicts.append("confirmed" if abs(mean - predicted) <= margin else "inconclusive")
            if abs(mean - predicted) > margin + half:
                verdicts.append("refuted")
        if low_high["along"][0] <= low_high["across"][1]:
            verdicts.append("refuted" if low_high["along"][1] < low_high["across"][0] else "inconclusive")
    statement = (
        "on whitened data errors along decay at 8/3 and errors across at 4/3, within 2 % (4(1 + λ)/3 for the samples' λ)"
    )
    return Finding(statement, _worst(verdicts), "; ".join(parts))


def _worst(verdicts: Sequence[str]) -> Verdict:
    order: tuple[Verdict, ...] = ("refuted", "inconclusive", "confirmed")
    return next(verdict for verdict in order if verdict in verdicts)


def _bound(comparisons: int) -> float:
    """The largest of so many standard normal numbers, at 5 % (Bonferroni)."""
    return float(norm.ppf(1 - LEVEL / 2 / comparisons))


def _curves(statement: str, cells: Sequence[Cell]) -> Finding:
    """All points of all curves, against sampling error."""
    z = np.concatenate([surprises(cell) for cell in cells])
    bound, most = _bound(len(z)), float(np.abs(z).max())
    off = {
        side: max(float(np.abs(c.losses[side].mean(0) - c.expected[side]).max() / c.expected[side].max()) for c in cells)
        for side in SIDES
    }
    evidence = (
        f"of {len(z)} points ({len(cells)} cells) the farthest is {most:.1f} standard errors off (bound {bound:.1f}), rms "
        f"{np.sqrt(np.mean(z**2)):.2f}; at most {100 * off['along']:.1f} % of the loss along, "
        f"{100 * off['across']:.1f} % of that across"
    )
    return Finding(statement, "confirmed" if most <= bound else "refuted", evidence)


def _best(statement: str, cells: Sequence[Cell]) -> Finding:
    """The vertex of the parabola in k at every line, against sampling error."""
    z, off = [], 0.0
    for cell in cells:
        difference = cell.best.mean(0) - cell.theory
        off = max(off, float(np.abs(difference).max()))
        z.append(difference / noise_of(difference))
    most, count = float(np.abs(np.concatenate(z)).max()), sum(map(len, z))
    evidence = (
        f"{count} times in {len(cells)} cells: at most {off:.4f} and {most:.1f} standard errors off (bound {_bound(count):.1f})"
    )
    return Finding(statement, "confirmed" if most <= _bound(count) else "refuted", evidence)


def _above(cells: Sequence[Cell]) -> Finding:
    """Above the rule in between by the interval over seeds, and back at the end."""
    parts, verdicts = [], []
    for cell in cells:
        values = rise(cell)
        mean, half, back = statistics.mean(values), interval(values), float(cell.best[:, -5:].mean() - cell.rule)
        verdicts.append("confirmed" if mean > half and back < mean / 2 else "refuted" if mean + half < 0 else "inconclusive")
        parts.append(f"{mean:+.4f} ± {half:.1g}, at the end {back:+.4f} ({cell.name})")
    statement = "in between the best k lies above D/(D + tr Σ), D/(D + d) on whitened data, and returns to it (uniform times)"
    return Finding(statement, _worst(verdicts), "over the upper half of the predicted rise: " + "; ".join(parts))


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """What is left of the errors along and across over τ, and the best k."""
    cells = [read(study, name) for name in dict.fromkeys(job.cell for job in study.jobs)]
    figure = new_figure(10, 4.2)
    left, right = figure.subplots(1, 2)
    cell = cells[0]
    for side, k, colour in (("along", -1, "#c44e52"), ("across", 0, "#4c72b0")):
        start, floor = cell.excess[side][k], cell.expected[side][k] - cell.excess[side][k]
        scale = start[0] / math.exp(-cell.rates[side] * cell.tau[0])
        seen = start / scale > 0.005  # below, sampling error is all there is
        measured = (cell.losses[side][:, k] - floor).mean(0) / scale
        left.plot(cell.tau[seen], measured[seen], ".", color=colour, markersize=4, label=side)
        left.plot(cell.tau, start / scale, color=colour, linewidth=1, alpha=0.7)
    left.set(yscale="log", ylim=(2e-3, 1.3), xlim=(0, None), xlabel="τ", ylabel="share of the error that is left")
    left.set_title(f"{cell.name}: dots measured, lines exp(−8τ/3), exp(−4τ/3)", fontsize=9, color=INK)
    left.legend(frameon=False, fontsize=8)
    for cell, colour in zip(cells, ("#c44e52", "#4c72b0", "#55a868", "#dd8452", "#8172b3", "#937860", "#7f7f7f")):
        right.axhline(cell.rule, color=colour, linewidth=0.8, linestyle=":")
        right.plot(cell.tau, cell.theory, color=colour, linewidth=1, alpha=0.7)
        right.plot(cell.tau, cell.best.mean(0), ".", color=colour, markersize=4, label=cell.name)
    right.set(xlabel="τ", ylabel="k with the lowest loss")
    right.set_title("Best k: dots measured, lines k*(τ), dotted its end", fontsize=9, color=INK)
    right.legend(frameon=False, fontsize=7)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


CLAIM = Claim(
    name="dynamics",
    title="errors along and across the data decay at different rates, and the best k moves with them",
    says="A linear network loses its error along the data as exp(−8τ/3) and across them as exp(−4τ/3) (variance 1, u-loss, "
    "uniform times), so that no fixed k is best throughout: k*(τ) is above D/(D + d) in between.",
    varied="a grid of fixed k; D and d of whitened data; then other spectra, and another law of t. Three seeds, the same "
    "batches for all k. Plain gradient descent, a step of rate η passing τ = η/D.",
    measured="the loss along and across the data over τ, the rates fitted to it, and the k with the lowest loss at each τ, "
    "beside kdiff.theory.modes and k_over_training of the samples' own spectrum.",
    refuted_if="a fitted rate is off the predicted by more than 2 % and half its 95 % interval, or the two are not apart; or "
    "a point of a curve or of the best k is farther from the closed form than sampling error explains (5 %, Bonferroni, "
    "error from neighbouring points); or the best k is not above D/(D + tr Σ) in between.",
    core_hours=(0.03, 0.4),
    plan=plan,
    examine=examine,
    draw=draw,
)
