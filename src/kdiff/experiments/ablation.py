"""The paper's ablations: k(t), two parameters, where k starts, its pace, the clamp, and the law of t.

The paper found a constant k better than a k of time (FID 2.05 and 2.17) and one k better than two, k₀ and k₁; it accounts for
the first by the density of t, which under its logit-normal law vanishes at 0 and 1, so that k(t) hardly learns there. That can
be put to the test: under uniform times the density does not vanish.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdiff.experiments.claim import Claim, Finding, Group, Outcome, Study, Verdict
from kdiff.experiments.evidence import last_move
from kdiff.experiments.paired import WORSE, intervals, log_ratios
from kdiff.experiments.predictions import predictions, second_moments
from kdiff.experiments.quality import by_target, quality_rows, target_table
from kdiff.report.samples import INK, new_figure, save_figure
from kdiff.target import LearnedKOfTime
from kdiff.theory import k_of_time
from kdiff.training.config import TrainConfig
from kdiff.training.metrics import read_metrics
from kdiff.training.run import load_run

DATA = {"spiral": "spiral(ambient_dim=32, embedding=curved)", "digits": "digits"}
UNIFORM, LOGIT_NORMAL = "uniform times", "logit-normal times"
TABLE, PAIR = "learned_of_time(form='table')", "learned_pair"
FORMS = {
    TABLE: "free table",
    "learned_of_time(form='polynomial')": "polynomial",
    "learned_of_time(form='wiener')": "Wiener form",
}
STARTS = {0.2: "learned(init=0.2)", 0.5: "learned", 0.8: "learned(init=0.8)"}
PACES = {1: "learned(rate=1)", 3: "learned(rate=3)", 10: "learned", 30: "learned(rate=30)"}
CLAMPED, EXACT = "learned(init=0.98)", "learned(init=0.98, clamp_target=False)"
DATA_CLAMPED, DATA_EXACT = "data", "data(clamp_target=False)"
# JiT's law, its mirror image, and the symmetric law between them.
SKEWED = {"JiT's times, mean −0.8": -0.8, "times of mean 0": 0.0, "times of mean +0.8": 0.8}
DECIDING = 2 * len(FORMS) + 1  # comparisons that the verdict hangs on
MOVED = 0.05  # of k: more than this is a difference
COLOURS = dict(zip(["learned", PAIR, *FORMS], ("#55a868", "#c44e52", "#dd8452", "#4c72b0", "#8172b3")))


def cell(data: str, times: str) -> str:
    """The name of a cell."""
    return f"{data}, {times}"


def datasets(full: bool) -> list[str]:
    """Data sets: a bent spiral in 32 dimensions, and digits."""
    return list(DATA) if full else ["spiral"]


def settings(data: str, timesteps: str, full: bool) -> TrainConfig:
    """The default MLP of 4 × 256; the quick form has a smaller one."""
    return TrainConfig(
        data=DATA[data],
        network="MLP(width=256, depth=4)" if full else "MLP(width=64, depth=3)",
        timesteps=timesteps,
        steps=(4000 if data == "digits" else 3000) if full else 900,
        ema=[0.999 if full else 0.99],
    )


def plan(full: bool) -> list[Group]:
    """Kinds of k under two laws; starts, paces and clamps under the first; learned k under skewed laws."""
    kinds = ["learned", PAIR, *FORMS]
    all_kinds = list(dict.fromkeys([*kinds, *STARTS.values(), *PACES.values(), CLAMPED, EXACT, DATA_CLAMPED, DATA_EXACT]))
    seeds, names = range(5 if full else 1), datasets(full)
    judged: dict[str, Any] = {"num_samples": 2000, "exact": full}
    return [
        Group({cell(d, UNIFORM): settings(d, "uniform", full) for d in names}, all_kinds, seeds, **judged),
        Group({cell(d, LOGIT_NORMAL): settings(d, "logit_normal", full) for d in names}, kinds, seeds, **judged),
        Group(
            {cell(d, law): settings(d, f"logit_normal(mean={m}, std=0.8)", full) for law, m in SKEWED.items() for d in names},
            ["learned"],
            seeds,
            **judged,
        ),
    ]


Values = Mapping[str, Mapping[str, Sequence[float]]]  # by cell and target, in order of seeds


def examine(study: Study) -> Outcome:
    """Each ablation's finding, every one paired over seeds."""
    names, full = datasets(study.full), study.full
    rows = {name: quality_rows(study, name) for name in dict.fromkeys(job.cell for job in study.jobs)}
    values = both_distances(study, rows)
    laws = {law: [cell(data, law) for data in names] for law in (UNIFORM, LOGIT_NORMAL)}
    findings = [
        _better(
            f"a constant k is better than k(t), a {form}, under {law}", values, laws[law], "learned", target, full, DECIDING
        )
        for law in laws
        for target, form in FORMS.items()
    ]
    both = [name for found in laws.values() for name in found]
    findings.append(_better("one k is better than two, k₀ and k₁", values, both, "learned", PAIR, full, DECIDING))
    findings.append(_account(study, names))
    pace = "a pace of 10 is better than the paper's, 1, in runs of this length"
    statement = "at k = 1, clamping both velocities (JiT's loss) gives better samples than clamping the prediction's alone"
    settings = [
        _forgets(study, laws[UNIFORM]),
        _better(pace, values, laws[UNIFORM], "learned", PACES[1], full),
        _clamp(study, laws[UNIFORM]),
        _better(statement, values, laws[UNIFORM], DATA_CLAMPED, DATA_EXACT, full),
        _law(study, names),
    ]
    findings += [replace(finding, decides=False) for finding in settings]
    return Outcome(findings, _table(study, rows), [NOTE])


