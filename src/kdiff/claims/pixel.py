"""Pixels: does k go to 1 for an image transformer on large patches, and do conversions stay finite at both ends of t?

Pictures of growing size have the same number of tokens, 16. A patch holds 49, 192, 768 or 3,072 numbers, which pass through a
network of width 96. In the paper (arXiv 2601.21419), k of JiT on the pixels of ImageNet goes to about 1.0 at once. By its rule
D/(D + d), k grows with the size, because the same pictures have the same d when they are larger. By the linear theory,
D/(D + E‖x‖²), it hardly changes, because E‖x‖² grows with D.

At the paper's pace the logit of k moves by the learning rate per step at most, so 0.9 cannot be reached in 2,000 steps of
0.001. There the question is how much of this way k goes.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kdiff.claims.claim import SMALL_JIT, Claim, Finding, Group, Outcome, Study, decided
from kdiff.claims.ends import TIMES, at_the_ends
from kdiff.claims.evidence import logit, spread
from kdiff.claims.panels import TARGETS, beside_samples, tidy
from kdiff.claims.quality import training_samples
from kdiff.config.training import TrainConfig
from kdiff.report.drawing import save_figure
from kdiff.studies.comparison import table
from kdiff.studies.paired import as_good, intervals, log_ratios
from kdiff.studies.predictions import predictions
from kdiff.studies.tables import markdown

# By name: data and patch size, for 16 tokens each.
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
NEAR = 0.95  # rounds to the paper's 1.0
RISING = 0.1  # k is at rest if its logit rises by less than this over the last quarter
MARKS = (0.9, 0.99)
SCALE = (0.5, 0.7, 0.8, 0.9, 0.95, 0.99, 0.999)
COLOURS = dict(zip([*CELLS, BF16], ("#8172b3", "#4c72b0", "#55a868", "#c44e52", "#999999")))


def settings(data: str, patch: int, full: bool) -> TrainConfig:
    """JiT of 4 blocks × 96, without context tokens, with each patch reduced to 64 numbers."""
    network = SMALL_JIT.format(patch=patch)
    return TrainConfig(data=data, network=network, steps=2000 if full else 200, batch_size=64, log_every=10)


def plan(full: bool) -> list[Group]:
    """Four sizes with every target and evaluated samples, the smaller sizes with the exact denoiser's floor; bf16 for k alone.

    The paper's pace and bf16 are not part of the claim and have one seed, so that all runs take three hours on two cores.
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


def first_step(way: Sequence[tuple[int, float]], mark: float) -> int | None:
    """The first logged step at which k has reached the mark."""
    return next((step for step, k in way if k >= mark), None)


def last_rise(way: Sequence[tuple[int, float]]) -> float:
    """How much the logit of k rose over the last quarter of the run."""
    return logit(way[-1][1]) - logit(next(k for step, k in way if step >= 0.75 * way[-1][0]))


def all_ways(study: Study) -> Ways:
    """(step, k) as logged, by cell and target, a list for each seed. This is the raw k; `k` of the rows is averaged."""
    ways: Ways = {}
    for cell, target, seed in ((run["cell"], run["target"], run["seed"]) for run in study.runs()):
        if target.startswith("learned"):
            way = [(line["step"], line["k"]) for line in study.metrics(cell, target, seed)]
            ways.setdefault((cell, target), []).append(way)
    return ways


def near_one(ways: Ways, full: bool) -> Finding:
    """Whether k ≥ 0.95 at the end of every run at the default pace; refuted if k is at rest below."""
    ends = {cell: [way[-1][1] for way in each] for (cell, target), each in ways.items() if target == "learned"}
    rises = {cell: statistics.mean(map(last_rise, ways[cell, "learned"])) for cell in ends}
    below = [cell for cell, ks in ends.items() if min(ks) < NEAR]
    resting = [cell for cell in below if rises[cell] < RISING]
    text = [f"{cell} {spread(ks)}" for cell, ks in ends.items()]
    if below:
        text += ["over the last quarter the logit rose by " + ", ".join(f"{rises[cell]:+.2g} ({cell})" for cell in below)]
    statement = "k reaches 0.95 or more, the paper's 1.0, at every size (default pace)"
    return Finding(statement, decided(not below, bool(resting) and full), f"k at the end: {'; '.join(text)}")


