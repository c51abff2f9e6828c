"""The paper's first experiment: 2-D data in D dimensions, an MLP, and k that should move to data prediction as D grows.

"Train small MLP on 2-D data embedded in 100-D space; verify learned k shifts toward x-prediction as predicted by D/(D+d)."

The data are whitened in their plane, so d = tr Σ = 2, and the linear theory predicts D/(D + 2) for a loss on u. k-Diff trains
with a loss on v, for which it says √D/(√D + √2) at the start and nearly 1 at convergence: all stand beside what was learned.

Data that lie in a plane have their squared 2-Wasserstein distance to samples split in two: that of the samples' projections,
and the mean square of their distances off the plane. With SW² for half of the first (a sliced distance is one per
dimension) the quality of samples is judged by one number,

    distance = √(2 SW² + off²).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdiff.experiments.claim import Claim, Finding, Group, Outcome, Study, Verdict, markdown
from kdiff.experiments.compare import deviation, summarise, with_spread
from kdiff.experiments.evidence import FACTOR, last_move, learned_k, moves_one_way, nearest, still_moving, within
from kdiff.experiments.paired import as_good, intervals, log_ratios, over_best
from kdiff.report.samples import INK, new_figure, save_figure, view_of
from kdiff.theory import optimal_k, whitened
from kdiff.training.config import TrainConfig
from kdiff.training.run import load_run

NAMED = ("noise", "velocity", "data")
Distances = dict[str, dict[str, dict[int, float]]]  # by cell, target and seed
COLOURS = dict(zip((*NAMED, "learned"), ("#c44e52", "#dd8452", "#4c72b0", "#55a868")))
RULE = "D/(D + 2)"
TICKS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
SHOWN = 1000  # samples in the picture
FAILED = 10  # times the best target's distance
NOTE = (
    "One network for all D: an MLP of 4 × 256. Where D is above 256 its width is a bottleneck, which noise and velocity "
    "prediction, that must pass the noise on, cannot do without loss, and data prediction need not."
)


def sizes(full: bool) -> tuple[list[str], list[int]]:
    """Data sets, and ambient dimensions."""
    return (["spiral", "moons", "gaussian_mixture"], [2, 8, 32, 128, 512]) if full else (["spiral"], [2, 32, 128])


def cell(data: str, D: int) -> str:
    """The name of a cell."""
    return f"{data}, D = {D}"


def plan(full: bool) -> list[Group]:
    """Every data set in every D with every target; the default MLP and its settings."""
    num = 10000 if full else 3000
    cells = {
        cell(data, D): TrainConfig(
            data=f"{data}(ambient_dim={D}, num_samples={num})",
            network="MLP(width=256, depth=4)",
            steps=8000 if full else 1000,
            ema=[0.999 if full else 0.99],
        )
        for data in sizes(full)[0]
        for D in sizes(full)[1]
    }
    # As many samples as are held out, so that these are their floor.
    return [Group(cells, [*NAMED, "learned"], range(3 if full else 2), num_samples=2000 if full else 600, exact=True)]


def predictions(D: int) -> dict[str, float]:
    """What the theories say of data whitened in a plane."""
    return {
        RULE: float(optimal_k(whitened(D, 2))),
        "√D/(√D + √2)": float(optimal_k(whitened(D, 2), space="v", at="initialisation")),
        "v-loss at the end": float(optimal_k(whitened(D, 2), space="v", clamp=0.05)),
    }


def distances(study: Study) -> Distances:
    """√(2 SW² + off²) of every run, clean last step."""
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
    """Log of a target's distance over another's, seed by seed."""
    return log_ratios(list(found[target].values()), [found[other][seed] for seed in found[target]])


def examine(study: Study) -> Outcome:
    """k against D and the predictions, and the quality of the four targets."""
    (names, dims), found = sizes(study.full), distances(study)
    ks = {cell(data, D): learned_k(study, cell(data, D)) for data in names for D in dims}
    predicted = {cell(data, D): predictions(D) for data in names for D in dims}
    rule = {name: each[RULE] for name, each in predicted.items()}
    close, moving = f"learned k means the right d by D/(D + d): 2, within a factor of {FACTOR}", still_moving(study, ks)
    findings = [
        moves_one_way(
            "learned k rises with D, at every step of every data set",
            {data: [ks[cell(data, D)] for D in dims] for data in names},
            up=True,
            may_refute=study.full,
        ),
        within(close, ks, rule, may_refute=study.full, moving=moving),
        nearest("D/(D + 2) is nearer to learned k than the other predictions", ks, predicted, RULE, study.full, moving),
        _as_good(found, study.full),
        _better_than_velocity({cell(data, D): found[cell(data, D)] for data in names for D in dims if D >= 32}, study.full),
        _noise_fails([found[cell(data, D)] for data in names for D in dims if D >= 128]),
    ]
    most = max(ks, key=lambda name: abs(last_move(study, name)))
    rest = f"In the last quarter of the steps k moved by up to {last_move(study, most):+.4f} ({most})."
    return Outcome(findings, f"{_k_table(study)}\n\n{_quality_table(study)}", [NOTE, rest])


def _as_good(found: Distances, full: bool) -> Finding:
    over = {}
    for name, each in found.items():
        seeds = sorted(each["learned"])
        over[name] = over_best([each["learned"][s] for s in seeds], {one: [each[one][s] for s in seeds] for one in NAMED})
    verdict, text = as_good(over, sterner={name: ratios(each, "learned", best(each, NAMED)) for name, each in found.items()})
    # A cell of three seeds tells little by itself.
    sizes = dict.fromkeys(name.rpartition(" ")[2] for name in over)
    of_size = {D: {name: values for name, values in over.items() if name.endswith(f" {D}")} for D in sizes}
    by_size = {D: intervals(cells, len(sizes))[0] for D, cells in of_size.items()}
    pooled = "; ".join(f"{D}: {interval}" for D, interval in by_size.items())
    return Finding(
        "learned k is as good as the best of noise, velocity and data prediction (neither in a cell nor over all told apart as "
        "2 % farther from the data)",
        verdict if full or verdict == "confirmed" else "inconclusive",
        f"distance to the data, learned over the best of the three (for every seed the best of the others): {text}; by D, all "
        f"data sets: {pooled}",
    )


def _better_than_velocity(found: Distances, full: bool) -> Finding:
    each = intervals({name: ratios(there, "learned", "velocity") for name, there in found.items()})[1].values()
    better, worse = sum(one.high < 0 for one in each), sum(one.low > 0 for one in each)
    means = [math.exp(one.mean) for one in each]
    return Finding(
        "where D is 32 or more, learned k is better than velocity prediction",
        _verdict(better == len(means), worse > 0 and full),
        f"{better} of {len(means)} cells told apart as better, {worse} as worse; distance over velocity's from "
        f"{min(means):.2f} to {max(means):.2f}",
    )


def _noise_fails(cells: Sequence[Mapping[str, Mapping[int, float]]]) -> Finding:
    found = [[math.exp(value) for value in ratios(each, "noise", best(each, [*NAMED, "learned"]))] for each in cells]
    least = min(min(values) for values in found)
    return Finding(
        "where D is 128 or more, noise prediction fails: it is over ten times as far from the data as the best target",
        _verdict(least > FAILED, any(max(values) < FAILED for values in found)),
        f"{least:.3g} times as far at least, {max(max(values) for values in found):.3g} at most; {len(cells)} cells",
        decides=False,
    )


def _verdict(confirmed: bool, refuted: bool) -> Verdict:
    return "confirmed" if confirmed else "refuted" if refuted else "inconclusive"


def _k_table(study: Study) -> str:
    names, dims = sizes(study.full)
    lines = []
    for data in names:
        for D in dims:
            ks = list(learned_k(study, cell(data, D)).values())
            figures = [f"{statistics.mean(ks):.4f}" + ("" if len(ks) < 2 else f" ± {deviation(ks):.1g}")]
            figures += [f"{last_move(study, cell(data, D)):+.4f}", *(f"{k:.4f}" for k in predictions(D).values())]
            lines.append([data, str(D), *figures])
    return markdown(["data", "D", "learned k", "its last quarter's move", *predictions(2)], lines)


def _quality_table(study: Study) -> str:
    (names, dims), found = sizes(study.full), distances(study)
    lines = []
    for name in (cell(data, D) for data in names for D in dims):
        rows = [row for row in study.rows if row["cell"] == name]
        for target in (*NAMED, "learned"):
            values = list(found[name][target].values())
            line = [name, target, with_spread(statistics.mean(values), deviation(values))]
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
    """k against D, distances against D, and samples in the largest D."""
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
    axes.set_xscale("log", base=2)
    axes.set_yscale("logit")
    axes.set_yticks(TICKS, [f"{k:g}" for k in TICKS])
    axes.set(xlabel="D", ylim=(0.4, 0.999))
    axes.set_xticks(dims, [str(D) for D in dims])
    _plain(axes, "learned k (on a logit scale)")


def _draw_quality(axes: Any, study: Study, data: str) -> None:
    dims, there = sizes(study.full)[1], distances(study)
    for target, colour in COLOURS.items():
        found = [list(there[cell(data, D)][target].values()) for D in dims]
        axes.plot(dims, [statistics.mean(values) for values in found], "-", color=colour, linewidth=1.2, label=target)
        for D, values in zip(dims, found):
            axes.plot([D] * len(values), values, ".", color=colour, markersize=4)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set(xlabel="D")
    axes.set_xticks(dims, [str(D) for D in dims])
    _plain(axes, f"{data.replace('_', ' ')}: distance")


def _draw_samples(figure: Any, places: Any, study: Study, data: str, D: int) -> None:
    found = distances(study)[cell(data, D)]
    runs = {target: load_run(study.folder(cell(data, D), target, 0)) for target in COLOURS}
    dataset = runs["learned"].dataset()
    view = view_of(dataset.part("train")[0], dataset.manifold)
    shown = {f"held-out data, D = {D}": (dataset.part("heldout")[0][:SHOWN], INK)}
    for target, run in runs.items():
        shown[f"{target}, {statistics.mean(found[target].values()):.3g} away"] = (run.sample(SHOWN)[0], COLOURS[target])
    for place, (title, (x, colour)) in zip(places, shown.items()):
        axes = figure.add_subplot(place)
        view.draw(axes, x)
        axes.set_title(title, fontsize=9, color=colour)


def _plain(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=9, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", labelsize=7)
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=7)


CLAIM = Claim(
    name="toy",
    title="2-D data in D dimensions: learned k rises with D, and is as good as the best fixed target",
    says="On 2-D data embedded in D dimensions the k that an MLP learns moves towards data prediction as D grows, as "
    "D/(D + d) predicts, and its samples are as good as those of the best fixed target.",
    varied="Spiral, moons and Gaussian mixture, each in D = 2, 8, 32, 128, 512; noise, velocity, data and learned "
    "prediction; three seeds. One MLP (4 × 256) for all.",
    measured="k after training, beside D/(D + 2) and what the linear theory says for the loss on v; the samples' sliced "
    "Wasserstein distance in the plane and root-mean-square distance off it, and √(2 in² + off²), which decides.",
    refuted_if="k falls from one D to the next (paired over seeds, 5 % over all comparisons); in one cell k rests (D (1 − "
    "k)/k, the d that it means, changes by less than a factor of 1.25 in the last quarter) where in no run that d is within "
    "a factor of 1.25 of 2; another prediction is nearer on average over the cells at rest, in every seed, by k and by its "
    "logit (confirmed only if none is nearest in more of them); learned k is told apart as worse than the best of the three, "
    "in one cell or over all, or as worse than velocity where D ≥ 32. Beside the claim: whether noise prediction is over ten "
    "times as far from the data as the best where D ≥ 128.",
    core_hours=(0.07, 3.2),
    plan=plan,
    examine=examine,
    draw=draw,
)
