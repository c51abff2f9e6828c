"""Pixels: k goes to 1 for an image transformer on large patches, and the conversion stays finite at both ends of t.

The size of a picture grows and the number of tokens stays, 16: a patch holds 49, 192, 768, 3,072 numbers, which pass a network
96 wide. The paper (arXiv 2601.21419) has k ≈ 1.0 for JiT on the pixels of ImageNet, at once. Its rule says that k grows with
D/(D + d), so with the size, as the same pictures are not more intricate for being larger; the linear theory, which sees the
total power, says that D/(D + E‖x‖²) hardly changes: E‖x‖² grows with D.

At the paper's pace the logit of k moves by no more than the learning rate per step, so 0.9 cannot be reached in 2,000 steps of
0.001; what can be asked there is how much of that way k goes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from kdiff.experiments.claim import Claim, Finding, Group, Outcome, Study, Verdict, markdown
from kdiff.experiments.compare import deviation, table, with_spread
from kdiff.experiments.ends import TIMES, at_the_ends
from kdiff.experiments.evidence import logit
from kdiff.experiments.paired import as_good, intervals, log_ratios
from kdiff.experiments.panels import TARGETS, draw_distances, draw_samples, of_targets
from kdiff.experiments.predictions import predictions
from kdiff.report.samples import INK, new_figure, save_figure
from kdiff.training.build import load_dataset
from kdiff.training.config import TrainConfig
from kdiff.training.metrics import read_metrics

# 16 tokens each.
CELLS = {
    "Fashion 28, patch 7": ("fashion", 7),
    "glyphs 32, patch 8": ("glyphs(size=32)", 8),
    "glyphs 64, patch 16": ("glyphs(size=64)", 16),
    "glyphs 128, patch 32": ("glyphs(size=128)", 32),
}
BF16 = "glyphs 64, patch 16, bf16"
GROWING = ("glyphs 32, patch 8", "glyphs 64, patch 16", "glyphs 128, patch 32")
PAPERS = "learned(rate=1)"
Ways = dict[tuple[str, str], list[list[tuple[int, float]]]]
NEAR, RISING = 0.95, 0.1  # 0.95 rounds to the paper's 1.0; a rise of the logit over the last quarter below this is rest
MARKS = (0.9, 0.99)
SHOWN = 6  # samples of each target in the picture
SCALE = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
COLOURS = dict(zip([*CELLS, BF16], ("#8172b3", "#4c72b0", "#55a868", "#c44e52", "#999999")))


def settings(data: str, patch: int, full: bool) -> TrainConfig:
    """JiT of 4 blocks × 96, without context tokens, a patch reduced to 64 numbers."""
    return TrainConfig(
        data=data,
        network=f"JiT(patch_size={patch}, hidden_size=96, depth=4, num_heads=4, bottleneck=64, context_tokens=0)",
        steps=2000 if full else 200,
        batch_size=64,
        log_every=10,
    )


def plan(full: bool) -> list[Group]:
    """Four sizes with every target, judged, the smaller ones with the exact denoiser's floor; bf16 for k alone.

    What is beside the claim, the paper's pace and bf16, has one seed, so that the whole takes three hours on two cores.
    """
    cells = {name: settings(*what, full) for name, what in CELLS.items()}
    small, large = ({name: cells[name] for name in part} for part in ([*CELLS][:2], [*CELLS][2:]))
    if not full:
        judged = {GROWING[0]: cells.pop(GROWING[0])}
        return [Group(judged, ["data", "learned"], [0], num_samples=1), Group(cells, ["learned"], [0])]
    half = {BF16: replace(cells[GROWING[1]], precision="bf16")}
    groups = [Group(half, ["learned"], [0])]
    deciding = [target for target in TARGETS if target != PAPERS]
    for part, exact in ((small, True), (large, False)):
        groups += [Group(part, deciding, range(3), 1000, exact), Group(part, [PAPERS], [0], 1000, exact)]
    return groups


@lru_cache
def training_samples(data: str) -> Any:
    """The samples (N, C, H, W) that are trained on, and their labels."""
    return load_dataset(TrainConfig(data=data)).part("train")


def first_step(way: Sequence[tuple[int, float]], mark: float) -> int | None:
    """The first logged step with k at the mark or above."""
    return next((step for step, k in way if k >= mark), None)


def last_rise(way: Sequence[tuple[int, float]]) -> float:
    """How much the logit of k rose over the last quarter of the run."""
    return logit(way[-1][1]) - logit(next(k for step, k in way if step >= 0.75 * way[-1][0]))


def all_ways(study: Study) -> Ways:
    """(step, k) as logged, by cell and target, a list per seed: the raw k, where `k` of the rows is the averaged one."""
    ways: Ways = {}
    for run in study.runs():
        if run["target"].startswith("learned"):
            lines = read_metrics(study.folder(run["cell"], run["target"], run["seed"]) / "metrics.jsonl")
            ways.setdefault((run["cell"], run["target"]), []).append([(line["step"], line["k"]) for line in lines])
    return ways


def near_one(ways: Ways, full: bool) -> Finding:
    """k ≥ 0.95 at the end of every run at the default pace; refuted where k has come to rest below."""
    ends = {cell: [way[-1][1] for way in each] for (cell, target), each in ways.items() if target == "learned"}
    rises = {cell: statistics.mean(map(last_rise, ways[cell, "learned"])) for cell in ends}
    below = [cell for cell, ks in ends.items() if min(ks) < NEAR]
    resting = [cell for cell in below if rises[cell] < RISING]
    verdict: Verdict = "confirmed" if not below else "refuted" if resting and full else "inconclusive"
    text = [f"{cell} {with_spread(statistics.mean(ks), deviation(ks))}" for cell, ks in ends.items()]
    text += [f"over the last quarter the logit rose by {rises[cell]:+.2g} in {cell}" for cell in below]
    statement = "k comes to 0.95 or more, the paper's 1.0, at every size (default pace)"
    return Finding(statement, verdict, f"k at the end: {'; '.join(text)}")


def grows(ways: Ways, full: bool) -> Finding:
    """The logit of k after the same steps, 32 → 64 → 128 pixels of the same pictures, paired over seeds.

    That is how fast k goes, not where to, and no part of the claim.
    """
    ends = {cell: [logit(way[-1][1]) for way in ways[cell, "learned"]] for cell in GROWING}
    pairs = {
        f"{small} → {large}": [b - a for a, b in zip(ends[small], ends[large])] for small, large in zip(GROWING, GROWING[1:])
    }
    _, each = intervals(pairs)
    verdict: Verdict = "inconclusive"
    if full and all(interval.low > 0 for interval in each.values()):
        verdict = "confirmed"
    elif full and any(interval.high < 0 for interval in each.values()):
        verdict = "refuted"
    text = "; ".join(f"{name}: {interval}" for name, interval in each.items())
    statement = "the larger the pictures, the nearer to 1 is k after the same number of steps"
    return Finding(statement, verdict, f"logit of k at the end, {text}", decides=False)


def soon(ways: Ways, full: bool, steps: int) -> Finding:
    """0.9 within half the run at the default pace; the paper's pace beside it, with the share of its speed limit."""
    passed = {cell: [first_step(way, MARKS[0]) for way in each] for (cell, target), each in ways.items() if target == "learned"}
    late = [cell for cell, found in passed.items() if any(step is None or step > steps / 2 for step in found)]
    verdict: Verdict = "inconclusive" if not full else "refuted" if late else "confirmed"
    text = f"steps to 0.9: {'; '.join(f'{cell} {steps_text(found)}' for cell, found in passed.items())}"
    limit = TrainConfig().learning_rate * (steps - TrainConfig().warmup / 2)
    shares = [logit(way[-1][1]) / limit for (_, target), each in ways.items() if target == PAPERS for way in each]
    if shares:
        text += f". At the paper's pace k goes {min(shares):.0%} to {max(shares):.0%} of the way that Adam's step allows"
    return Finding("at the default pace k passes 0.9 within half of the run at every size", verdict, text)