def grows(ways: Ways, full: bool) -> Finding:
    """Whether the logit of k after the same steps grows from 32 to 64 to 128 pixels of the same pictures, paired over seeds.

    This says how fast k moves and not where it goes, so it is not part of the claim.
    """
    ends = {cell: [logit(way[-1][1]) for way in ways[cell, "learned"]] for cell in GROWING}
    pairs = {
        f"{small} → {large}": [b - a for a, b in zip(ends[small], ends[large])] for small, large in zip(GROWING, GROWING[1:])
    }
    _, each = intervals(pairs)
    confirmed, refuted = all(found.low > 0 for found in each.values()), any(found.high < 0 for found in each.values())
    text = "; ".join(f"{name}: {found}" for name, found in each.items())
    statement = "the larger the pictures, the closer k is to 1 after the same number of steps"
    return Finding(statement, decided(full and confirmed, full and refuted), f"logit of k at the end, {text}", decides=False)


def soon(ways: Ways, full: bool, steps: int) -> Finding:
    """Whether k passes 0.9 within half of the run at the default pace; how much of its speed limit the paper's pace uses."""
    passed = {cell: [first_step(way, MARKS[0]) for way in each] for (cell, target), each in ways.items() if target == "learned"}
    late = [cell for cell, found in passed.items() if any(step is None or step > steps / 2 for step in found)]
    text = f"steps to 0.9: {'; '.join(f'{cell} {steps_text(found)}' for cell, found in passed.items())}"
    limit = TrainConfig().learning_rate * (steps - TrainConfig().warmup / 2)
    shares = [logit(way[-1][1]) / limit for (_, target), each in ways.items() if target == PAPERS for way in each]
    if shares:
        text += f". At the paper's pace k goes {min(shares):.0%} to {max(shares):.0%} of the way that the steps of Adam allow"
    statement = "at the default pace k passes 0.9 within half of the run at every size"
    return Finding(statement, decided(full and not late, full), text)


def steps_text(found: Sequence[int | None]) -> str:
    """The range of steps over seeds, or that the mark was not reached."""
    there = [step for step in found if step is not None]
    if len(there) < len(found):
        return "not reached" if not there else f"{min(there)} to not reached"
    return str(there[0]) if min(there) == max(there) else f"{min(there)} to {max(there)}"


def quality(study: Study) -> Finding:
    """Learned k against data prediction, by the Fréchet distance with a clean last step."""
    statement = "the samples of learned k are as good as those of data prediction (Fréchet distance, clean)"
    cells = [cell for cell in CELLS if study.values("frechet", cell=cell, target="learned")]
    ours, theirs = ([study.values("frechet", cell=cell, target=target) for cell in cells] for target in ("learned", "data"))
    verdict, text = as_good({cell: log_ratios(a, b) for cell, a, b in zip(cells, ours, theirs)})
    return Finding(statement, verdict if study.full else "inconclusive", f"learned divided by data: {text}")


def finite_ends(study: Study) -> tuple[Finding, str]:
    """Whether all is finite in the first seed's network of every cell and target; and a table of the errors of bf16."""
    lines, broken, worst = [], [], 0.0
    for run in study.runs(seed=0):
        x, y = training_samples(study.data(run["cell"]))
        wrong, off = at_the_ends(study.folder(run["cell"], run["target"], 0), x[:8], y[:8])
        broken += [f"{run['cell']}, {run['target']}: {what}" for what in wrong]
        worst = max(worst, off["velocity"])
        lines.append([run["cell"], run["target"], "no" if wrong else "yes", *(f"{value:.2g}" for value in off.values())])
    text = f"{len(lines)} networks at {len(TIMES)} times, all conversions with and without the clamp: "
    text += f"not finite: {'; '.join(broken)}" if broken else "all finite"
    text += f". The velocity under bf16 differs from that of float32 by up to {worst:.2g} (relative root mean square)"
    statement = "conversions, loss and gradients are finite from t = 0 to t = 1, in float32 and with the network under bf16"
    header = ["pictures", "target", "all finite", *(f"relative error of bf16: {name}" for name in off)]
    return Finding(statement, "refuted" if broken else "confirmed", text), markdown(header, lines)


