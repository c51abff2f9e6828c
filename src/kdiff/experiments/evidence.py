"""Where k ends: whether it rises along a series of cells, whether it ends where predicted, whether it has come to rest.

Runs of one seed share weights, data order, times and noise, so differences are taken seed by seed (`kdiff.experiments.paired`);
and of logit k = log(k/(1 − k)), since near 1 a difference of k says nothing.
"""

from __future__ import annotations

import itertools
import math
import operator
import statistics
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import numpy as np

from kdiff.experiments.claim import Finding, Study, Verdict, counted_seeds
from kdiff.experiments.paired import intervals

FACTOR = 1.25  # of (1 − k)/k, by the rule of d, that counts as agreement, and as having moved
NEAREST = 1e-7  # to 0 and 1, of k in float32
TIE = 0.001  # of k: predictions whose errors differ by less are equally near


def learned_k(study: Study, cell: str, target: str = "learned") -> dict[int, float]:
    """k at the end of training, by seed."""
    return {row["seed"]: row["k"] for row in study.runs(cell=cell, target=target)}


def last_move(study: Study, cell: str, target: str = "learned") -> float:
    """How far k moved in the last quarter of the steps, the mean over seeds: it has not come to rest if that is much.

    Of the weights themselves: averaged ones are still on their way when the weights have come to rest.
    """
    return statistics.mean(row["k_last"] - row["k_before"] for row in study.runs(cell=cell, target=target))


def _last_moves(study: Study, cell: str, target: str = "learned") -> list[float]:
    """The same of log((1 − k)/k), the logarithm of the d that k means, seed by seed."""
    return [logit(row["k_before"]) - logit(row["k_last"]) for row in study.runs(cell=cell, target=target)]


def last_factor(study: Study, cell: str) -> float:
    """The factor by which (1 − k)/k changed in the last quarter, the geometric mean over seeds."""
    return math.exp(statistics.mean(_last_moves(study, cell)))


def still_moving(study: Study, cells: Iterable[str]) -> list[str]:
    """The cells where learned k had not come to rest: in some run (1 − k)/k changed by a factor of over 1.25 in that time."""
    return [cell for cell in cells if max(map(abs, _last_moves(study, cell))) > math.log(FACTOR)]


def moves_one_way(
    statement: str, series: Mapping[str, Sequence[Mapping[int, float]]], up: bool, may_refute: bool = True
) -> Finding:
    """Whether k rises (or falls) along every series, from each cell to the next.

    Confirmed if all steps of all series go this way, told by paired intervals that hold together with 95 %; refuted if one
    goes the other way.

    Args:
        statement: what is decided.
        series: by name, the cells in order, each with k by seed.
        up: rises, else falls.
        may_refute: False for runs too short to refute anything.
    """
    steps = {
        f"{name}, step {i}": [(1 if up else -1) * (logit(after[seed]) - logit(before[seed])) for seed in before]
        for name, cells in series.items()
        for i, (before, after) in enumerate(zip(cells, cells[1:]), start=1)
    }
    each = intervals(steps)[1]
    right = [step for step, interval in each.items() if interval.low > 0]
    wrong = [step for step, interval in each.items() if interval.high < 0]
    untold = [step for step in each if step not in right + wrong]
    seeds = min(map(len, steps.values()))
    evidence = f"{len(right)} of {len(steps)} steps go this way, told by {seeds} paired seed{'s' if seeds > 1 else ''}"
    for what, found in (("the other way", wrong), ("not told", untold)):
        if found:
            evidence += f"; {what} (difference of logit k): " + ", ".join(f"{step} {each[step]}" for step in found)
    verdict: Verdict = "confirmed" if len(right) == len(steps) else "refuted" if wrong and may_refute else "inconclusive"
    return Finding(statement, verdict, evidence)


