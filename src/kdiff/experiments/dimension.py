"""Is it the dimension of the data that learned k follows? At fixed D, on linear and curved manifolds; then on real data.

The paper's rule is D/(D + d). The linear theory behind it has no d: it says D/(D + E‖x‖²) for a loss on u, where E‖x‖² is
tr Σ and the squared norm of the mean. That is the same only for data of mean 0 with unit variance in d directions and none in
others; for the loss on v, which k-Diff trains with, it says other numbers. So one series changes d and leaves tr Σ alone. Of
real data d is estimated, by all methods of `kdiff.theory.dimension`: all that `kdiff estimate` says of data is put to the test.
"""

from __future__ import annotations

import statistics
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kdiff.data import load
from kdiff.experiments.claim import Claim, Finding, Group, Outcome, Study, Verdict, markdown
from kdiff.experiments.compare import deviation
from kdiff.experiments.config import EstimateConfig
from kdiff.experiments.estimate import View, estimate
from kdiff.experiments.evidence import FACTOR, last_move, learned_k, moves_one_way, nearest, still_moving, within
from kdiff.report.samples import INK, new_figure, save_figure
from kdiff.training.build import load_dataset
from kdiff.training.config import TrainConfig

D = 64
TOTAL = 8  # tr Σ of the series that leaves it alone
POINTS = 5000
RULE = "D/(D + d)"
OTHERS = {  # of `kdiff estimate`, as they are called there
    "linear, loss on u": "D/(D + E‖x‖²)",
    "linear, loss on v, start": "v-loss, start",
    "linear, loss on v, end": "v-loss, end",
}
SERIES = {"linear": "variance 1 on a plane", "curved": "on a bent plane", "total": f"tr Σ = {TOTAL} on a plane"}
COLOURS = ("#4c72b0", "#55a868", "#dd8452", "#8172b3", "#c44e52", "#937860", "#da8bc3")
JIT = "JiT(patch_size={}, hidden_size=96, depth=4, num_heads=4, bottleneck=32, context_tokens=4, context_start=1)"


@dataclass(frozen=True)
class Case:
    """One cell: its data, their dimension if that is known, the series it belongs to, and a transformer's patch size."""

    data: str
    d: int | None
    series: str
    patch: int | None = None


def cases(full: bool) -> dict[str, Case]:
    """All cells by name, white noise (the last of the linear series) among them. Fashion-MNIST only where it is installed."""
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
    """The default MLP and its settings, or a transformer small enough for a CPU."""
    if case.patch is None:
        return TrainConfig(data=case.data, network="MLP(width=256, depth=4)", steps=8000 if full else 1000)
    return TrainConfig(data=case.data, network=JIT.format(case.patch), steps=2000 if full else 300, batch_size=64)


def plan(full: bool) -> list[Group]:
    """MLPs in all cells, and transformers in one or two."""
    found = {name: settings(case, full) for name, case in cases(full).items()}
    mlps = {name: config for name, config in found.items() if "MLP" in str(config.network)}
    others = {name: config for name, config in found.items() if name not in mlps}
    return [Group(mlps, ["learned"], range(3 if full else 2)), Group(others, ["learned"], range(3 if full else 1))]


@lru_cache
def seen(data: str, patch: int | None = None) -> list[View]:
    """What `kdiff estimate` says of the training samples and, of images, of their patches."""
    return estimate(load_dataset(TrainConfig(data=data)), EstimateConfig(max_points=POINTS, patch_size=patch or 0))


def predictions(case: Case) -> dict[str, float]:
    """k without an estimate of d: by the rule, where d is known, and by the theories that see the spectrum."""
    found = seen(case.data, case.patch)[0]
    known = {} if case.d is None else {RULE: found.D / (found.D + case.d)}
    return known | {OTHERS[one.theory]: one.k for one in found.predictions if one.theory in OTHERS}


def estimated(found: View) -> dict[str, float]:
    """D/(D + d) with every estimate of d."""
    return {f"{each.method}, {each.scope}": found.D / (found.D + each.value) for each in found.dimensions}


def present(study: Study) -> dict[str, Case]:
    """The cells of a study, in the order of the plan."""
    there = {job.cell for job in study.jobs}
    return {name: case for name, case in cases(study.full).items() if name in there}


def series(study: Study, name: str) -> dict[int, str]:
    """The cells of a series by d. Variance 1 in d = 8 directions is one of the series of that total variance too."""
    found = present(study)
    cells = {case.d: cell for cell, case in found.items() if case.d and case.series == name}
    if name == "total":
        cells |= {case.d: cell for cell, case in found.items() if case.d == TOTAL and case.series == "linear"}
    return dict(sorted(cells.items()))


def examine(study: Study) -> Outcome:
    """Learned k against d, and against all predictions."""
    found = present(study)
    ks = {name: learned_k(study, name) for name in found}
    rule = {name: predictions(case)[RULE] for name, case in found.items() if case.d}
    known = {name: k for name, k in rule.items() if found[name].series in ("linear", "curved")}
    held = {name: k for name, k in rule.items() if found[name].series == "held out"}
    at_fixed_size = {SERIES[name]: [ks[cell] for cell in series(study, name).values()] for name in SERIES}
    one_variance = {SERIES["total"]: at_fixed_size.pop(SERIES["total"])}
    at_fixed_size = {name: cells for name, cells in at_fixed_size.items() if cells}
    close, moving = f"at D = {D} learned k means d by D/(D + d), within a factor of {FACTOR}", still_moving(study, found)
    findings = [
        moves_one_way(f"at D = {D} learned k falls as d grows", at_fixed_size, up=False, may_refute=study.full),
        moves_one_way(
            f"it is d that counts: at D = {D} and the same tr Σ learned k still falls", one_variance, False, study.full
        ),
        within(close, ks, known, may_refute=study.full, moving=moving),
        within("the same on held-out manifolds of other sizes", ks, held, may_refute=study.full, moving=moving),
        _real(ks, found, study.full, moving),
        nearest(
            "where d is known, D/(D + d) is nearer to learned k than the other predictions",
            ks,
            {name: predictions(case) for name, case in found.items() if case.d},
            RULE,
            study.full,
            moving,
        ),
    ]
    notes = [
        "k of an MLP whose width, 256, is below D (Fashion-MNIST) may depend on that too.",
        *([] if not study.full or _has_fashion() else ["Fashion-MNIST is not installed here: its cells were left out."]),
    ]
    return Outcome(findings, f"{_table(study, ks)}\n\n{_estimates_table(study, ks)}", notes)