NOTE = (
    "The distance is the Fréchet distance for digits, √(2 SW² + off²) for the spiral. Under another law of t the loss is "
    "another one: losses compare within a law alone. k of a k(t) is its mean over t, k of a pair k₀/(k₀ + k₁)."
)


def both_distances(study: Study, cells: Iterable[str]) -> tuple[Values, Values]:
    """Distances to the training data, and to held-out data."""
    cells = list(cells)
    training, heldout = ({name: by_target(quality_rows(study, name, held)) for name in cells} for held in (False, True))
    return training, heldout


def _better(
    statement: str,
    values: tuple[Values, Values],
    cells: Sequence[str],
    ours: str,
    theirs: str,
    full: bool,
    comparisons: int = 1,
) -> Finding:
    """Confirmed if ours is at least 2 % nearer to the training data over all cells; refuted if theirs is.

    With 95 % confidence for that many comparisons together; and only if no cell's mean says the opposite, of the distance to
    held-out data either: what is nearer to the training data and not to others has copied more.
    """
    ratios, held = ({name: log_ratios(kind[name][theirs], kind[name][ours]) for name in cells} for kind in values)
    overall, least, seeds = intervals(ratios, comparisons)[0], math.log1p(WORSE), len(next(iter(ratios.values())))
    level = f"95 % for all {comparisons}" if comparisons > 1 else "95 %"
    span = f"{level}: {math.expm1(overall.low):+.0%} to {math.expm1(overall.high):+.0%}" if seeds > 1 else "one seed, no spread"
    evidence = f"distance of the other: {math.expm1(overall.mean):+.0%} ({span}), {seeds} seed{'s' * (seeds > 1)}"
    evidence += "".join(f"; {name} {math.expm1(statistics.mean(each)):+.0%}" for name, each in ratios.items())
    apart = {name: each for name, each in held.items() if each != ratios[name]}
    evidence += "".join(f"; {name}, to held-out data {math.expm1(statistics.mean(each)):+.0%}" for name, each in apart.items())
    ways = {statistics.mean(each) > 0 for each in [*ratios.values(), *held.values()]}
    verdict: Verdict = "inconclusive"
    if full and len(ways) == 1:
        verdict = "confirmed" if overall.low > least else "refuted" if overall.high < -least else "inconclusive"
    return Finding(statement, verdict, evidence)