def within(
    statement: str,
    ks: Mapping[str, Mapping[int, float]],
    predicted: Mapping[str, float],
    may_refute: bool = True,
    moving: Collection[str] = (),
) -> Finding:
    """Whether (1 − k)/k ends within a factor of 1.25 of what is predicted, in every run; refuted if in one cell no run does.

    Cells that are still `moving` refute nothing, and while there are any nothing is confirmed.

    By the rule (1 − k)/k is d/D. So the factor is one of the d that k means, as strict where D/(D + d) is 0.996 as where it is
    one half: there a factor of 1.25 is 0.056 of k, and a difference of k, however small, would say little of d elsewhere.
    """
    off = {cell: [logit(predicted[cell]) - logit(k) for k in ks[cell].values()] for cell in predicted if cell not in moving}
    some = [cell for cell, values in off.items() if min(map(abs, values)) <= math.log(FACTOR)]
    every = [cell for cell, values in off.items() if max(map(abs, values)) <= math.log(FACTOR)]
    none = [cell for cell in off if cell not in some]
    settled = len(every) == len(predicted)
    verdict: Verdict = "confirmed" if settled else "refuted" if none and may_refute else "inconclusive"
    moved = f"(1 − k)/k still moved by a factor of over {FACTOR} in the last quarter"
    evidence = f"{len(every)} of {len(off)} cells" if off else f"decided in no cell: in all {len(predicted)} {moved}"
    if 0 < len(off) < len(predicted):
        evidence += f" where k had come to rest, in every run, {len(some) - len(every)} in some, {len(none)} in none"
        evidence += f"; in {len(predicted) - len(off)} more {moved}"
    if off:
        worst = max(off, key=lambda cell: max(map(abs, off[cell])))
        mean = statistics.mean(abs(k - predicted[cell]) for cell in off for k in ks[cell].values())
        evidence += (
            f"; (1 − k)/k farthest at {math.exp(max(off[worst], key=abs)):.3g} times ({worst}); "
            f"mean difference of k {mean:.3f}; {counted_seeds(len(off[worst]))}"
        )
    return Finding(statement, verdict, evidence)


def alike(
    statement: str,
    groups: Sequence[Mapping[str, Mapping[int, float]]],
    may_refute: bool = True,
    moving: Collection[str] = (),
) -> Finding:
    """Whether (1 − k)/k is the same within a factor of 1.25 in all cells of a group, in every run.

    Refuted if in two cells of a group no run of one is that near to any of the other's, and k had come to rest in both.
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
    evidence = f"(1 − k)/k by a factor of {' and '.join(f'{math.exp(found):.3g}' for found in apart)} over all runs"
    if refuting:
        evidence += f"; at least {math.exp(widest[0]):.3g} between {widest[1]} and {widest[2]}"
    if moved:
        evidence += f"; still moving, so that they refute nothing: {len(moved)} of {len(cells)} cells"
    seeds = min(len(found) for group in groups for found in group.values())
    same = max(apart) <= math.log(FACTOR) and not moved
    verdict: Verdict = "confirmed" if same else "refuted" if refuting and may_refute else "inconclusive"
    return Finding(statement, verdict, f"{evidence}; {counted_seeds(seeds)}")


def nearest(
    statement: str,
    ks: Mapping[str, Mapping[int, float]],
    predicted: Mapping[str, Mapping[str, float]],
    rule: str,
    may_refute: bool = True,
    moving: Collection[str] = (),
) -> Finding:
    """Whether of several predictions of each cell's k a rule's has the smallest mean error over the cells, in every seed.

    As an error of k and as one of logit k, since near 1 the first says little; a prediction of 0 or 1, a limit that k goes to,
    has no logit, and is compared by k alone. Confirmed if the rule's is smallest by both and no other prediction is nearest in
    more cells (ties count for both), since one cell can make a mean; refuted if some other prediction's is smaller in every
    seed by both (a limit's by k). Cells that are still `moving` do not count: they are on their way to somewhere else.
    """
    cells = {cell: found for cell, found in predicted.items() if cell not in moving}
    moved = f"{len(predicted) - len(cells)} of {len(predicted)} cells, where k still moved, left out"
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
    verdict: Verdict = "confirmed" if best and most else "refuted" if beaten and may_refute else "inconclusive"
    by_k, by_logit = (", ".join(f"{name} {statistics.mean(values):.3f}" for name, values in each.items()) for each in errors)
    evidence = f"mean difference of learned k from {by_k}; of logit k: {by_logit}; nearest by k in "
    evidence += f"{', '.join(f'{count} ({name})' for name, count in leads.items())} of {len(cells)} cells"
    evidence += f"; {moved}" if len(cells) < len(predicted) else ""
    return Finding(statement, verdict, f"{evidence}; {counted_seeds(len(seeds))}")


def logit(k: float) -> float:
    """log(k/(1 − k)), with k held off 0 and 1 by what float32 tells apart."""
    k = float(np.clip(k, NEAREST, 1 - NEAREST))
    return math.log(k / (1 - k))
