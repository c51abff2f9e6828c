"""What the study `beyond` found: each finding is a comparison of `kdiff.claims.beyond_analysis` with a limit set beforehand."""

from __future__ import annotations

import math

from kdiff.claims.beyond_analysis import Settings, by_seed, chosen, of_kind, ratio, ratios, shown, targets_of
from kdiff.claims.beyond_cells import CELLS, CHOOSING, DEVELOPING, OF_TIME, PAPER, PLAIN, RECIPE, WEIGHTINGS
from kdiff.claims.claim import Finding, Study, decided
from kdiff.studies.paired import best_of
from kdiff.studies.predictions import predictions

NEAR, NEAR_HIGH = 1.05, 1.10  # the recipe against the best of the grid: geometric mean, and upper limit
HALVED, NO_WORSE = 0.5, 1.0  # against the default before: image cells, toy manifolds
UNHARMED, CLOSER = 1.02, 0.9  # calibration: on any cell, and in the mean over image cells
OFF_CLOSER = 0.9  # a target off the line against the best scalar
AS_GOOD = 1.02  # a k of a grid that is as good as the best one


def held_out(study: Study) -> list[str]:
    """The held-out cells of the study."""
    return [cell for cell in study.cells if CELLS[cell].part == "held-out"]


def developed(study: Study) -> list[str]:
    """The cells of development."""
    return [cell for cell in study.cells if CELLS[cell].part == "development"]


def near_the_best(study: Study, settings: Settings) -> tuple[Finding, dict[str, str | None]]:
    """The default recipe against the best of the grid, which other seeds have chosen; and that best by cell."""
    cells = held_out(study)
    best = {cell: chosen(study, cell, settings.targets, settings.choosing) for cell in cells}
    seeds = settings.judging
    found = ratio({cell: ratios(study, cell, RECIPE, best[cell] or "", seeds) for cell in cells}, len(seeds))
    statement = (
        "held-out cells: one run of the default recipe is as close to the data as the best of a grid of "
        f"{len(settings.targets)} runs: at most {NEAR} times in geometric mean, upper limit at most {NEAR_HIGH}, no cell worse "
        f"than {NEAR_HIGH}"
    )
    if not found.each:
        return Finding(statement, "inconclusive", str(found)), best
    overall, each = found.intervals
    worse = [cell for cell, one in each.items() if one.low > math.log(NEAR_HIGH)]
    fine = overall.mean <= math.log(NEAR) and overall.high <= math.log(NEAR_HIGH) and not worse and not found.missing
    evidence = f"recipe divided by the best: {found}; the best: " + ", ".join(f"{cell} {best[cell]}" for cell in found.each)
    if worse:
        evidence += f"; significantly worse than {NEAR_HIGH}: {', '.join(worse)}"
    return Finding(statement, decided(fine, bool(worse) or overall.low > math.log(NEAR)), evidence), best


def against(study: Study, settings: Settings, theirs: str, name: str, kind: str, limit: float, decides: bool = True) -> Finding:
    """The default recipe against another learned k, in geometric mean over the held-out cells of a kind."""
    cells, seeds = of_kind(held_out(study), kind), settings.judging
    found = ratio({cell: ratios(study, cell, RECIPE, theirs, seeds) for cell in cells}, len(seeds))
    statement = f"held-out {kind} cells: the recipe's distance is at most {limit} times that of {name}, in geometric mean"
    if not found.each:
        return Finding(statement, "inconclusive", str(found), decides)
    overall, _ = found.intervals
    verdict = decided(overall.mean <= math.log(limit) and not found.missing, overall.low > math.log(limit))
    return Finding(statement, verdict, f"recipe divided by {name}: {found}", decides)


