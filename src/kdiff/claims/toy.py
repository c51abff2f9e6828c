"""The paper's first experiment: 2-D data in D dimensions, an MLP, and a k that should move to data prediction as D grows.

"Train small MLP on 2-D data embedded in 100-D space; verify learned k shifts toward x-prediction as predicted by D/(D+d)."

The data are whitened in their plane, so d = tr Σ = 2, and the linear theory for a loss on u predicts D/(D + 2). k-Diff trains
with a loss on v; for this loss the theory predicts √D/(√D + √2) at the start of training and nearly 1 at its end. Learned k is
compared with all of these.

Samples are judged by one number. For data in a plane, the squared 2-Wasserstein distance between data and samples has two
parts: that of the projections onto the plane, and the mean square of the samples' distances off the plane. The sliced distance
SW, one for each dimension, gives half of the first:

    distance = √(2 SW² + off²).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdiff.claims.claim import Claim, Finding, Group, Outcome, Study, decided
from kdiff.claims.evidence import FACTOR, last_move, learned_k, moves_one_way, nearest, precise, spread, still_moving, within
from kdiff.claims.panels import doubling
from kdiff.config.training import TrainConfig
from kdiff.report.drawing import INK, new_figure, panel, plain, save_figure, view_of
from kdiff.run.run import load_run
from kdiff.studies.comparison import summarise
from kdiff.studies.paired import as_good, intervals, log_ratios, over_best
from kdiff.studies.tables import markdown, with_spread
from kdiff.theory import optimal_k, whitened

NAMED = ("noise", "velocity", "data")
Distances = dict[str, dict[str, dict[int, float]]]  # by cell, target and seed
COLOURS = dict(zip((*NAMED, "learned"), ("#c44e52", "#dd8452", "#4c72b0", "#55a868")))
RULE = "D/(D + 2)"
TICKS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
SHOWN = 1000  # samples in the picture
FAILED = 10  # a distance of more than this many times that of the best target is a failure
NOTE = (
    "One network serves all D, an MLP of 4 × 256. Where D is above 256, its width is a bottleneck. Noise and velocity "
    "prediction must pass the noise through it, which is not possible without loss; data prediction need not pass the noise."
)


def sizes(full: bool) -> tuple[list[str], list[int]]:
    """The data sets and the ambient dimensions D."""
    return (["spiral", "moons", "gaussian_mixture"], [2, 8, 32, 128, 512]) if full else (["spiral"], [2, 32, 128])


def cell(data: str, D: int) -> str:
    """The name of a cell."""
    return f"{data}, D = {D}"


def plan(full: bool) -> list[Group]:
    """Every data set in every D with every target, by the default MLP and its settings."""
    num = 10000 if full else 3000
    cells = {
        cell(data, D): TrainConfig(
            data=f"{data}(ambient_dim={D}, num_samples={num})",
            network="MLP(width=256, depth=4)",
            steps=8000 if full else 1000,
            ema=[0.999 if full else 0.99],
        )
        for data, D in itertools.product(*sizes(full))
    }
    # As many samples as there are held-out data, so that the distance of held-out data is the floor of theirs.
    return [Group(cells, [*NAMED, "learned"], range(3 if full else 2), num_samples=2000 if full else 600, exact=True)]


def predictions(D: int) -> dict[str, float]:
    """k by each theory, for data that are whitened in a plane."""
    return {
        RULE: float(optimal_k(whitened(D, 2))),
        "√D/(√D + √2)": float(optimal_k(whitened(D, 2), space="v", at="initialisation")),
        "v-loss at the end": float(optimal_k(whitened(D, 2), space="v", clamp=0.05)),
    }


def distances(study: Study) -> Distances:
    """√(2 SW² + off²) of every run, with a clean last step."""
    weights = {"sliced_wasserstein": 2, "off_manifold": 1}
    found: Distances = {}
    for row in study.rows:
        if row["sampler"] == "clean" and row["measure"] in weights:
            runs = found.setdefault(row["cell"], {}).setdefault(row["target"], {})
            runs[row["seed"]] = math.hypot(runs.get(row["seed"], 0.0), weights[row["measure"]] ** 0.5 * row["value"])
    return found


def best(found: Mapping[str, Mapping[int, float]], targets: Sequence[str]) -> str:
    """The target with the lowest mean distance in a cell."""
    return min(targets, key=lambda target: statistics.mean(found[target].values()))


def ratios(found: Mapping[str, Mapping[int, float]], target: str, other: str) -> list[float]:
    """The logarithm of one target's distance divided by another's, seed by seed."""
    return log_ratios(list(found[target].values()), [found[other][seed] for seed in found[target]])


def examine(study: Study) -> Outcome:
    """Learned k as a function of D, its predictions, and the quality of the four targets."""
    (names, dims), found = sizes(study.full), distances(study)
    ks = {cell(data, D): learned_k(study, cell(data, D)) for data in names for D in dims}
    predicted = {cell(data, D): predictions(D) for data in names for D in dims}
    rule = {name: each[RULE] for name, each in predicted.items()}
    by_data, moving = {data: [ks[cell(data, D)] for D in dims] for data in names}, still_moving(study, ks)
    close = f"the d that learned k implies by k = D/(D + d) is 2, within a factor of {FACTOR}"
    findings = [
        moves_one_way("learned k rises at every step of D, for every data set", by_data, up=True, may_refute=study.full),
        within(close, ks, rule, may_refute=study.full, moving=moving),
        nearest("D/(D + 2) is closer to learned k than the other predictions", ks, predicted, RULE, study.full, moving),
        _as_good(found, study.full),
        _better_than_velocity({cell(data, D): found[cell(data, D)] for data in names for D in dims if D >= 32}, study.full),
        _noise_fails([found[cell(data, D)] for data in names for D in dims if D >= 128]),
    ]
    most = max(ks, key=lambda name: abs(last_move(study, name)))
    rest = f"In the last quarter of the steps k moved by up to {last_move(study, most):+.4f} ({most})."
    return Outcome(findings, f"{_k_table(study)}\n\n{_quality_table(study)}", [NOTE, rest])


def _as_good(found: Distances, full: bool) -> Finding:
    """Learned k against the best of the three in all cells, and in all cells of one D: three seeds of a cell say little."""
    over = {}
    for name, each in found.items():
        seeds = sorted(each["learned"])
        over[name] = over_best([each["learned"][s] for s in seeds], {one: [each[one][s] for s in seeds] for one in NAMED})
    verdict, text = as_good(over, sterner={name: ratios(each, "learned", best(each, NAMED)) for name, each in found.items()})
    sizes = dict.fromkeys(name.rpartition(" ")[2] for name in over)
    of_size = {D: {name: values for name, values in over.items() if name.endswith(f" {D}")} for D in sizes}
    by_size = {D: intervals(cells, len(sizes))[0] for D, cells in of_size.items()}
    pooled = "; ".join(f"D = {D}: {interval}" for D, interval in by_size.items())
    return Finding(
        "the samples of learned k are as good as those of the best of noise, velocity and data prediction (not 2 % farther "
        "from the data, with 95 % confidence, either in a cell or over all cells)",
        verdict if full or verdict == "confirmed" else "inconclusive",
        "distance to the data of learned k, divided by that of the best of the three (for every seed, the other seeds decide "
        f"which is the best): {text}; by D, over all data sets: {pooled}",
    )


def _better_than_velocity(found: Distances, full: bool) -> Finding:
    each = intervals({name: ratios(there, "learned", "velocity") for name, there in found.items()})[1].values()
    better, worse = sum(one.high < 0 for one in each), sum(one.low > 0 for one in each)
    means = [math.exp(one.mean) for one in each]
    return Finding(
        "where D is 32 or more, the samples of learned k are better than those of velocity prediction",
        decided(better == len(means), worse > 0 and full),
        f"significantly better in {better} of {len(means)} cells, significantly worse in {worse}; distance divided by that of "
        f"velocity prediction: {min(means):.2f} to {max(means):.2f}",
    )


def _noise_fails(cells: Sequence[Mapping[str, Mapping[int, float]]]) -> Finding:
    found = [[math.exp(value) for value in ratios(each, "noise", best(each, [*NAMED, "learned"]))] for each in cells]
    least = min(min(values) for values in found)
    return Finding(
        "where D is 128 or more, noise prediction fails: its samples are over ten times as far from the data as those of the "
        "best target",
        decided(least > FAILED, any(max(values) < FAILED for values in found)),
        f"at least {least:.3g} and at most {max(max(values) for values in found):.3g} times as far; {len(cells)} cells",
        decides=False,
    )


def _k_table(study: Study) -> str:
    lines = []
    for data, D in itertools.product(*sizes(study.full)):
        figures = [precise(learned_k(study, cell(data, D)).values(), 4), f"{last_move(study, cell(data, D)):+.4f}"]
        lines.append([data, str(D), *figures, *(f"{k:.4f}" for k in predictions(D).values())])
    return markdown(["data", "D", "learned k", "change of k in the last quarter", *predictions(2)], lines)


def _quality_table(study: Study) -> str:
    lines, found = [], distances(study)
    for name in (cell(data, D) for data, D in itertools.product(*sizes(study.full))):
        rows = [row for row in study.rows if row["cell"] == name]
        for target in (*NAMED, "learned"):
            line = [name, target, spread(found[name][target].values())]
            for measure in ("sliced_wasserstein", "off_manifold"):
                for sampler in ("paper", "clean"):
                    figure = summarise(rows, target, sampler, measure)
                    floor = "" if figure.exact is None else f" ({with_spread(figure.exact, math.nan)})"
                    line.append(with_spread(figure.mean, figure.std) + floor)
            lines.append(line)
        held = [summarise(rows, "learned", "clean", measure).heldout for measure in ("sliced_wasserstein", "off_manifold")]
        lines.append([name, "held-out data", with_spread(math.hypot(2**0.5 * held[0], held[1]), math.nan)])
        lines[-1] += ["", f"{held[0]:.3g}", "", f"{held[1]:.1g}"]
    where = [f"{what} the plane, {sampler} (floor)" for what in ("in", "off") for sampler in ("paper", "clean")]
    return markdown(["cell", "target", "distance √(2 in² + off²), clean", *where], lines)


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """k and distances as functions of D, and samples in the largest D."""
    names, dims = sizes(study.full)
    figure = new_figure(max(8.0, 2.7 * (len(names) + 1)), 5.6)
    grid = figure.add_gridspec(2, 1, height_ratios=[1.6, 1])
    top, bottom = grid[0].subgridspec(1, len(names) + 1), grid[1].subgridspec(1, 5)
    _draw_k(figure.add_subplot(top[0]), study)
    for i, data in enumerate(names, start=1):
        _draw_quality(figure.add_subplot(top[i]), study, data)
    _draw_samples(figure, bottom, study, names[0], dims[-1])
    save_figure(figure, path)


def _draw_k(axes: Any, study: Study) -> None:
    names, dims = sizes(study.full)
    for data, marker in zip(names, "oDs"):
        means = [statistics.mean(learned_k(study, cell(data, D)).values()) for D in dims]
        axes.plot(dims, means, f"{marker}-", color=COLOURS["learned"], markersize=5, mfc="white", label=data.replace("_", " "))
    for (label, style), prediction in zip([("D/(D+2)", "-"), ("√D/(√D+√2)", "--")], (RULE, "√D/(√D + √2)")):
        axes.plot(dims, [predictions(D)[prediction] for D in dims], style, color=INK, linewidth=1, label=label)
    axes.set_yscale("logit")
    axes.set_yticks(TICKS, [f"{k:g}" for k in TICKS])
    axes.set_ylim(0.4, 0.999)
    doubling(axes, "D", dims)
    plain(axes, "learned k (on a logit scale)", fontsize=7)


def _draw_quality(axes: Any, study: Study, data: str) -> None:
    dims, there = sizes(study.full)[1], distances(study)
    for target, colour in COLOURS.items():
        found = [list(there[cell(data, D)][target].values()) for D in dims]
        axes.plot(dims, [statistics.mean(values) for values in found], "-", color=colour, linewidth=1.2, label=target)
        for D, values in zip(dims, found):
            axes.plot([D] * len(values), values, ".", color=colour, markersize=4)
    axes.set_yscale("log")
    doubling(axes, "D", dims)
    plain(axes, f"{data.replace('_', ' ')}: distance", fontsize=7)


def _draw_samples(figure: Any, places: Any, study: Study, data: str, D: int) -> None:
    found = distances(study)[cell(data, D)]
    runs = {target: load_run(study.folder(cell(data, D), target, 0), calibrated=False) for target in COLOURS}
    dataset = runs["learned"].dataset()
    view = view_of(dataset.part("train")[0], dataset.manifold)
    shown = {f"held-out data, D = {D}": (dataset.part("heldout")[0][:SHOWN], INK)}
    for target, run in runs.items():
        shown[f"{target}, distance {statistics.mean(found[target].values()):.3g}"] = (run.sample(SHOWN)[0], COLOURS[target])
    for place, (title, (x, colour)) in zip(places, shown.items()):
        panel(figure, place, x, view, title, colour)


CLAIM = Claim(
    name="toy",
    title="2-D data in D dimensions: does learned k rise with D, and is it as good as the best fixed target?",
    says="On 2-D data embedded in D dimensions, the k that an MLP learns moves towards data prediction as D grows, as D/(D + "
    "d) predicts, and its samples are as good as those of the best fixed target.",
    varied="Data: a spiral, two moons and a Gaussian mixture, each in D = 2, 8, 32, 128 and 512. Targets: noise, velocity, "
    "data and learned prediction. Three seeds; one MLP (4 × 256) for all.",
    measured="k after training, compared with D/(D + 2) and with what the linear theory predicts for the loss on v. For "
    "samples: their sliced Wasserstein distance in the plane (in), their root-mean-square distance off it (off), and √(2 in² "
    "+ off²), which decides.",
    refuted_if="k falls from one D to the next (paired over seeds, at the 5 % level over all comparisons); or in one cell k "
    "is at rest and in no run the d that it implies, D (1 − k)/k, is within a factor of 1.25 of 2 (at rest: this d changes by "
    "less than a factor of 1.25 in the last quarter); or another prediction is closer to learned k on average over the cells "
    "at rest, in every seed, by k and by its logit (confirmed only if no other prediction is the closest in more of these "
    "cells); or learned k is significantly worse than the best of the three, in one cell or over all cells, or significantly "
    "worse than velocity where D ≥ 32. Not part of the claim: whether noise prediction is over ten times as far from the data "
    "as the best target where D ≥ 128.",
    core_hours=(0.07, 3.2),
    plan=plan,
    examine=examine,
    draw=draw,
)