def steps_text(found: Sequence[int | None]) -> str:
    """Steps over seeds, or that the mark was not reached."""
    there = [step for step in found if step is not None]
    if len(there) < len(found):
        return "not reached" if not there else f"{min(there)} to not reached"
    return str(there[0]) if min(there) == max(there) else f"{min(there)} to {max(there)}"


def quality(study: Study) -> Finding:
    """Learned k beside data prediction, Fréchet distance, clean last step."""
    statement = "learned k gives samples as good as data prediction's (Fréchet distance, clean)"
    cells = [cell for cell in CELLS if study.values("frechet", cell=cell, target="learned")]
    ours, theirs = (
        {cell: study.values("frechet", cell=cell, target=target) for cell in cells} for target in ("learned", "data")
    )
    verdict, text = as_good({cell: log_ratios(ours[cell], theirs[cell]) for cell in cells})
    if not study.full:
        verdict = "inconclusive"
    return Finding(statement, verdict, f"learned / data: {text}")


def finite_ends(study: Study) -> tuple[Finding, str]:
    """The first seed's network of every cell and target; and a table of what bf16 costs."""
    lines, broken, worst = [], [], 0.0
    for run in study.runs(seed=0):
        x, y = training_samples(data_of(study)[run["cell"]])
        wrong, off = at_the_ends(study.folder(run["cell"], run["target"], 0), x[:8], y[:8])
        broken += [f"{run['cell']}, {run['target']}: {what}" for what in wrong]
        worst = max(worst, off["velocity"])
        lines.append([run["cell"], run["target"], "no" if wrong else "yes", *(f"{value:.2g}" for value in off.values())])
    text = f"{len(lines)} networks at {len(TIMES)} times, all conversions with and without the clamp: "
    text += f"not finite: {'; '.join(broken)}" if broken else "all finite"
    text += f". The velocity under bf16 is up to {worst:.2g} (relative root mean square) from that of float32"
    statement = "conversions, loss and gradients are finite from t = 0 to t = 1, in float32 and with the network under bf16"
    header = ["pictures", "target", "all finite", *(f"bf16 off float32: {name}" for name in off)]
    return Finding(statement, "refuted" if broken else "confirmed", text), markdown(header, lines)


