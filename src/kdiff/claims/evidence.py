"""Where k ends: whether it rises along a series of cells, whether it ends where predicted, and whether it has come to rest.

Runs of one seed share weights, data order, times and noise, so differences are taken within each seed (`kdiff.studies.paired`).
They are differences of logit k = log(k/(1 − k)), because near 1 a difference of k says little.
"""

from __future__ import annotations

import itertools
import math
import operator
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from kdiff.claims.claim import Finding, Study, decided
from kdiff.studies.paired import intervals
from kdiff.studies.tables import counted_seeds, deviation, with_spread

FACTOR = 1.25  # (1 − k)/k agrees, or has not moved, if it differs by no more than this factor
NEAREST = 1e-7  # the smallest distance of k from 0 and 1 in float32
BySeed = Mapping[int, float]
ByCell = Mapping[str, BySeed]
Predicted = Mapping[str, Mapping[str, float]]  # k by cell and prediction
TIE = 0.001  # predictions of k whose errors differ by no more than this are equally close


def spread(values: Iterable[float]) -> str:
    """The mean ± standard deviation, as text."""
    values = list(values)
    return with_spread(statistics.mean(values), deviation(values))


def precise(values: Iterable[float], digits: int) -> str:
    """The mean with this many decimals, ± standard deviation with one digit, as text."""
    values = list(values)
    return f"{statistics.mean(values):.{digits}f}" + (f" ± {deviation(values):.1g}" if len(values) > 1 else "")


def learned_k(study: Study, cell: str, target: str = "learned") -> dict[int, float]:
    """k at the end of training, by seed."""
    return {row["seed"]: row["k"] for row in study.runs(cell=cell, target=target)}


def last_move(study: Study, cell: str, target: str = "learned") -> float:
    """How far k moved in the last quarter of the steps, the mean over seeds. If it moved much, it had not come to rest.

    This is the k of the weights themselves: averaged weights still move after the weights have come to rest.
    """
    return statistics.mean(row["k_last"] - row["k_before"] for row in study.runs(cell=cell, target=target))


def _last_moves(study: Study, cell: str) -> list[float]:
    """The change of log((1 − k)/k) in the last quarter, seed by seed. It is the change of log d, where k = D/(D + d)."""
    return [logit(row["k_before"]) - logit(row["k_last"]) for row in study.runs(cell=cell, target="learned")]


def last_factor(study: Study, cell: str) -> float:
    """The factor by which (1 − k)/k changed in the last quarter, the geometric mean over seeds."""
    return math.exp(statistics.mean(_last_moves(study, cell)))


def still_moving(study: Study, cells: Iterable[str]) -> list[str]:
    """The cells where learned k was not at rest: in some run (1 − k)/k changed by a factor of over 1.25 in the last quarter."""
    return [cell for cell in cells if max(map(abs, _last_moves(study, cell))) > math.log(FACTOR)]


def moves_one_way(statement: str, series: Mapping[str, Sequence[BySeed]], up: bool, may_refute: bool = True) -> Finding:
    """Whether k rises (or if not `up`, falls) along every series, from each cell to the next.

    Confirmed if k goes in this direction at every step of every series, by paired intervals that hold together with 95 %.
    Refuted if by these intervals it goes in the other direction at one step, unless the runs are too short for `may_refute`.
    """
    steps = {
        f"{name}, step {i}": [(1 if up else -1) * (logit(after[seed]) - logit(before[seed])) for seed in before]
        for name, cells in series.items()
        for i, (before, after) in enumerate(zip(cells, cells[1:]), start=1)
    }
    each = intervals(steps)[1]
    right = [step for step, interval in each.items() if interval.low > 0]
    wrong = [step for step, interval in each.items() if interval.high < 0]
    unclear = [step for step in each if step not in right + wrong]
    seeds = counted_seeds(min(map(len, steps.values())))
    evidence = f"{len(right)} of {len(steps)} steps go significantly in this direction ({seeds}, paired)"
    for what, found in (("in the other direction", wrong), ("not significant", unclear)):
        if found:
            evidence += f"; {what} (difference of logit k): " + ", ".join(f"{step} {each[step]}" for step in found)
    return Finding(statement, decided(len(right) == len(steps), bool(wrong) and may_refute), evidence)


def within(
    statement: str, ks: ByCell, predicted: Mapping[str, float], may_refute: bool = True, moving: Collection[str] = ()
) -> Finding:
    """Whether (1 − k)/k ends within a factor of 1.25 of its prediction in every run. Refuted if in one cell no run does.

    Cells that are still `moving` refute nothing, and as long as there are any, nothing is confirmed.

    By the rule, (1 − k)/k is d/D, so the factor is a factor of the d that k implies. It is as strict where D/(D + d) is 0.996
    as where it is one half. At one half, a factor of 1.25 is a difference of 0.056 in k; near 1 even a small difference in k is
    a large one in d.
    """
    off = {cell: [logit(predicted[cell]) - logit(k) for k in ks[cell].values()] for cell in predicted if cell not in moving}
    some = [cell for cell, values in off.items() if min(map(abs, values)) <= math.log(FACTOR)]
    every = [cell for cell, values in off.items() if max(map(abs, values)) <= math.log(FACTOR)]
    none = [cell for cell in off if cell not in some]
    moved = f"(1 − k)/k still changed by a factor of over {FACTOR} in the last quarter"
    evidence = f"no cell decides: in all {len(predicted)} {moved}"
    if off:
        evidence = f"agrees in every run in {len(every)} of {len(off)} cells"
        if len(off) < len(predicted):
            evidence += f" where k had come to rest, in some runs in {len(some) - len(every)}, in no run in {len(none)}"
            evidence += f"; in {len(predicted) - len(off)} more, {moved}"
        worst = max(off, key=lambda cell: max(map(abs, off[cell])))
        mean = statistics.mean(abs(k - predicted[cell]) for cell in off for k in ks[cell].values())
        evidence += (
            f"; (1 − k)/k is at worst {math.exp(max(off[worst], key=abs)):.3g} times the predicted value ({worst}); "
            f"mean difference of k {mean:.3f}; {counted_seeds(len(off[worst]))}"
        )
    return Finding(statement, decided(len(every) == len(predicted), bool(none) and may_refute), evidence)


