"""Does learned k follow the dimension d of the data? At fixed D, on linear and curved manifolds; then on real data.

The paper's rule is D/(D + d). The linear theory behind it does not contain d. For a loss on u it says D/(D + E‖x‖²), where
E‖x‖² is tr Σ plus the squared norm of the mean. Both are the same only for data of mean 0 with variance 1 in d directions and 0
in the others. For the loss on v, which k-Diff trains with, the theory gives other values. So one series of data changes d while
tr Σ stays the same. The d of real data is estimated by all methods of `kdiff.theory.intrinsic_dimension`: everything that
`kdiff estimate` says about data is tested here.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.claims.claim import Claim, Finding, Group, Outcome, Study, decided
from kdiff.claims.evidence import FACTOR, ByCell, last_move, learned_k, moves_one_way, nearest, precise, still_moving, within
from kdiff.claims.panels import doubling
from kdiff.config.studies import EstimateConfig
from kdiff.config.training import TrainConfig
from kdiff.data import load
from kdiff.report.drawing import INK, new_figure, plain, save_figure
from kdiff.run.build import load_dataset
from kdiff.studies.estimation import View, estimate
from kdiff.studies.tables import markdown

D = 64
TOTAL = 8  # tr Σ of the series in which it stays the same
POINTS = 5000
RULE = "D/(D + d)"
OTHERS = {  # predictions of `kdiff estimate`, by their names there
    "linear, loss on u": "D/(D + E‖x‖²)",
    "linear, loss on v, start": "v-loss, start",
    "linear, loss on v, end": "v-loss, end",
}
SERIES = {"linear": "variance 1 on a plane", "curved": "on a bent plane", "total": f"tr Σ = {TOTAL} on a plane"}
COLOURS = ("#4c72b0", "#55a868", "#dd8452", "#8172b3", "#c44e52", "#937860", "#da8bc3")
JIT = "JiT(patch_size={}, hidden_size=96, depth=4, num_heads=4, bottleneck=32, context_tokens=4, context_start=1)"


@dataclass(frozen=True)
class Case:
    """One cell: its data, their d if it is known, the series that it belongs to, and the patch size of a transformer."""

    data: str
    d: int | None
    series: str
    patch: int | None = None


def cases(full: bool) -> dict[str, Case]:
    """All cells by name; white noise is the last of the linear series. Fashion-MNIST only where it is installed."""
    found = {}
    num = "num_samples=10000" if full else "num_samples=5000"
    plane = f"gaussian(ambient_dim={D}, {num}, intrinsic_dim="
    for d in (1, 2, 4, 8, 16, 32, 64) if full else (1, 8, 64):
        found[f"linear, d = {d}" if d < D else "white noise"] = Case(f"{plane}{d})", d, "linear")
    for d in (1, 4, 16, 64) if full else (1, 64):
        found[f"tr Σ = {TOTAL}, d = {d}"] = Case(f"{plane}{d}, variance={TOTAL / d:g})", d, "total")
    for d in (1, 2, 4, 8, 16, 32) if full else ():
        found[f"curved, d = {d}"] = Case(f"{plane}{d}, embedding=curved)", d, "curved")
    found["sphere, D = 24"] = Case(f"sphere(ambient_dim=24, intrinsic_dim=3, embedding=curved, {num})", 3, "held out")
    if full:
        mixture = f"gaussian_mixture(ambient_dim=40, intrinsic_dim=6, components=5, spread=0.5, embedding=curved, {num})"
        found["mixture, D = 40"] = Case(mixture, 6, "held out")
    found["digits"] = Case("digits", None, "real")
    if full:
        found["photo patches"] = Case("photo_patches", None, "real")
        found["photo patches, colour"] = Case("photo_patches(colour=true)", None, "real")
        found |= {"Fashion-MNIST": Case("fashion", None, "real")} if _has_fashion() else {}
    found["digits, transformer"] = Case("digits", None, "real", patch=2)
    if full and _has_fashion():
        found["Fashion-MNIST, transformer"] = Case("fashion", None, "real", patch=4)
    return found


@lru_cache
def _has_fashion() -> bool:
    try:
        return len(load("fashion", part="train").x) > 0
    except FileNotFoundError:
        return False


def settings(case: Case, full: bool) -> TrainConfig:
    """The default MLP with its settings, or a transformer that is small enough for a CPU."""
    if case.patch is None:
        return TrainConfig(data=case.data, network="MLP(width=256, depth=4)", steps=8000 if full else 1000)
    return TrainConfig(data=case.data, network=JIT.format(case.patch), steps=2000 if full else 300, batch_size=64)


def plan(full: bool) -> list[Group]:
    """MLPs, and transformers in one or two cells."""
    found = {name: settings(case, full) for name, case in cases(full).items()}
    mlps = {name: config for name, config in found.items() if "MLP" in str(config.network)}
    others = {name: config for name, config in found.items() if name not in mlps}
    return [Group(mlps, ["learned"], range(3 if full else 2)), Group(others, ["learned"], range(3 if full else 1))]


@lru_cache
def seen(data: str, patch: int | None = None) -> list[View]:
    """What `kdiff estimate` says about the training samples and, for images, about their patches."""
    return estimate(load_dataset(TrainConfig(data=data)), EstimateConfig(max_points=POINTS, patch_size=patch or 0))


def predictions(case: Case) -> dict[str, float]:
    """Predictions of k that need no estimate of d: the rule, where d is known, and the theories based on the spectrum."""
    found = seen(case.data, case.patch)[0]
    known = {} if case.d is None else {RULE: found.D / (found.D + case.d)}
    return known | {OTHERS[one.theory]: one.k for one in found.predictions if one.theory in OTHERS}


def estimated(found: View) -> dict[str, float]:
    """D/(D + d) for every estimate of d."""
    return {f"{each.method}, {each.scope}": found.D / (found.D + each.value) for each in found.dimensions}


def present(study: Study) -> dict[str, Case]:
    """The cells of a study, in the order of the plan."""
    return {name: case for name, case in cases(study.full).items() if name in study.cells}


def series(study: Study, name: str) -> dict[int, str]:
    """The cells of a series by d. Variance 1 in d = 8 directions also belongs to the series of that total variance."""
    found = present(study)
    cells = {case.d: cell for cell, case in found.items() if case.d and case.series == name}
    if name == "total":
        cells |= {case.d: cell for cell, case in found.items() if case.d == TOTAL and case.series == "linear"}
    return dict(sorted(cells.items()))


def examine(study: Study) -> Outcome:
    """Learned k as a function of d, and compared with all predictions."""
    found = present(study)
    ks = {name: learned_k(study, name) for name in found}
    known_d = {name: predictions(case) for name, case in found.items() if case.d}
    rule = {name: each[RULE] for name, each in known_d.items()}
    known = {name: k for name, k in rule.items() if found[name].series in ("linear", "curved")}
    held = {name: k for name, k in rule.items() if found[name].series == "held out"}
    at_fixed_size = {SERIES[name]: [ks[cell] for cell in series(study, name).values()] for name in SERIES}
    one_variance = {SERIES["total"]: at_fixed_size.pop(SERIES["total"])}
    at_fixed_size = {name: cells for name, cells in at_fixed_size.items() if cells}
    moving = still_moving(study, found)
    close = f"at D = {D} the d that learned k implies by k = D/(D + d) is right within a factor of {FACTOR}"
    counts = f"d itself counts: at D = {D} and the same tr Σ learned k still falls as d grows"
    closest = "where d is known, D/(D + d) is closer to learned k than the other predictions"
    findings = [
        moves_one_way(f"at D = {D} learned k falls as d grows", at_fixed_size, up=False, may_refute=study.full),
        moves_one_way(counts, one_variance, up=False, may_refute=study.full),
        within(close, ks, known, may_refute=study.full, moving=moving),
        within("the same holds on held-out manifolds of other sizes", ks, held, may_refute=study.full, moving=moving),
        _real(ks, found, study.full, moving),
        nearest(closest, ks, known_d, RULE, study.full, moving),
    ]
    notes = [
        "On Fashion-MNIST the width of the MLP, 256, is below D; k may depend on that too.",
        *([] if not study.full or _has_fashion() else ["Fashion-MNIST is not installed here: its cells were left out."]),
    ]
    return Outcome(findings, f"{_table(study, ks)}\n\n{_estimates_table(study, ks)}", notes)


def _real(ks: ByCell, found: Mapping[str, Case], full: bool, moving: Collection[str]) -> Finding:
    """Confirmed if one estimator is right for all of these data; refuted if each fails in all runs of some cell."""
    real = {name: case for name, case in found.items() if case.series == "real" or name == "white noise"}
    rules = {name: estimated(seen(case.data, case.patch)[0]) for name, case in real.items()}
    verdicts, listed = [], []
    for method in next(iter(rules.values())):
        predicted = {name: rule[method] for name, rule in rules.items()}
        verdicts.append(within("", ks, predicted, moving=moving).verdict)
        off = {name: statistics.mean(ks[name].values()) - predicted[name] for name in real}
        worst = max(off, key=lambda name: abs(off[name]))
        listed.append(f"{method} {statistics.mean(map(abs, off.values())):.3f} ({off[worst]:+.3f} for {worst})")
    return Finding(
        "on real data and white noise the d that learned k implies by k = D/(D + d) agrees with some estimate of d, within a "
        f"factor of {FACTOR}",
        decided("confirmed" in verdicts, full and set(verdicts) == {"refuted"}),
        f"mean difference of learned k from D/(D + d) over {len(real)} cells (and the largest one), d by: {'; '.join(listed)}",
    )


def _table(study: Study, ks: ByCell) -> str:
    header = ["cell", "D", "d", "tr Σ", "E‖x‖²", "learned k", "change of k in the last quarter"]
    header += [f"{name} (learned k minus this)" for name in (RULE, *OTHERS.values())]
    lines = []
    for name, case in present(study).items():
        mean, whole = statistics.mean(ks[name].values()), seen(case.data, case.patch)[0]
        line = [name, str(whole.D), str(case.d or ""), f"{whole.total_variance:.3g}"]
        line += [f"{whole.total_variance + whole.squared_mean:.3g}", precise(ks[name].values(), 3)]
        line += [f"{last_move(study, name):+.3f}", *([] if case.d else [""])]
        lines.append([*line, *(f"{k:.3f} ({mean - k:+.3f})" for k in predictions(case).values())])
    return markdown(header, lines)


def _unknown(study: Study) -> dict[str, Case]:
    """The cells in which d is estimated, also some in which d is known, to test the estimates."""
    found = present(study)
    return {name: case for name, case in found.items() if name == "white noise" or case.series in ("held out", "real")}


def _estimates_table(study: Study, ks: ByCell) -> str:
    """D/(D + d) for every estimate of d; for transformers also for the estimates of their patches."""
    views = {}
    for name, case in _unknown(study).items():
        whole, *patches = seen(case.data, case.patch)
        views[name] = (whole, ks[name])
        if case.patch:
            views[f"{name}: {patches[0].name}"] = (patches[0], ks[name])
    methods = list(estimated(next(iter(views.values()))[0]))
    lines = []
    for name, (found, values) in views.items():
        k, size = statistics.mean(values.values()), found.D
        dims = {f"{each.method}, {each.scope}": each.value for each in found.dimensions}
        cells = [
            f"{dims[method]:.3g}: {rule:.3f} ({k - rule:+.3f})" if rule else "none"
            for method, rule in ((method, estimated(found).get(method)) for method in methods)
        ]
        lines.append([name, str(size), f"{k:.3f}", f"{size * (1 - k) / k:.3g}", *cells])
    header = [f"d by {method}: D/(D + d) (learned k minus this)" for method in methods]
    return markdown(["cell", "D", "learned k", "d implied by k", *header], lines)


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """k as a function of d at D = 64; learned k and every prediction on real data."""
    left, right = (figure := new_figure(11, 4.8)).subplots(1, 2, width_ratios=[1, 1.25])
    _draw_series(left, study)
    _draw_real(right, study)
    save_figure(figure, path)


def _draw_series(axes: Any, study: Study) -> None:
    for (name, label), colour, marker in zip(SERIES.items(), COLOURS, "oDs"):
        cells = series(study, name)
        for d, cell in cells.items():
            ks = list(learned_k(study, cell).values())
            axes.plot([d] * len(ks), ks, marker, color=colour, mfc="white", markersize=4.5)
        means = [statistics.mean(learned_k(study, cell).values()) for cell in cells.values()]
        axes.plot(list(cells), means, "-", color=colour, linewidth=1.2, label=f"learned, {label}" if cells else None)
    ds = np.geomspace(1, D, 50)
    axes.plot(ds, D / (D + ds), color=INK, linewidth=1, label="D/(D + d)")
    axes.plot(ds, 1 / (1 + np.sqrt(ds / D)), "--", color=INK, linewidth=1, label="√D/(√D + √d), v-loss, start")
    axes.axhline(D / (D + TOTAL), color=COLOURS[2], linewidth=1, linestyle=":", label=f"D/(D + tr Σ), tr Σ = {TOTAL}")
    doubling(axes, "d", sorted({d for name in SERIES for d in series(study, name)}))
    axes.set_ylabel("k")
    plain(axes, f"MLPs at D = {D}", size=8, fontsize=7)


def _draw_real(axes: Any, study: Study) -> None:
    shown = _unknown(study)
    for y, (name, case) in enumerate(shown.items()):
        axes.axhline(y, color="#e5e5e5", linewidth=0.8, zorder=0)
        others = predictions(case)
        if RULE in others:
            axes.plot(others.pop(RULE), y, "x", color=INK, markersize=9, zorder=5, label=f"{RULE}, d known" if y == 0 else None)
        points = [(f"D/(D + d), {method}", k, "o") for method, k in estimated(seen(case.data, case.patch)[0]).items()]
        points += [(key, k, marker) for (key, k), marker in zip(others.items(), "s^v")]
        for (label, k, marker), colour in zip(points, (*COLOURS, "#8c8c8c", "#ccb974", "#64b5cd")):
            axes.plot(k, y, marker, color=colour, markersize=5, alpha=0.85, label=label if y == 0 else None)
        ks = list(learned_k(study, name).values())
        axes.plot(ks, [y] * len(ks), "|", color=INK, markersize=16, markeredgewidth=1.6, label="learned" if y == 0 else None)
    axes.set_yticks(range(len(shown)), list(shown))
    axes.set(xlabel="k", ylim=(len(shown) - 0.5, -0.5))
    plain(axes, "learned k and its predictions", size=8, loc="upper center", bbox_to_anchor=(0.4, -0.12), ncols=3)


CLAIM = Claim(
    name="dimension",
    title="does learned k fall as d grows at fixed D, and is it D/(D + d) on real data?",
    says="Learned k follows the intrinsic dimension d of the data: at fixed D it falls as d grows, and on real data it is "
    "D/(D + d).",
    varied="d from 1 to 64 at D = 64, on flat and on bent planes, and at one total variance; two held-out manifolds of other "
    "sizes; digits, Fashion-MNIST, photo patches in grey and in colour, and white noise. MLPs, and transformers on digits and "
    "Fashion-MNIST; three seeds.",
    measured="k after training, compared with D/(D + d) for the known d or for seven estimates of d, with D/(D + E‖x‖²), and "
    "with what the linear theory predicts for the loss on v, at the start and at the end of training.",
    refuted_if="k rises with d at some step (paired over seeds, at the 5 % level over all comparisons), also at one total "
    "variance; or, where d is known, all runs of one cell end with an implied d, D (1 − k)/k, that is off by more than a "
    "factor of 1.25, and k is at rest there (the implied d changes by less than this factor in the last quarter); or, on real "
    "data, this is so for every way to estimate d; or another prediction is closer to learned k on average over the cells at "
    "rest, in every seed, by k and by its logit (confirmed only if no other prediction is the closest in more of these cells).",
    core_hours=(0.05, 1.6),
    plan=plan,
    examine=examine,
    draw=draw,
)