def calibrated(study: Study, settings: Settings) -> list[Finding]:
    """The calibration of the recipe's runs, as `kdiff calibrate` adopts it, and of all of them."""
    cells = [*developed(study), *held_out(study)]

    def of(cell: str, always: bool) -> list[float]:
        adopted = by_seed(study, cell, RECIPE, "calibrated", "adopted")
        judges = CELLS[cell].part == "held-out"
        seeds = [seed for seed in adopted if seed in settings.judging or not judges]
        if judges and len(seeds) < len(settings.judging):
            return []
        logs = ratios(study, cell, RECIPE, RECIPE, seeds, ("calibrated", "clean"))
        return [value if always or adopted[seed] else 0.0 for seed, value in zip(seeds, logs, strict=True)]

    findings = []
    for always in (False, True):
        used = "of every run" if always else "where `kdiff calibrate` adopts it"
        found = ratio({cell: of(cell, always) for cell in cells}, 1)
        images = ratio({cell: values for cell, values in found.each.items() if CELLS[cell].kind == "image"}, 1)
        statement = f"calibration {used} is never worse than {UNHARMED} on any cell, and at most {CLOSER} over image cells"
        if not images.each:
            findings.append(Finding(statement, "inconclusive", str(found), not always))
            continue
        each, overall = found.intervals[1], images.intervals[0]
        worse = [cell for cell, one in each.items() if one.mean > math.log(UNHARMED)]
        surely = [cell for cell, one in each.items() if one.low > math.log(UNHARMED)]
        fine = not worse and overall.mean <= math.log(CLOSER) and not found.missing
        evidence = f"over image cells {shown(overall)}; calibrated divided by clean: {found}"
        evidence += f"; worse than {UNHARMED}: {', '.join(worse)}" if worse else ""
        verdict = decided(fine, bool(surely) or overall.low > math.log(CLOSER))
        findings.append(Finding(statement, verdict, evidence, not always))
    return findings


def off_the_line(study: Study, settings: Settings) -> tuple[Finding, dict[str, tuple[str | None, str | None]]]:
    """The best target off the line against the best scalar under the same weight, both calibrated; and both by cell."""
    each, pairs = dict[str, list[float]](), dict[str, tuple[str | None, str | None]]()
    for cell in held_out(study):
        off = [target for target in targets_of(study, cell) if target.startswith(("asymflow", "spectral", "wiener"))]
        ours = chosen(study, cell, off, settings.choosing)
        theirs = chosen(study, cell, settings.under("log"), settings.choosing)
        pairs[cell], both = (ours, theirs), ("calibrated", "calibrated")
        each[cell] = ratios(study, cell, ours, theirs, settings.judging, both) if ours and theirs else []
    found = ratio(each, len(settings.judging))
    statement = f"a target off the line is at most {OFF_CLOSER} times as far as the best scalar k on half of the held-out cells"
    if not found.each:
        return Finding(statement, "inconclusive", str(found)), pairs
    closer = [cell for cell, one in found.intervals[1].items() if one.mean <= math.log(OFF_CLOSER) and one.high < 0]
    not_closer = [cell for cell, one in found.intervals[1].items() if one.low > math.log(OFF_CLOSER)]
    half = len(each) / 2
    evidence = f"under the log weight, both calibrated: {found}; the pairs: "
    evidence += ", ".join(f"{cell} {pairs[cell][0]} against {pairs[cell][1]}" for cell in found.each)
    return Finding(statement, decided(len(closer) >= half, len(not_closer) > half), evidence), pairs


def of_time(study: Study, settings: Settings) -> Finding:
    """k(t), data prediction early and velocity prediction late, against the constant k of the recipe (question 1)."""
    seeds = settings.choosing
    best = {cell: chosen(study, cell, settings.under("log"), seeds) for cell in held_out(study)}
    found = ratio({cell: ratios(study, cell, OF_TIME, name or "", seeds) for cell, name in best.items()}, len(seeds))
    statement = "question 1: a k(t) with two learned ends is closer to the data than the best constant k under the same weight"
    if not found.each:
        return Finding(statement, "inconclusive", str(found), decides=False)
    overall, _ = found.intervals
    verdict = decided(overall.high < 0 and not found.missing, overall.low > 0)
    return Finding(statement, verdict, f"k(t) divided by the best constant k: {found}", decides=False)