def alike(statement: str, groups: Sequence[ByCell], may_refute: bool = True, moving: Collection[str] = ()) -> Finding:
    """Whether (1 − k)/k is the same within a factor of 1.25 in all cells of a group, in every run.

    Refuted if in two cells of a group, both at rest, every run of one differs by more than this from every run of the other.
    """
    apart, refuting, widest = [], False, (0.0, "", "")
    for group in groups:
        ends = {cell: [logit(k) for k in found.values()] for cell, found in group.items()}
        every = [y for values in ends.values() for y in values]
        apart.append(max(every) - min(every))
        resting = {cell: values for cell, values in ends.items() if cell not in moving}
        for low, high in itertools.permutations(resting, 2):
            gap = min(resting[high]) - max(resting[low])
            refuting = refuting or gap > math.log(FACTOR)
            widest = max(widest, (gap, high, low))
    cells = [cell for group in groups for cell in group]
    moved = [cell for cell in cells if cell in moving]
    evidence = f"over all runs (1 − k)/k differs by a factor of {' and '.join(f'{math.exp(found):.3g}' for found in apart)}"
    if refuting:
        evidence += f"; by at least {math.exp(widest[0]):.3g} between {widest[1]} and {widest[2]}"
    if moved:
        evidence += f"; {len(moved)} of {len(cells)} cells were still moving and refute nothing"
    seeds = min(len(found) for group in groups for found in group.values())
    verdict = decided(max(apart) <= math.log(FACTOR) and not moved, refuting and may_refute)
    return Finding(statement, verdict, f"{evidence}; {counted_seeds(seeds)}")


def nearest(
    statement: str, ks: ByCell, predicted: Predicted, rule: str, may_refute: bool = True, moving: Collection[str] = ()
) -> Finding:
    """Whether a rule predicts k best: its mean error over the cells is the smallest of several predictions, in every seed.

    The error is taken of k, and also of logit k, because near 1 an error of k says little. A prediction of 0 or 1, a limit that
    k approaches, has no logit and is compared by k alone. Confirmed if the rule's error is the smallest by both, and no other
    prediction is the closest one in more cells (ties count for both), since a single cell can decide a mean. Refuted if another
    prediction's error is smaller in every seed by both (by k for a limit). Cells that are still `moving` do not count, because
    k has not yet reached its end there.
    """
    cells = {cell: found for cell, found in predicted.items() if cell not in moving}
    moved = f"{len(predicted) - len(cells)} of {len(predicted)} cells are left out because k still moved"
    if not cells:
        return Finding(statement, "inconclusive", moved)
    seeds = sorted(set.intersection(*(set(ks[cell]) for cell in cells)))
    names = list(next(iter(cells.values())))
    limits = {name for name in names if any(not NEAREST < found[name] < 1 - NEAREST for found in cells.values())}
    scales: list[Callable[[float], float]] = [float, logit]
    compared = [names, [name for name in names if name == rule or name not in limits]]
    errors = [
        {
            name: [
                statistics.mean(abs(of(ks[cell][seed]) - of(found[name])) for cell, found in cells.items()) for seed in seeds
            ]
            for name in there
        }
        for of, there in zip(scales, compared)
    ]
    others = [name for name in names if name != rule]
    best = all(all(map(operator.lt, each[rule], each[name])) for each in errors for name in each if name != rule)
    beaten = any(all(all(map(operator.lt, each[name], each[rule])) for each in errors if name in each) for name in others)
    distance = {
        cell: {name: abs(statistics.mean(ks[cell][seed] for seed in seeds) - found[name]) for name in names}
        for cell, found in cells.items()
    }
    leads = {name: sum(found[name] <= min(found.values()) + TIE for found in distance.values()) for name in names}
    most = leads[rule] == max(leads.values())
    by_k, by_logit = (", ".join(f"{name} {statistics.mean(values):.3f}" for name, values in each.items()) for each in errors)
    evidence = f"mean difference of learned k from {by_k}; the same of logit k: {by_logit}; closest by k in "
    evidence += f"{', '.join(f'{count} ({name})' for name, count in leads.items())} of {len(cells)} cells"
    evidence += f"; {moved}" if len(cells) < len(predicted) else ""
    return Finding(statement, decided(best and most, beaten and may_refute), f"{evidence}; {counted_seeds(len(seeds))}")


def logit(k: float) -> float:
    """log(k/(1 − k)), with k kept away from 0 and 1 by the resolution of float32."""
    k = float(np.clip(k, NEAREST, 1 - NEAREST))
    return math.log(k / (1 - k))