@lru_cache
def curve(folder: Path) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Times, and k(t) of the averaged weights at the end of a run."""
    t = torch.linspace(0, 1, 201)
    target = load_run(folder).model.target
    assert isinstance(target, LearnedKOfTime)
    return t.numpy(), target.k_at(t.to(target.w.device)).cpu().numpy()


def moved_at_ends(study: Study, name: str) -> list[float]:
    """|logit k| at t = 0 and 1, their mean, of the free table, which starts at 0; by seed."""
    found = []
    for seed in sorted(row["seed"] for row in study.runs(cell=name, target=TABLE)):
        k = curve(study.folder(name, TABLE, seed))[1][[0, -1]].astype(np.float64)
        found.append(float(np.abs(np.log(k / (1 - k))).mean()))
    return found


def _account(study: Study, names: Sequence[str]) -> Finding:
    """Whether the ends of the table move less where the density of t vanishes."""
    ends = {law: [moved_at_ends(study, cell(data, law)) for data in names] for law in (UNIFORM, LOGIT_NORMAL)}
    ratios = {d: log_ratios(a, b) for d, a, b in zip(names, *ends.values())}
    overall, _ = intervals(ratios)
    flat = {law: statistics.mean(value for values in ends[law] for value in values) for law in ends}
    ends_at = " and ".join(f"{flat[law]:.2f} under {law}" for law in ends)
    evidence = f"|logit k| at t = 0 and 1 of the free table, which starts at 0: {ends_at}; log ratio {overall}"
    statement = "k(t) stays nearer its start at t = 0 and 1 where the density of t vanishes there (the paper's account)"
    verdict: Verdict = "confirmed" if overall.low > 0 else "refuted" if overall.high < 0 else "inconclusive"
    return Finding(statement, verdict if study.full else "inconclusive", evidence)


def _ks(study: Study, name: str, target: str) -> list[float]:
    return [row["k"] for row in sorted(study.runs(cell=name, target=target), key=lambda row: row["seed"])]


def _forgets(study: Study, cells: Sequence[str]) -> Finding:
    """Whether all starts end at one k."""
    spreads, texts = [], []
    for name in cells:
        ends = {init: _ks(study, name, target) for init, target in STARTS.items()}
        spreads += [max(ks) - min(ks) for ks in zip(*ends.values())]
        moves = max(abs(last_move(study, name, target)) for target in STARTS.values())
        means = ", ".join(f"{init:g} → {statistics.mean(ks):.3f}" for init, ks in ends.items())
        texts.append(f"{name}: {means} (up to {moves:.3f} of it in the last quarter)")
    verdict: Verdict = "confirmed" if max(spreads) <= MOVED else "refuted" if min(spreads) > MOVED else "inconclusive"
    statement = f"where k starts does not matter: from 0.2, 0.5 and 0.8 it ends within {MOVED} of one value"
    return Finding(statement, verdict if study.full else "inconclusive", f"widest {max(spreads):.3f}; {'; '.join(texts)}")


def _difference(statement: str, differences: Mapping[str, Sequence[float]], what: str, least: float, full: bool) -> Finding:
    """Whether a difference in k is above `least`, or at most that, over all data sets and in each."""
    (found, each), seeds = intervals(differences), min(map(len, differences.values()))
    means = {name: one.mean for name, one in each.items()}
    above, below = (all(sign * (mean - least) > 0 for mean in means.values()) for sign in (1, -1))
    verdict: Verdict = (
        "confirmed" if found.low > least and above else "refuted" if found.high < least and below else "inconclusive"
    )
    span = f" (95 %: {found.low:+.2g} to {found.high:+.2g})" if seeds > 1 else ""
    evidence = f"{what}: {found.mean:+.2g}{span}, {seeds} seed{'s' * (seeds > 1)}; "
    evidence += "; ".join(f"{name} {mean:+.2g}" for name, mean in means.items())
    return Finding(statement, verdict if full else "inconclusive", evidence)


def _clamp(study: Study, cells: Sequence[str]) -> Finding:
    ks = {target: {name: _ks(study, name, target) for name in cells} for target in (CLAMPED, EXACT)}
    differences = {name: [a - b for a, b in zip(ks[CLAMPED][name], ks[EXACT][name])] for name in cells}
    statement = f"comparing the clamped prediction with the exact velocity pulls k down from 0.98, by more than {MOVED}"
    ends = " and ".join(f"{statistics.mean(k for values in found.values() for k in values):.3f}" for found in ks.values())
    what = f"k with both clamped less k with the prediction's alone ({ends})"
    return _difference(statement, differences, what, MOVED, study.full)


def _law(study: Study, names: Sequence[str]) -> Finding:
    """Learned k under the mirror images of a skewed law: the theory has it low where times lie towards noise."""
    early, middle, late = ({data: _ks(study, cell(data, law), "learned") for data in names} for law in SKEWED)
    differences = {data: [b - a for a, b in zip(early[data], late[data])] for data in names}
    means = [statistics.mean(k for ks in found.values() for k in ks) for found in (early, middle, late)]
    statement = f"a skewed law of t moves learned k: where times lie towards noise it is lower, by more than {MOVED}"
    what = f"learned k at mean +0.8 less that at −0.8 ({means[2]:.3f} and {means[0]:.3f}, at 0 {means[1]:.3f})"
    return _difference(statement, differences, what, MOVED, study.full)


def _table(study: Study, rows: Mapping[str, list[dict[str, Any]]]) -> str:
    """Every target; beside learned k what the linear theories say of the data and the law."""
    configs = {job.cell: job.config for job in study.jobs}
    predicted = {name: predictions(str(configs[name].data), configs[name].timesteps).values() for name in rows}
    beside = {(name, "learned"): ", ".join(f"{k:.2f}" for k in ks) for name, ks in predicted.items()}
    return target_table(rows, "data, law of t", "theory: on u; on v, start, end", beside)


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """k(t) of every form under both laws above; below, distances by kind, and k over the steps from every start and pace."""
    names = datasets(study.full)
    figure = new_figure(13 if len(names) > 1 else 8.5, 7)
    panels = figure.subplots(2, 2 * len(names), squeeze=False)
    for i, data in enumerate(names):
        for j, law in enumerate((UNIFORM, LOGIT_NORMAL)):
            _draw_curves(panels[0, 2 * i + j], study, data, law)
        _draw_distances(panels[1, 2 * i], study, data)
        _draw_ways(panels[1, 2 * i + 1], study, cell(data, UNIFORM))
    panels[0, 0].legend(fontsize=7, frameon=False)
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
    save_figure(figure, path)


def _draw_curves(axes: Any, study: Study, data: str, law: str) -> None:
    name = cell(data, law)
    for target, form in {"learned": "constant", **FORMS}.items():
        for row in study.runs(cell=name, target=target):
            label = form if row["seed"] == 0 else None
            style: dict[str, Any] = {"color": COLOURS[target], "linewidth": 1.2, "alpha": 0.8}
            if target == "learned":
                axes.plot([0, 1], [row["k"]] * 2, label=label, **style)
            else:
                axes.plot(*curve(study.folder(name, target, row["seed"])), label=label, **style)
    t = np.linspace(0, 1, 201)
    axes.plot(t, k_of_time(t, second_moments(DATA[data])), ":", color="#999999", linewidth=1, label="best at û = 0 (theory)")
    axes.set(xlim=(0, 1), ylim=(-0.03, 1.03), xlabel="t (0 noise, 1 data)", ylabel="k(t)")
    axes.set_title(name, fontsize=9, color=INK)


def _draw_distances(axes: Any, study: Study, data: str) -> None:
    kinds = {"learned": "constant", PAIR: "pair", **FORMS}
    for law, filled, shift in ((UNIFORM, True, -0.12), (LOGIT_NORMAL, False, 0.12)):
        values = by_target(quality_rows(study, cell(data, law)))
        for i, target in enumerate(kinds):
            colour = COLOURS[target]
            style: dict[str, Any] = {"color": colour, "mfc": colour if filled else "none", "markersize": 5}
            axes.plot([i + shift] * len(values[target]), values[target], "o", **style)
    axes.set_xticks(range(len(kinds)), [kind.replace(" ", "\n") for kind in kinds.values()], fontsize=7)
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.set_ylabel("Fréchet distance" if data == "digits" else "distance")
    axes.set_title(f"{data}: filled uniform, open logit-normal", fontsize=9, color=INK)


def _draw_ways(axes: Any, study: Study, name: str) -> None:
    targets = dict.fromkeys([*STARTS.values(), *PACES.values(), CLAMPED, EXACT])
    colours = iter(("#c44e52", "#4c72b0", "#dd8452", "#8172b3", "#937860", "#64b5cd", "#8c8c8c"))
    for target in targets:
        steps = read_metrics(study.folder(name, target, 0) / "metrics.jsonl")
        colour, style = COLOURS["learned"] if target == "learned" else next(colours), "--" if target == EXACT else "-"
        label = target.removeprefix("learned").strip("()") or "start 0.5, pace 10"
        label = label.replace("init=", "start ").replace("rate=", "pace ").replace("clamp_target=False", "exact target")
        axes.plot(
            [s["step"] for s in steps], [s["k"] for s in steps], color=colour, linewidth=1.2, label=label, linestyle=style
        )
    axes.set(xlabel="step", ylabel="k", ylim=(0, 1))
    axes.set_title("starts, paces, clamps (uniform, seed 0)", fontsize=9, color=INK)
    axes.legend(fontsize=6.5, frameon=False)


CLAIM = Claim(
    name="ablation",
    title="one constant k against k(t), two parameters, and settings of the learned k",
    says="A constant k is better than a k of time (the density of t vanishes at its ends, and k(t) learns nothing there), and "
    "one k is better than two independent ones.",
    varied="constant k; k(t) as a free table, a polynomial, the Wiener form; (k₀, k₁); under uniform and logit-normal times. "
    "Start 0.2, 0.5, 0.8, pace 1, 3, 10, 30, clamp on both velocities or the prediction's alone; law of t. Digits and a bent "
    "spiral in 32 dimensions, five seeds.",
    measured="Fréchet distance (digits; held-out ones must agree in direction), √(2 SW² + off²) (spiral) under both samplers; "
    "k, and k(t), at the end.",
    refuted_if="the other target is at least 2 % better over the data sets, and on none worse, to held-out digits either: "
    "paired over seeds, logarithms, 95 % for all seven comparisons together. The account is refuted if the ends of k(t) move "
    "farther under logit-normal times than under uniform. Beside the claim: starts, paces, clamps and skewed laws of t.",
    core_hours=(0.04, 2.0),
    plan=plan,
    examine=examine,
    draw=draw,
)