def data_of(study: Study) -> dict[str, str]:
    """The data of every cell."""
    return {job.cell: str(job.config.data) for job in study.jobs}


def examine(study: Study) -> Outcome:
    """k and its way, the pictures, and the ends of t."""
    ways, full, steps = all_ways(study), study.full, study.jobs[0].config.steps
    finite, ends = finite_ends(study)
    findings = [near_one(ways, full), grows(ways, full), soon(ways, full, steps), quality(study), finite]
    parts = ["How k went, and what linear theories say of it (`kdiff.theory.optimal_k`)", k_table(study, ways)]
    for cell in data_of(study):
        if judged := [row for row in study.rows if row["cell"] == cell and "measure" in row]:
            parts += [cell, table(judged)]
    return Outcome(findings, "\n\n".join([*parts, "The ends of t", ends]))


def k_table(study: Study, ways: Ways) -> str:
    """A line per cell and learned target: k at the end, steps to the marks, theories."""
    lines = []
    for (cell, target), each in ways.items():
        data, ks = data_of(study)[cell], [way[-1][1] for way in each]
        marks = [steps_text([first_step(way, mark) for way in each]) for mark in MARKS]
        size = str(math.prod(training_samples(data)[0].shape[1:]))
        line = [cell, size, target, with_spread(statistics.mean(ks), deviation(ks)), *marks]
        lines.append([*line, *(f"{k:.4g}" for k in predictions(data).values())])
    header = ["pictures", "D", "target", f"k after {study.jobs[0].config.steps} steps", *(f"steps to {m}" for m in MARKS)]
    return markdown(header + [f"theory, {name}" for name in predictions(str(study.jobs[0].config.data))], lines)


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """k over the steps; the distances of all targets; and samples, the same noise for all targets of a cell."""
    judged = list(dict.fromkeys(row["cell"] for row in study.rows if "measure" in row))
    figure = new_figure(11, 6)
    grid = figure.add_gridspec(2, 1, height_ratios=(1.7, 1))
    above, below = figure.add_subfigure(grid[0]), figure.add_subfigure(grid[1])
    left, right = above.subplots(1, 2, width_ratios=(1.6, 1))
    _draw_ways(study, left)
    draw_distances(right, study, {cell: cell.replace(", ", "\n") for cell in judged})
    right.set_title("Fréchet distance, clean last step (a point per seed)", fontsize=9, color=INK)
    left.spines[["top", "right"]].set_visible(False)
    for cell, axes in zip(judged, np.atleast_1d(below.subplots(1, len(judged)))):
        draw_samples(axes, study, of_targets(study, cell), SHOWN, cell)
    save_figure(figure, path)


def _draw_ways(study: Study, axes: Axes) -> None:
    """k on a logit scale, where Adam's fastest is a straight line."""
    for (cell, target), each in all_ways(study).items():
        for i, way in enumerate(each):
            style = ":" if target == PAPERS else "-"
            label = cell if i == 0 and target == "learned" else None
            axes.plot(*zip(*[(s, logit(k)) for s, k in way]), style, color=COLOURS[cell], linewidth=1.1, label=label)
    axes.set_yticks([logit(k) for k in SCALE], [f"{k:g}" for k in SCALE])
    top = max(logit(k) for each in all_ways(study).values() for way in each for _, k in way)
    axes.set(xlabel="step", ylabel="k (logit scale)", ylim=(-0.2, top + 0.3))
    axes.set_title("k at the default pace; dotted: at the paper's", fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=7)


CLAIM = Claim(
    name="pixel",
    title="on pixels k goes to 1, and nothing breaks at the ends of t",
    says="For transformers on the pixels of high-resolution images k comes to 1.0 at once, the samples are as good as data "
    "prediction's, and the conversion to a velocity is stable near t = 0 and 1.",
    varied="Fashion-MNIST at 28 pixels and colour emoji at 32, 64, 128 in 16 patches each; velocity, data, learned at the "
    "default pace (rate = 10), 3 seeds; learned at the paper's (rate = 1) and, for k alone, under bf16, 1 seed.",
    measured="k over 2,000 steps and the steps to 0.9 and 0.99; Fréchet distances under both samplers; conversions, loss and "
    "gradients of the trained networks at nine times from 0 to 1 in float32 and bf16.",
    refuted_if="at the default pace k rests below 0.95 at some size (its logit rising by less than 0.1 over the last quarter); "
    "or 0.9 takes more than half the run; or learned k is told apart from data prediction as worse; or anything is not "
    "finite. Beside the claim: whether k is nearer to 1 for larger pictures of the same kind after the same steps.",
    core_hours=(0.07, 4.5),
    plan=plan,
    examine=examine,
    draw=draw,
)
