"""Does D/(D + d) hold for non-linear networks? Fixed values of k in MLPs of growing size, and in transformers.

The paper's rule is a theorem about linear networks under a loss on u. The paper leaves open whether deep networks follow it. If
the best k depends on D and d alone, the width and depth of the network do not change it. So here data of known d lie on a bent
sheet, which a linear network cannot follow, and every network is trained with a grid of fixed k, with the k of the rule, and
with a learned k. The d of images is not known; the estimate of TwoNN is used for it (`kdiff.theory.intrinsic_dimension`).
"""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdiff.claims.claim import SMALL_JIT, Claim, Finding, Group, Outcome, Study
from kdiff.claims.evidence import FACTOR, alike, last_factor, learned_k, nearest, spread, still_moving, within
from kdiff.claims.panels import tidy
from kdiff.claims.quality import QUALITY, by_target, not_apart, quality_rows, reaches_the_best
from kdiff.config.parts import Spec
from kdiff.config.training import TrainConfig
from kdiff.report.curve import draw_curve, logarithmic
from kdiff.report.drawing import new_figure, save_figure
from kdiff.studies.comparison import fixed_targets
from kdiff.studies.paired import best_of
from kdiff.studies.predictions import predictions
from kdiff.studies.tables import markdown
from kdiff.targets import PAPER_CLAMP, fixed_k

D = 32
RULE = "D/(D + d)"
Values = dict[str, dict[str, list[float]]]  # by cell and target, in order of seeds
GRID = [k / 10 for k in range(11)]
COARSE = [0.25, 0.5, 0.75, 1.0]  # the grid of the transformers
# Ambient dimension, and TwoNN's estimate of d from up to 5,000 training samples (as `estimate_dimensions` draws them).
IMAGES = {"digits": (64, 9.2), "fashion": (784, 15.2), "glyphs(size=16)": (768, 4.5)}
# Data, patch size, and the number of samples to evaluate, at least as many as there are held-out data.
TRANSFORMERS = {
    "digits, 16 patches of 2×2": ("digits", 2, 2000),
    "digits, 4 patches of 4×4": ("digits", 4, 2000),
    "fashion, 4 patches of 14×14": ("fashion", 14, 5000),
    "glyphs, 4 patches of 8×8×3": ("glyphs(size=16)", 8, 2000),
}


def sizes(full: bool) -> list[tuple[int, int]]:
    """The widths and depths of the MLPs."""
    return [(64, 1), (64, 4), (256, 1), (256, 4), (256, 8)] if full else [(64, 1), (64, 4)]


def cell(width: int, depth: int, d: int) -> str:
    """The name of an MLP's cell."""
    return f"MLP {width} × {depth}, d = {d}"


def rule(D: int, d: float) -> float:
    """D/(D + d) with three decimals, as it is given as a target."""
    return round(D / (D + d), 3)


def sheet(d: int) -> str:
    """Gaussian data on a bent sheet of d dimensions."""
    return f"gaussian(ambient_dim={D}, intrinsic_dim={d}, embedding=curved)"


def mlp_cells(d: int, full: bool) -> dict[str, TrainConfig]:
    """MLPs of all sizes, for one d."""
    config = replace(_settings(3000 if full else 600, full), data=sheet(d))
    return {cell(w, h, d): replace(config, network=f"MLP(width={w}, depth={h})") for w, h in sizes(full)}


