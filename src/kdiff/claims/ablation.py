"""The paper's ablations: k(t), two parameters, the start and the pace of k, the clamp, and the law of t.

The paper found a constant k better than a k of time (FID 2.05 and 2.17), and one k better than two, k₀ and k₁. It explains the
first by the density of t: under the paper's logit-normal law it vanishes at 0 and 1, so that k(t) hardly learns there. This
explanation can be tested, because the density does not vanish under uniform times.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from kdiff.claims import kinds_of_k as kinds
from kdiff.claims.ablation_picture import draw
from kdiff.claims.claim import Claim, Finding, Group, Outcome, Study, decided
from kdiff.claims.evidence import last_move
from kdiff.claims.kinds_of_k import LOGIT_NORMAL, MOVED, SKEWED, UNIFORM, cell
from kdiff.claims.quality import by_target, quality_rows, target_table
from kdiff.config.training import TrainConfig
from kdiff.studies.paired import WORSE, intervals, log_ratios
from kdiff.studies.predictions import predictions
from kdiff.studies.tables import counted_seeds


def settings(data: str, timesteps: str, full: bool) -> TrainConfig:
    """The default MLP of 4 × 256, or in the quick form a smaller one."""
    return TrainConfig(
        data=kinds.DATA[data],
        network="MLP(width=256, depth=4)" if full else "MLP(width=64, depth=3)",
        timesteps=timesteps,
        steps=(4000 if data == "digits" else 3000) if full else 900,
        ema=[0.999 if full else 0.99],
    )


def plan(full: bool) -> list[Group]:
    """The kinds of k under two laws of t; starts, paces and clamps under the first law; learned k under skewed laws."""
    forms = ["learned", kinds.PAIR, *kinds.FORMS]
    clamps = [kinds.CLAMPED, kinds.EXACT, kinds.DATA_CLAMPED, kinds.DATA_EXACT]
    all_kinds = list(dict.fromkeys([*forms, *kinds.STARTS.values(), *kinds.PACES.values(), *clamps]))
    seeds, names = range(5 if full else 1), kinds.datasets(full)
    judged: dict[str, Any] = {"num_samples": 2000, "exact": full}
    return [
        Group({cell(d, UNIFORM): settings(d, "uniform", full) for d in names}, all_kinds, seeds, **judged),
        Group({cell(d, LOGIT_NORMAL): settings(d, "logit_normal", full) for d in names}, forms, seeds, **judged),
        Group(
            {cell(d, law): settings(d, f"logit_normal(mean={m}, std=0.8)", full) for law, m in SKEWED.items() for d in names},
            ["learned"],
            seeds,
            **judged,
        ),
    ]


Values = Mapping[str, Mapping[str, Sequence[float]]]  # by cell and target, in order of seeds


def examine(study: Study) -> Outcome:
    """One finding for each ablation, paired over seeds."""
    names, full = kinds.datasets(study.full), study.full
    rows = {name: quality_rows(study, name) for name in study.cells}
    values = both_distances(study, rows)
    laws = {law: [cell(data, law) for data in names] for law in (UNIFORM, LOGIT_NORMAL)}
    tested = {
        f"a constant k is better than k(t) as a {form}, under {law}": (cells, target)
        for law, cells in laws.items()
        for target, form in kinds.FORMS.items()
    }
    tested["one k is better than two, k₀ and k₁"] = [name for cells in laws.values() for name in cells], kinds.PAIR
    findings = [_better(what, values, *pair, full, kinds.DECIDING) for what, pair in tested.items()]
    findings.append(_account(study, names))
    pace = "a pace of 10 is better than the paper's pace of 1, in runs of this length"
    clamp = "at k = 1, clamping both velocities (JiT's loss) gives better samples than clamping only the predicted one"
    settings = [
        _forgets(study, laws[UNIFORM]),
        _better(pace, values, laws[UNIFORM], kinds.PACES[1], full),
        _clamp(study, laws[UNIFORM]),
        _better(clamp, values, laws[UNIFORM], kinds.DATA_EXACT, full, ours=kinds.DATA_CLAMPED),
        _law(study, names),
    ]
    findings += [replace(finding, decides=False) for finding in settings]
    return Outcome(findings, _table(study, rows), [NOTE])


NOTE = (
    "The distance is the Fréchet distance for digits and √(2 SW² + off²) for the spiral. Each law of t has its own loss, so "
    "losses are comparable only within a law. For k(t) the table shows the mean over t as k, for a pair k₀/(k₀ + k₁)."
)


def both_distances(study: Study, cells: Iterable[str]) -> tuple[Values, Values]:
    """The distances to the training data, and the distances to held-out data."""
    cells = list(cells)
    training, heldout = ({name: by_target(quality_rows(study, name, held)) for name in cells} for held in (False, True))
    return training, heldout


def _better(
    statement: str,
    values: tuple[Values, Values],
    cells: Sequence[str],
    theirs: str,
    full: bool,
    comparisons: int = 1,
    ours: str = "learned",
) -> Finding:
    """Whether the samples of one target are closer to the data than those of another.

    Confirmed if ours are at least 2 % closer to the training data over all cells, refuted if theirs are: with 95 % confidence
    for that many comparisons together, and only if the mean of no cell says the opposite. This includes the distance to
    held-out data, because samples that are closer only to the training data may be copies.
    """
    ratios, held = ({name: log_ratios(kind[name][theirs], kind[name][ours]) for name in cells} for kind in values)
    overall, least, seeds = intervals(ratios, comparisons)[0], math.log1p(WORSE), len(next(iter(ratios.values())))
    level = f"95 % for all {comparisons}" if comparisons > 1 else "95 %"
    span = f"{level}: {math.expm1(overall.low):+.0%} to {math.expm1(overall.high):+.0%}" if seeds > 1 else "one seed, no spread"
    evidence = f"relative distance of the other target: {math.expm1(overall.mean):+.0%} ({span}), {counted_seeds(seeds)}"
    evidence += "".join(f"; {name} {math.expm1(statistics.mean(each)):+.0%}" for name, each in ratios.items())
    apart = {name: each for name, each in held.items() if each != ratios[name]}
    evidence += "".join(f"; {name}, to held-out data {math.expm1(statistics.mean(each)):+.0%}" for name, each in apart.items())
    decides = full and len({statistics.mean(each) > 0 for each in [*ratios.values(), *held.values()]}) == 1
    return Finding(statement, decided(decides and overall.low > least, decides and overall.high < -least), evidence)


def moved_at_ends(study: Study, name: str) -> list[float]:
    """The mean of |logit k| at t = 0 and at t = 1, by seed, for the free table, whose logit k starts at 0."""
    found = []
    for seed in sorted(row["seed"] for row in study.runs(cell=name, target=kinds.TABLE)):
        k = kinds.curve(study.folder(name, kinds.TABLE, seed))[1][[0, -1]].astype(np.float64)
        found.append(float(np.abs(np.log(k / (1 - k))).mean()))
    return found


def _account(study: Study, names: Sequence[str]) -> Finding:
    """Whether the ends of the free table move less where the density of t vanishes."""
    ends = {law: [moved_at_ends(study, cell(data, law)) for data in names] for law in (UNIFORM, LOGIT_NORMAL)}
    ratios = {d: log_ratios(a, b) for d, a, b in zip(names, *ends.values())}
    overall, _ = intervals(ratios)
    flat = {law: statistics.mean(value for values in ends[law] for value in values) for law in ends}
    ends_at = " and ".join(f"{flat[law]:.2f} under {law}" for law in ends)
    evidence = f"|logit k| of the free table at t = 0 and 1, which starts at 0: {ends_at}; log ratio {overall}"
    statement = "k(t) stays closer to its start at t = 0 and 1 if the density of t vanishes there (the paper's explanation)"
    return Finding(statement, decided(study.full and overall.low > 0, study.full and overall.high < 0), evidence)


def _ks(study: Study, name: str, target: str) -> list[float]:
    return [row["k"] for row in sorted(study.runs(cell=name, target=target), key=lambda row: row["seed"])]


def _forgets(study: Study, cells: Sequence[str]) -> Finding:
    """Whether k ends at one value from all starts."""
    spreads, texts = [], []
    for name in cells:
        ends = {init: _ks(study, name, target) for init, target in kinds.STARTS.items()}
        spreads += [max(ks) - min(ks) for ks in zip(*ends.values())]
        moves = max(abs(last_move(study, name, target)) for target in kinds.STARTS.values())
        means = ", ".join(f"{init:g} → {statistics.mean(ks):.3f}" for init, ks in ends.items())
        texts.append(f"{name}: {means} (k moved by up to {moves:.3f} in the last quarter)")
    statement = f"the start of k does not matter: from 0.2, 0.5 and 0.8 it ends within {MOVED} of one value"
    verdict = decided(study.full and max(spreads) <= MOVED, study.full and min(spreads) > MOVED)
    return Finding(statement, verdict, f"largest difference {max(spreads):.3f}; {'; '.join(texts)}")


def _difference(
    statement: str, what: str, ours: Mapping[str, list[float]], theirs: Mapping[str, list[float]], full: bool
) -> Finding:
    """Whether ours is larger than theirs by more than `MOVED`, over all data sets and in each; refuted if in both it is not."""
    differences = {name: [a - b for a, b in zip(ours[name], theirs[name])] for name in ours}
    (found, each), seeds = intervals(differences), min(map(len, differences.values()))
    above, below = (all(sign * (one.mean - MOVED) > 0 for one in each.values()) for sign in (1, -1))
    span = f" (95 %: {found.low:+.2g} to {found.high:+.2g})" if seeds > 1 else ""
    evidence = f"{what}: {found.mean:+.2g}{span}, {counted_seeds(seeds)}; "
    evidence += "; ".join(f"{name} {one.mean:+.2g}" for name, one in each.items())
    return Finding(statement, decided(full and found.low > MOVED and above, full and found.high < MOVED and below), evidence)


def _mean(ks: Mapping[str, list[float]]) -> str:
    return f"{statistics.mean(k for values in ks.values() for k in values):.3f}"


def _clamp(study: Study, cells: Sequence[str]) -> Finding:
    both, one = ({name: _ks(study, name, target) for name in cells} for target in (kinds.CLAMPED, kinds.EXACT))
    statement = f"comparing the clamped prediction with the exact velocity pulls k down from 0.98, by more than {MOVED}"
    what = f"k with both velocities clamped minus k with only the predicted one clamped ({_mean(both)} and {_mean(one)})"
    return _difference(statement, what, both, one, study.full)


def _law(study: Study, names: Sequence[str]) -> Finding:
    """Learned k under a skewed law and under its mirror image: by the theory it is low where times lie towards noise."""
    early, middle, late = ({data: _ks(study, cell(data, law), "learned") for data in names} for law in SKEWED)
    statement = f"a skewed law of t moves learned k: where times lie towards noise k is lower, by more than {MOVED}"
    what = f"learned k at mean +0.8 minus that at −0.8 ({_mean(late)} and {_mean(early)}; at 0 {_mean(middle)})"
    return _difference(statement, what, late, early, study.full)


def _table(study: Study, rows: Mapping[str, list[dict[str, Any]]]) -> str:
    """All targets; for learned k also the predictions of the linear theories for the data and the law of t."""
    predicted = {name: predictions(study.data(name), study.cells[name].timesteps).values() for name in rows}
    beside = {(name, "learned"): ", ".join(f"{k:.2f}" for k in ks) for name, ks in predicted.items()}
    return target_table(rows, "data, law of t", "theory: on u; on v, start, end", beside)


CLAIM = Claim(
    name="ablation",
    title="is one constant k better than k(t) and than two parameters?",
    says="A constant k is better than a k that depends on time, because the density of t vanishes at its ends and k(t) learns "
    "nothing there; and one k is better than two independent ones.",
    varied="A constant k; k(t) as a free table, a polynomial or the Wiener form; two parameters (k₀, k₁); all under uniform "
    "and logit-normal times. Start of k 0.2, 0.5, 0.8; pace 1, 3, 10, 30; clamp on both velocities or only on the predicted "
    "one; other laws of t. Digits and a bent spiral in 32 dimensions, five seeds.",
    measured="Fréchet distance (digits; that to held-out digits must agree in direction) and √(2 SW² + off²) (spiral), under "
    "both samplers; k, or k(t), at the end of training.",
    refuted_if="the other target is at least 2 % better over the data sets and worse on none of them, to held-out digits "
    "either (paired over seeds, by logarithms, with 95 % for all seven comparisons together). The explanation is refuted if "
    "the ends of k(t) move farther under logit-normal times than under uniform times. Not part of the claim: starts, paces, "
    "clamps and skewed laws of t.",
    core_hours=(0.04, 2.0),
    plan=plan,
    examine=examine,
    draw=draw,
)