def examine(study: Study) -> Outcome:
    """k over the steps, the samples, and the ends of t."""
    ways, full, steps = all_ways(study), study.full, study.jobs[0].config.steps
    finite, ends = finite_ends(study)
    findings = [near_one(ways, full), grows(ways, full), soon(ways, full, steps), quality(study), finite]
    parts = ["k, and its predictions by the linear theories (`kdiff.theory.optimal_k`)", k_table(study, ways)]
    for cell in study.cells:
        if judged := [row for row in study.rows if row["cell"] == cell and "measure" in row]:
            parts += [cell, table(judged)]
    return Outcome(findings, "\n\n".join([*parts, "The ends of t", ends]))


def k_table(study: Study, ways: Ways) -> str:
    """A line for each cell and learned target: k at the end, steps to the marks, predictions of the theories."""
    lines = []
    for (cell, target), each in ways.items():
        data, ks = study.data(cell), [way[-1][1] for way in each]
        marks = [steps_text([first_step(way, mark) for way in each]) for mark in MARKS]
        size = str(math.prod(training_samples(data)[0].shape[1:]))
        line = [cell, size, target, spread(ks), *marks]
        lines.append([*line, *(f"{k:.4g}" for k in predictions(data).values())])
    header = ["pictures", "D", "target", f"k after {study.jobs[0].config.steps} steps", *(f"steps to {m}" for m in MARKS)]
    return markdown(header + [f"theory, {name}" for name in predictions(str(study.jobs[0].config.data))], lines)


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """k over the steps; the distances of all targets; and samples, from the same noise for all targets of a cell."""
    judged = list(dict.fromkeys(row["cell"] for row in study.rows if "measure" in row))
    figure, axes = beside_samples(study, judged, size=(11, 6), heights=(1.7, 1))
    # On a logit scale the fastest way of Adam is a straight line.
    for (cell, target), each in all_ways(study).items():
        for i, way in enumerate(each):
            style = ":" if target == PAPERS else "-"
            label = cell if i == 0 and target == "learned" else None
            axes.plot(*zip(*[(s, logit(k)) for s, k in way]), style, color=COLOURS[cell], linewidth=1.1, label=label)
    axes.set_yticks([logit(k) for k in SCALE], [f"{k:g}" for k in SCALE])
    top = max(logit(k) for each in all_ways(study).values() for way in each for _, k in way)
    axes.set(xlabel="step", ylabel="k (logit scale)", ylim=(-0.2, top + 0.3))
    tidy(axes, "k at the default pace; dotted: at the paper's pace", fontsize=7)
    save_figure(figure, path)


CLAIM = Claim(
    name="pixel",
    title="does k go to 1 on pixels, and does nothing break at the ends of t?",
    says="For transformers on the pixels of high-resolution images, k goes to 1.0 at once, the samples are as good as those "
    "of data prediction, and the conversion to a velocity is stable near t = 0 and t = 1.",
    varied="Fashion-MNIST at 28 pixels and colour emoji at 32, 64 and 128 pixels, in 16 patches each. Velocity, data and "
    "learned prediction at the default pace (rate = 10), 3 seeds; learned prediction at the paper's pace (rate = 1) and, for "
    "k alone, under bf16, 1 seed.",
    measured="k over 2,000 steps, and the steps until it reaches 0.9 and 0.99; Fréchet distances under both samplers; "
    "conversions, loss and gradients of the trained networks at nine times from 0 to 1, in float32 and bf16.",
    refuted_if="at the default pace k is at rest below 0.95 at some size (at rest: its logit rises by less than 0.1 over the "
    "last quarter); or k takes more than half of the run to reach 0.9; or learned k is significantly worse than data "
    "prediction; or anything is not finite. Not part of the claim: whether, after the same steps, k is closer to 1 for larger "
    "pictures of the same kind.",
    core_hours=(0.07, 4.5),
    plan=plan,
    examine=examine,
    draw=draw,
)