def _settings(steps: int, full: bool) -> TrainConfig:
    """Ten lines of metrics, so that the last one is the mean loss of a tenth of the steps."""
    return TrainConfig(steps=steps, ema=[0.999 if full else 0.99], log_every=steps // 10)


def transformer(data: str, patch: int, full: bool) -> TrainConfig:
    """A small JiT."""
    settings = _settings(2000 if full else 250, full)
    return replace(settings, data=data, network=SMALL_JIT.format(patch=patch), batch_size=64)


def transformers(full: bool) -> dict[str, tuple[str, int, int]]:
    """The cells of transformers: data, patch size and number of samples, by name."""
    return TRANSFORMERS if full else {"digits, 4 patches of 4×4": ("digits", 4, 260)}


def rules(full: bool) -> dict[str, float]:
    """The k of the rule in every cell."""
    mlps = {cell(*size, d): rule(D, d) for d in ((2, 16) if full else (2,)) for size in sizes(full)}
    return {**mlps, **{name: rule(*IMAGES[data]) for name, (data, _, _) in transformers(full).items()}}


def plan(full: bool) -> list[Group]:
    """A group for each data set, because the k of the rule is one of its targets."""
    seeds, groups = range(3 if full else 1), []
    for d in (2, 16) if full else (2,):
        targets: list[Spec] = [*sorted([*GRID, rule(D, d)]), "learned"]
        groups.append(Group(mlp_cells(d, full), targets, seeds, num_samples=2000, exact=full))
    for name, (data, patch, num) in transformers(full).items():
        targets = [*sorted([*COARSE, rule(*IMAGES[data])]), "learned"]
        groups.append(Group({name: transformer(data, patch, full)}, targets, seeds, num_samples=num, exact=full))
    return groups


def examine(study: Study) -> Outcome:
    """The k of the rule and learned k, each against the best k of the grid; and where learned k ends."""
    of_rule = rules(study.full)
    rows = {name: quality_rows(study, name) for name in of_rule}
    values = {name: by_target(rows[name]) for name in rows}
    losses = {name: by_target(rows[name], "loss") for name in rows}
    mlps = [name for name in rows if name.startswith("MLP")]
    others = [name for name in rows if name not in mlps]
    ks = {name: learned_k(study, name) for name in rows}
    of_sheet = [{name: ks[name] for name in mlps if of_rule[name] == k} for k in dict.fromkeys(of_rule[name] for name in mlps)]
    moving = still_moving(study, rows)
    implied = f"the d that learned k implies by k = D/(D + d) is right within a factor of {FACTOR} (for images: TwoNN's d)"
    same = f"MLPs: width and depth do not matter: on the same data (1 − k)/k is the same within a factor of {FACTOR}"
    closest = "D/(D + d) is closer to learned k than the linear theories"
    learned, fixed = {name: v["learned"] for name, v in values.items()}, {name: _fixed(v) for name, v in values.items()}
    findings = [
        _rule_is_best("MLPs: no fixed k has better samples than D/(D + d)", values, mlps, of_rule, "distance"),
        _rule_is_best("MLPs: no fixed k has a lower v-loss than D/(D + d)", losses, mlps, of_rule, "v-loss", clear=True),
        _rule_is_best("transformers: no fixed k has better samples than D/(D + d)", values, others, of_rule, "distance"),
        reaches_the_best(
            "the samples of learned k are as good as those of the best fixed k", learned, fixed, "distance of learned k"
        ),
        within(implied, ks, of_rule, moving=moving),
        alike(same, of_sheet, moving=moving),
        replace(nearest(closest, ks, _predicted(study), RULE, moving=moving), decides=False),
    ]
    if not study.full:
        # One seed of networks that have hardly begun to learn decides nothing.
        findings = [replace(finding, verdict="inconclusive") for finding in findings]
    table = f"{_k_table(study, rows, of_rule)}\n\n{_quality_table(rows, of_rule)}"
    return Outcome(findings, table, [NOTE])


NOTE = (
    "The distance is √(d SW² + off²) for the sheets and the Fréchet distance for images. v-losses are compared for k from 0.05 "
    "to 0.95, where the clamp of the loss does not act. For images d is an estimate, and the Fréchet distance to the training "
    "data rewards copies of them. Metrics are logged ten times, so the last 30 % of the steps serve as the last quarter."
)


def _predicted(study: Study) -> dict[str, dict[str, float]]:
    """Predictions of k by cell: that of the rule, and those of the linear theories."""
    return {name: {RULE: k, **predictions(study.data(name))} for name, k in rules(study.full).items()}


def _fixed(values: dict[str, list[float]], clear: bool = False) -> dict[str, list[float]]:
    """The values of fixed k only; if `clear`, only of those where the clamp of the loss does not act."""
    ks = {target: fixed_k(target) for target in values}
    low, high = (PAPER_CLAMP, 1 - PAPER_CLAMP) if clear else (0.0, 1.0)
    return {target: values[target] for target, k in ks.items() if k is not None and low <= k <= high}


def _rule_is_best(
    statement: str, values: Values, cells: list[str], of_rule: dict[str, float], what: str, clear: bool = False
) -> Finding:
    fixed = {name: _fixed(values[name], clear) for name in cells}
    ours = {name: fixed[name][f"{of_rule[name]:g}"] for name in cells}
    others = {name: {t: v for t, v in fixed[name].items() if t != f"{of_rule[name]:g}"} for name in cells}
    return reaches_the_best(statement, ours, others, f"{what} of the rule")


def _k_table(study: Study, rows: dict[str, list[dict[str, Any]]], of_rule: dict[str, float]) -> str:
    """The best fixed k, the end of learned k, and the predictions."""
    lines, predicted = [], _predicted(study)
    for name, found in rows.items():
        quality, loss = _fixed(by_target(found)), _fixed(by_target(found, "loss"), clear=True)
        several = len(quality[best_of(quality)]) > 1
        close = [f"{k:g}" for target, k in fixed_targets(found).items() if several and target in not_apart(quality)]
        ks = list(learned_k(study, name).values())
        learned = [spread(ks), f"{last_factor(study, name):.2f}"]
        best = [best_of(quality), ", ".join(close) if several else "one seed", best_of(loss)]
        theories = {theory: f"{k:.3f}" for theory, k in predicted[name].items() if theory != RULE}
        lines.append([name, f"{of_rule[name]:g}", *best, *learned, *theories.values()])
    header = ["network, data", RULE, "best fixed k", "not significantly worse", "best fixed k by v-loss", "learned k"]
    header += [
        "factor by which (1 − k)/k changed in the last 30 % of the steps",
        *(f"linear theory, {theory}" for theory in theories),
    ]
    return markdown(header, lines)


def _quality_table(rows: dict[str, list[dict[str, Any]]], of_rule: dict[str, float]) -> str:
    """The distance for some k with the clean sampler (with the paper's sampler in brackets), and its floors."""
    lines = []
    for name, found in rows.items():
        clean, paper = by_target(found), by_target(found, sampler="paper")
        best = best_of(_fixed(clean))
        figures = [
            f"{spread(clean[t])} ({statistics.mean(paper[t]):.3g})" for t in ("0.5", f"{of_rule[name]:g}", best, "1", "learned")
        ]
        exact = next((row["exact"] for row in found if row["target"] == "0.5" and row["exact"] is not None), None)
        grouped = statistics.mean(by_target(found, "grouped")["learned"])
        floors = ["" if exact is None else f"{exact:.3g}", f"{grouped:.3g}", f"{found[0]['heldout']:.3g}"]
        lines.append([name, *figures, *floors])
    header = ["distance, clean (paper's sampler)", "k = ½", "D/(D + d)", "best fixed", "k = 1", "learned"]
    return markdown([*header, "floor: exact denoiser", "learned, in groups", "floor: held out"], lines)


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """A panel for each cell: distance as a function of k, the end of learned k, and the rule."""
    of_rule = rules(study.full)
    mlps = [name for name in of_rule if name.startswith("MLP")]
    columns = len(sizes(study.full)) if len(mlps) > 2 else len(of_rule)
    lines = [mlps[i : i + columns] for i in range(0, len(mlps), columns)]
    others = [name for name in of_rule if name not in mlps]
    lines = [*lines, others] if len(lines[-1]) == columns and len(mlps) > 2 else [[*mlps, *others]]
    figure = new_figure(3.1 * columns, 2.9 * len(lines) + 0.4)
    panels = figure.subplots(len(lines), columns, squeeze=False)
    for line, names in zip(panels, lines):
        for axes, name in zip(line, names):
            _panel(axes, quality_rows(study, name), name, of_rule[name])
        for axes in line[len(names) :]:
            axes.set_axis_off()
    # One legend for all panels, because in a panel it would cover the lines. The titles say what differs between panels.
    handles, labels = panels[0, 0].get_legend_handles_labels()
    plain = [label.partition(":")[0] if label.startswith("learned") else label.partition(" =")[0] for label in labels]
    figure.legend(handles, plain, loc="outside lower center", ncols=len(plain), fontsize=8, frameon=False)
    save_figure(figure, path)


def _panel(axes: Any, rows: list[dict[str, Any]], name: str, k: float) -> None:
    draw_curve(axes, rows, QUALITY, colours={"learned": "#55a868"})
    axes.axvline(k, color="#c44e52", linewidth=1, linestyle=":", label=f"D/(D + d) = {k:g}", zorder=0)
    images = not name.startswith("MLP")
    axes.set_ylabel("Fréchet distance" if images else "distance")
    if not images:
        # The floor is that of groups as large as the held-out set. Noise prediction is many times worse than the rest.
        axes.axhline(rows[0]["heldout"], color="#999999", linewidth=1, linestyle="--", label="floor: held-out data", zorder=0)
        axes.autoscale(axis="y")
        logarithmic(axes)
    (learned,) = (label for label in axes.get_legend_handles_labels()[1] if label.startswith("learned"))
    tidy(axes, f"{name}\n{learned.replace(': k =', '')}, rule {k:g}", size=8)
    axes.get_legend().remove()


CLAIM = Claim(
    name="depth",
    title="does D/(D + d) hold for non-linear networks?",
    says="The best k is D/(D + d) for deep networks too, whatever their width and depth; and a k that is learned finds this "
    "value.",
    varied="MLPs of 64 or 256 units and 1 to 8 layers, on bent sheets of d = 2 and 16 in D = 32: fixed k of 0, 0.1, … 1 and "
    "of the rule, and learned k. Four transformers (4 × 96): fixed k of 0.25, 0.5, 0.75, 1 and of the rule, and learned k. "
    "Three seeds.",
    measured="√(d SW² + off²) on the sheets and the Fréchet distance of images, under both samplers; v-loss; learned k.",
    refuted_if="in any cell some fixed k is significantly better than k = D/(D + d), or than learned k, with the clean "
    "sampler (paired over seeds, by logarithms, with 95 % over all cells and k); or k is at rest (D (1 − k)/k, the d that it "
    "implies, changes by less than a factor of 1.25 in the last quarter) where this d is off by more than the same factor. "
    "Confirmed only if the k of the rule is at most 10 % worse than the best, with 95 % confidence. Not part of the claim: "
    "which prediction is closest to learned k.",
    core_hours=(0.06, 4.8),
    plan=plan,
    examine=examine,
    draw=draw,
)