def _real(ks: Mapping[str, Mapping[int, float]], found: Mapping[str, Case], full: bool, moving: Collection[str]) -> Finding:
    """Confirmed if one estimator is right for all of the data; refuted if each fails in all runs of some cell."""
    real = {name: case for name, case in found.items() if case.series == "real" or name == "white noise"}
    rules = {name: estimated(seen(case.data, case.patch)[0]) for name, case in real.items()}
    verdicts, listed = [], []
    for method in next(iter(rules.values())):
        predicted = {name: rule[method] for name, rule in rules.items()}
        verdicts.append(within("", ks, predicted, moving=moving).verdict)
        off = {name: statistics.mean(ks[name].values()) - predicted[name] for name in real}
        worst = max(off, key=lambda name: abs(off[name]))
        listed.append(f"{method} {statistics.mean(map(abs, off.values())):.3f} ({off[worst]:+.3f} for {worst})")
    verdict: Verdict = "confirmed" if "confirmed" in verdicts else "inconclusive"
    if set(verdicts) == {"refuted"} and full:
        verdict = "refuted"
    return Finding(
        f"on real data and white noise learned k means d by D/(D + d), within a factor of {FACTOR}, for some estimate of d",
        verdict,
        f"mean difference over {len(real)} cells (and the largest), d by: {'; '.join(listed)}",
    )


def _table(study: Study, ks: Mapping[str, Mapping[int, float]]) -> str:
    header = ["cell", "D", "d", "tr Σ", "E‖x‖²", "learned k", "its last quarter's move"]
    header += [f"{name} (learned k less it)" for name in (RULE, *OTHERS.values())]
    lines = []
    for name, case in present(study).items():
        mean, whole = statistics.mean(ks[name].values()), seen(case.data, case.patch)[0]
        spread = f" ± {deviation(list(ks[name].values())):.1g}" if len(ks[name]) > 1 else ""
        line = [name, str(whole.D), str(case.d or ""), f"{whole.total_variance:.3g}"]
        line += [f"{whole.total_variance + whole.squared_mean:.3g}", f"{mean:.3f}{spread}"]
        line += [f"{last_move(study, name):+.3f}", *([] if case.d else [""])]
        lines.append([*line, *(f"{k:.3f} ({mean - k:+.3f})" for k in predictions(case).values())])
    return markdown(header, lines)


def _unknown(study: Study) -> dict[str, Case]:
    """The cells whose d is estimated; where it is known as well, so that the estimates are put to the test too."""
    found = present(study)
    return {name: case for name, case in found.items() if name == "white noise" or case.series in ("held out", "real")}


def _estimates_table(study: Study, ks: Mapping[str, Mapping[int, float]]) -> str:
    """D/(D + d) with every estimate; for transformers with those of their patches too."""
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
    header = [f"d by {method}: D/(D + d) (learned k less it)" for method in methods]
    return markdown(["cell", "D", "learned k", "d that would fit", *header], lines)


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """k against d at D = 64; learned k beside every prediction on real data."""
    figure = new_figure(11, 4.8)
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.25])
    _draw_series(left, study)
    _draw_real(right, study)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(which="both", labelsize=8)
        axes.minorticks_off()
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
    axes.set_xscale("log", base=2)
    ticks = sorted({d for name in SERIES for d in series(study, name)})
    axes.set_xticks(ticks, [str(d) for d in ticks])
    axes.set(xlabel="d", ylabel="k")
    axes.set_title(f"MLPs at D = {D}", fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=7)


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
    axes.set_title("learned k and what is predicted", fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=7, loc="upper center", bbox_to_anchor=(0.4, -0.12), ncols=3)


CLAIM = Claim(
    name="dimension",
    title="at fixed D learned k falls as d grows, and on real data it is D/(D + d)",
    says="Learned k follows the data's intrinsic dimension: at fixed D it falls as d grows, and on real data it is D/(D + d).",
    varied="d from 1 to 64 at D = 64, on flat and bent planes, and at one total variance; two held-out manifolds of other "
    "sizes; digits, Fashion-MNIST, photo patches in grey and colour, white noise. MLPs, and transformers on digits "
    "and Fashion-MNIST; three seeds.",
    measured="k after training, beside D/(D + d) with d known or estimated in seven ways, D/(D + E‖x‖²), and what the linear "
    "theory says for the loss on v, at the start and at the end.",
    refuted_if="k rises with d at some step (paired over seeds, 5 % over all comparisons), also at one total variance; all "
    "runs of one cell end where D (1 − k)/k, the d that k means, is more than a factor of 1.25 off, where d is known, and k "
    "rests there (that d changes by less than this factor in the last quarter); on real data, for every way to estimate d; "
    "another prediction is nearer on average over the cells at rest, in every seed, by k and by its logit (confirmed only if "
    "none is nearest in more of them).",
    core_hours=(0.05, 1.6),
    plan=plan,
    examine=examine,
    draw=draw,
)