def rule(study: Study, settings: Settings) -> Finding:
    """Whether the k of the linear theory is as good as the best k, under each weight (question 2)."""
    text, right, total = [], 0, 0
    for weighting in settings.weightings:
        good = []
        for cell in held_out(study):
            names = settings.under(weighting)
            if chosen(study, cell, names, settings.choosing) is None:
                continue
            values = {name: [by_seed(study, cell, name)[seed] for seed in settings.choosing] for name in names}
            theory = predictions(study.data(cell))["loss on u"]
            nearest = min(settings.grid, key=lambda k: abs(k - theory))
            at_rule, best = values[names[list(settings.grid).index(nearest)]], values[best_of(values)]
            good.append(sum(math.log(a / b) for a, b in zip(at_rule, best)) / len(best) <= math.log(AS_GOOD))
        right, total = right + sum(good), total + len(good)
        text.append(f"{weighting} in {sum(good)} of {len(good)} cells")
    statement = f"question 2: the k of the grid that is nearest to D/(D + E‖x‖²) is within {AS_GOOD} of the best k"
    verdict = decided(bool(total) and right == total, total > 0 and right < total / 2)
    return Finding(statement, verdict, "weight " + "; ".join(text), decides=False)


def weight_and_k(study: Study, settings: Settings) -> Finding:
    """Whether the weight counts more than k: the best under each weight, and the spread over k under each (development)."""
    lines = {weighting: list[float]() for weighting in WEIGHTINGS}
    spans = {weighting: list[float]() for weighting in WEIGHTINGS}
    for cell in developed(study):
        best = {w: chosen(study, cell, settings.under(w), DEVELOPING) for w in settings.weightings}
        if None in best.values():
            continue
        nearest = {w: by_seed(study, cell, str(target))[0] for w, target in best.items()}
        for w in settings.weightings:
            lines[w].append(math.log(nearest[w] / min(nearest.values())))
            inside = [by_seed(study, cell, target)[0] for k, target in zip(settings.grid, settings.under(w)) if k >= 0.5]
            spans[w].append(math.log(max(inside) / min(inside)))
    count = len(lines[settings.weightings[0]])
    statement = "development cells: with the log weight it matters less which k is taken (from 0.5 on) than without a weight"
    if not count:
        return Finding(statement, "inconclusive", "no cell of development is finished", decides=False)
    text = [
        f"{w}: best k {math.exp(sum(lines[w]) / count):.3g} times the best of all weights, largest over smallest distance "
        f"{math.exp(sum(spans[w]) / count):.3g}"
        for w in settings.weightings
    ]
    fewer = sum(a < b for a, b in zip(spans["log"], spans["none"]))
    evidence = f"geometric means over {count} cells, one seed; {'; '.join(text)}; smaller in {fewer} of {count} cells"
    return Finding(statement, decided(fewer == count, fewer < count / 2), evidence, decides=False)


def persists(study: Study) -> Finding:
    """The recipe against the paper's and the default before, with four times the training and twice the width."""
    cells = [cell for cell in study.cells if CELLS[cell].part == "persistence"]
    found = {
        name: ratio({cell: ratios(study, cell, RECIPE, target, CHOOSING) for cell in cells}, len(CHOOSING))
        for name, target in (("the paper's", PAPER), ("the default before", PLAIN))
    }
    evidence = "; ".join(f"recipe divided by {name}: {each}" for name, each in found.items())
    statement = "with four times the training and with twice the width the recipe is still closer to the data than the paper's"
    deciding = found["the paper's"]
    if not deciding.each:
        return Finding(statement, "inconclusive", evidence)
    overall, each = deciding.intervals
    fine = overall.high < 0 and all(one.mean < 0 for one in each.values()) and not deciding.missing
    return Finding(statement, decided(fine, any(one.low > 0 for one in each.values())), evidence)
