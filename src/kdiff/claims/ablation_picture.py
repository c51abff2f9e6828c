"""The picture of the ablations: k(t) of every form, distances, and k over the steps from every start and at every pace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from kdiff.claims import kinds_of_k as kinds
from kdiff.claims.claim import Outcome, Study
from kdiff.claims.kinds_of_k import COLOURS, LOGIT_NORMAL, UNIFORM, cell
from kdiff.claims.panels import draw_k, tidy
from kdiff.claims.quality import by_target, quality_rows
from kdiff.report.drawing import new_figure, save_figure
from kdiff.studies.predictions import second_moments
from kdiff.theory import k_of_time


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """Above, k(t) of every form under both laws; below, distances by kind of k, and k over the steps by start and pace."""
    names = kinds.datasets(study.full)
    figure = new_figure(13 if len(names) > 1 else 8.5, 7)
    panels = figure.subplots(2, 2 * len(names), squeeze=False)
    for i, data in enumerate(names):
        for j, law in enumerate((UNIFORM, LOGIT_NORMAL)):
            _draw_curves(panels[0, 2 * i + j], study, data, law)
        _draw_distances(panels[1, 2 * i], study, data)
        _draw_ways(panels[1, 2 * i + 1], study, cell(data, UNIFORM))
    panels[0, 0].legend(fontsize=7, frameon=False)
    save_figure(figure, path)


def _draw_curves(axes: Any, study: Study, data: str, law: str) -> None:
    name = cell(data, law)
    for target, form in {"learned": "constant", **kinds.FORMS}.items():
        for row in study.runs(cell=name, target=target):
            label = form if row["seed"] == 0 else None
            style: dict[str, Any] = {"color": COLOURS[target], "linewidth": 1.2, "alpha": 0.8}
            if target == "learned":
                axes.plot([0, 1], [row["k"]] * 2, label=label, **style)
            else:
                axes.plot(*kinds.curve(study.folder(name, target, row["seed"])), label=label, **style)
    t = np.linspace(0, 1, 201)
    best = k_of_time(t, second_moments(kinds.DATA[data]))
    axes.plot(t, best, ":", color="#999999", linewidth=1, label="best at û = 0 (theory)")
    axes.set(xlim=(0, 1), ylim=(-0.03, 1.03), xlabel="t (0 noise, 1 data)", ylabel="k(t)")
    tidy(axes, name)


def _draw_distances(axes: Any, study: Study, data: str) -> None:
    forms = {"learned": "constant", kinds.PAIR: "pair", **kinds.FORMS}
    for law, filled, shift in ((UNIFORM, True, -0.12), (LOGIT_NORMAL, False, 0.12)):
        values = by_target(quality_rows(study, cell(data, law)))
        for i, target in enumerate(forms):
            colour = COLOURS[target]
            style: dict[str, Any] = {"color": colour, "mfc": colour if filled else "none", "markersize": 5}
            axes.plot([i + shift] * len(values[target]), values[target], "o", **style)
    axes.set_xticks(range(len(forms)), [form.replace(" ", "\n") for form in forms.values()], fontsize=7)
    axes.set_ylim(0, 1.1 * axes.get_ylim()[1])
    axes.set_ylabel("Fréchet distance" if data == "digits" else "distance")
    tidy(axes, f"{data}: filled uniform, open logit-normal")


def _draw_ways(axes: Any, study: Study, name: str) -> None:
    targets = dict.fromkeys([*kinds.STARTS.values(), *kinds.PACES.values(), kinds.CLAMPED, kinds.EXACT])
    colours = iter(("#c44e52", "#4c72b0", "#dd8452", "#8172b3", "#937860", "#64b5cd", "#8c8c8c"))
    for target in targets:
        colour = COLOURS["learned"] if target == "learned" else next(colours)
        label = target.removeprefix("learned").strip("()") or "start 0.5, pace 10"
        label = label.replace("init=", "start ").replace("rate=", "pace ").replace("clamp_target=False", "exact target")
        style = {"color": colour, "linewidth": 1.2, "linestyle": "--" if target == kinds.EXACT else "-"}
        draw_k(axes, study, label, style, cell=name, target=target, seed=0)
    axes.set_ylim(0, 1)
    tidy(axes, "k from several starts, paces, clamps (uniform times, seed 0)", fontsize=6.5)
