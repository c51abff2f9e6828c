"""Learning k under the u-loss instead of the v-loss: another k, for a reason that has nothing to do with learning well.

    u-loss  E‖û − u‖²,     û = E[u | z, t]:   d/dk = 2 E Cov(x + n, u | z, t)        ≠ 0: the scale of the loss moves with k
    v-loss  E‖v̂ − v‖²,     the same û:        d/dk = 2 E (v̂ − v) · ∂v̂/∂k            = 0: E[v̂ − v | z, t] is

So under the u-loss even a perfect network pulls k to where u is cheap. With V(t) = E Var(x | z, t) its u-loss is
E (den/(1 − t))² V, den = k (1 − t) + (1 − k) t, a parabola with its minimum at

    k = (C − B)/(A − 2B + C),     A = E V,  B = E V t/(1 − t),  C = E V t²/(1 − t)²

which for Gaussian data of variance 1, 0.25, 0.05 in one dimension is 0.50, 0.89, 1.00 (cut at 1). The paper (arXiv 2601.21419)
derives D/(D + d) from the u-loss and trains with the v-loss; for linear networks too the two have different ends
(`kdiff.theory.optimal_k`).
"""

from __future__ import annotations

import math
import statistics
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Any, Literal

import torch
from torch import Tensor

from kdiff.evaluation.exact import ExactDenoiser
from kdiff.experiments.claim import Claim, Finding, Group, Outcome, Study, Verdict, counted_seeds, markdown
from kdiff.experiments.compare import deviation, table, with_spread
from kdiff.experiments.paired import as_good, interval, log_ratios
from kdiff.experiments.predictions import second_moments
from kdiff.experiments.quality import by_target, quality_rows
from kdiff.path import LinearPath
from kdiff.report.samples import INK, new_figure, save_figure
from kdiff.target import PAPER_CLAMP, FixedK, LearnedK
from kdiff.theory import Optimum, optimal_k
from kdiff.theory.times import quadrature
from kdiff.training.build import load_dataset
from kdiff.training.config import TrainConfig
from kdiff.training.metrics import read_metrics

Space = Literal["u", "v"]
SPACES: tuple[Space, Space] = ("u", "v")
COLOURS = {"u": "#c44e52", "v": "#4c72b0"}
TOLERANCE = 0.03
LINEAR = {
    f"linear, D = 16, d = 8, variance {v:g}": f"gaussian(ambient_dim=16, intrinsic_dim=8, variance={v}, num_samples=30000)"
    for v in (4.0, 1.0, 0.25)
}
LINE = {f"one dimension, variance {v:g}": v for v in (1.0, 0.25, 0.05)}
JUDGED = {"digits, MLP": "digits", "spiral in 32 dimensions, MLP": "spiral(ambient_dim=32)", "Fashion, JiT": "fashion"}
PROBED = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99)
MARKERS = {"velocity": "s", "data": "^", "learned": "o"}
TARGETS = list(MARKERS)
ERRORS = 4.0  # standard errors that count as a pull
BATCHES = {True: 400, False: 40}  # full form or quick one
BATCH, POINTS = 256, 2000


def named(what: str, space: str) -> str:
    """A cell's name."""
    return f"{what}, {space}-loss"


def both(what: str, config: TrainConfig) -> dict[str, TrainConfig]:
    """A cell for each loss."""
    return {named(what, space): replace(config, loss_space=space) for space in SPACES}


def plan(full: bool) -> list[Group]:
    """Linear networks and one-dimensional data, where theory says what comes; then data to be judged."""
    seeds, cells, line = range(3 if full else 1), dict[str, TrainConfig](), dict[str, TrainConfig]()
    # As in the claim `linear`: k must come to rest.
    resting: dict[str, Any] = {"batch_size": 256, "schedule": "cosine", "clip": 0.0, "ema": [0.99]}
    for name, data in LINEAR.items():
        steps = 6000 if full else 1500
        cells |= both(name, TrainConfig(data=data, network="Linear", steps=steps, learning_rate=0.01, **resting))
    for name, variance in LINE.items():
        data = f"gaussian(ambient_dim=1, intrinsic_dim=1, variance={variance}, num_samples=30000)"
        line |= both(name, TrainConfig(data=data, network="MLP(width=64, depth=3)", steps=4000 if full else 1000, **resting))
    # A pull towards 1 fades as k (1 − k): a pace of 10 ended at 0.95 where 1 is predicted, 30 at 0.98 (variance 0.1, seed 7).
    groups = [Group(cells, ["learned(rate=3)"], seeds), Group(line, ["learned(rate=30)"], seeds)]
    vectors, images = dict[str, TrainConfig](), dict[str, TrainConfig]()
    for name, data in JUDGED.items():
        if name == "Fashion, JiT":
            network = "JiT(patch_size=7, hidden_size=96, depth=4, num_heads=4, bottleneck=64, context_tokens=0)"
            images |= both(name, TrainConfig(data=data, network=network, steps=2000, batch_size=64))
        else:
            vectors |= both(name, TrainConfig(data=data, steps=4000 if full else 600))
    if not full:
        digits = {name: config for name, config in vectors.items() if name.startswith("digits")}
        return [*groups, Group(digits, TARGETS, [0], num_samples=500)]
    return [*groups, Group(vectors, TARGETS, range(5), 2000, exact=True), Group(images, TARGETS, seeds, 2000, exact=True)]


@lru_cache
def training_samples(data: str) -> tuple[Tensor, Tensor | None]:
    """The samples that are trained on, and their labels."""
    x, y = load_dataset(TrainConfig(data=data)).part("train")
    return x[:], y


@lru_cache
def predicted(data: str, space: Space) -> Optimum:
    """The linear theory's k at convergence for the very samples (E x xᵀ: exact for a linear network)."""
    return optimal_k(second_moments(data), space=space, clamp=PAPER_CLAMP if space == "v" else 0.0)


def cheapest(variance: float) -> float:
    """Where a perfect network's u-loss is lowest, Gaussian data of this variance in one dimension; cut at 1."""
    nodes = quadrature()
    V = variance * nodes.rest**2 / (variance * nodes.t**2 + nodes.rest**2)
    ratio = nodes.t / nodes.rest
    A, B, C = (float(nodes.mean(V * ratio**power)) for power in (0, 1, 2))
    return min(max((C - B) / (A - 2 * B + C), 0.0), 1.0)


@lru_cache
def pulls(data: str, batches: int) -> dict[Space, dict[float, tuple[float, float]]]:
    """The gradient of w, k = sigmoid(w), by loss and k, of an exact denoiser of up to 2,000 training samples.

    Mean and standard error over batches; both losses and all k see the same samples, noise and times.
    """
    x, y = training_samples(data)
    x, y = x[:POINTS], None if y is None else y[:POINTS]
    x_hat, minus_n_hat = (ExactDenoiser(x, FixedK(name), LinearPath(), y) for name in ("data", "noise"))
    targets, generator = {k: LearnedK(init=k, rate=1.0) for k in PROBED}, torch.Generator().manual_seed(0)
    found: dict[Space, dict[float, list[float]]] = {space: {k: [] for k in PROBED} for space in SPACES}
    for _ in range(batches):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        n, t = torch.randn(x[rows].shape, generator=generator), torch.rand(BATCH, generator=generator)
        z, labels = LinearPath().mix(x[rows], n, t), None if y is None else y[rows]
        best = x_hat(z, t, labels), -minus_n_hat(z, t, labels)
        for k, target in targets.items():
            # û is what a network returned: a number, wherever k goes next.
            u_hat = target.encode(*best, t).detach()
            for space in SPACES:
                error = target.velocity_error if space == "v" else target.output_error
                (gradient,) = torch.autograd.grad(error(u_hat, x[rows], n, t).square().mean(), target.w)
                found[space][k].append(gradient.item())
    return {
        space: {k: (statistics.mean(v), statistics.stdev(v) / math.sqrt(len(v))) for k, v in by_k.items()}
        for space, by_k in found.items()
    }


def linear_ends(study: Study) -> Finding:
    """Both ends against their theories; a quick run may not have come to rest.

    The loss on v may have a second, higher minimum, in which descent may end as well: then that is named.
    """
    off, second = {}, []
    for name, data in LINEAR.items():
        for space in SPACES:
            cell, theory = named(name, space), predicted(data, space)
            minima = [float(theory), *(k for k, _ in theory.others)]
            ends = [run["k"] for run in study.runs(cell=cell)]
            off[cell] = max(min(abs(k - minimum) for minimum in minima) for k in ends)
            elsewhere = sum(abs(k - minima[0]) > min(abs(k - minimum) for minimum in minima) for k in ends)
            second += [f"{elsewhere} of {len(ends)} runs in a second minimum ({cell})"] if elsewhere else []
    worst = max(off, key=lambda cell: off[cell])
    verdict: Verdict = "confirmed" if off[worst] <= TOLERANCE else "refuted" if study.full else "inconclusive"
    apart = min(abs(float(predicted(data, "u")) - float(predicted(data, "v"))) for data in LINEAR.values())
    text = f"largest difference {off[worst]:.3f} ({worst}), {len(off)} cells, {counted_seeds(len(study.runs(cell=worst)))}; "
    statement = f"linear networks learn D/(D + tr Σ) under the u-loss and the v-loss's own best k under it, within {TOLERANCE}"
    return Finding(statement, verdict, "; ".join([f"{text}the two theories are at least {apart:.2f} apart", *second]))


def exact_pulls(study: Study) -> Finding:
    """A perfect network: nothing under the v-loss, something under the u-loss; from draws enough to have seen as much."""
    heavy, light, share, batches = {}, {}, {}, BATCHES[study.full]
    for name, data in judged(study).items():
        found = pulls(data, batches)
        ratios = {space: [abs(mean) / error for mean, error in found[space].values()] for space in SPACES}
        heavy[name], light[name] = max(ratios["v"]), statistics.median(ratios["u"])
        # What may still be there, unseen: the end of an interval of 95 % that all k share.
        reach = NormalDist().inv_cdf(1 - 0.025 / len(PROBED))
        unseen = max(abs(mean) + reach * error for mean, error in found["v"].values())
        share[name] = unseen / statistics.median(abs(mean) for mean, _ in found["u"].values())
    held = max(heavy.values()) <= ERRORS and min(light.values()) > ERRORS
    seen = held and max(share.values()) < 1
    verdict: Verdict = "confirmed" if seen else "refuted" if study.full and not held else "inconclusive"
    text = f"k from {PROBED[0]} to {PROBED[-1]}, {batches} batches of {BATCH}; gradient of w in standard errors: "
    text += "; ".join(f"{name}: v-loss at most {heavy[name]:.1f}, u-loss {light[name]:.0f} (median)" for name in heavy)
    text += "; what the v-loss's may be at most (95 %, all k), of the u-loss's median: "
    text += ", ".join(f"{value:.0%}" for value in share.values())
    statement = "with an exact denoiser of the training data the v-loss gives k no gradient, and the u-loss gives it one"
    return Finding(statement, verdict, text)


def spurious(study: Study) -> Finding:
    """Networks on one-dimensional Gaussians end where a perfect one's u-loss is lowest."""
    parts, off = [], []
    for name, variance in LINE.items():
        ks = {space: [run["k"] for run in study.runs(cell=named(name, space))] for space in SPACES}
        off += [abs(k - cheapest(variance)) for k in ks["u"]]
        text = {space: with_spread(statistics.mean(each), deviation(each)) for space, each in ks.items()}
        parts.append(f"variance {variance:g}: {text['u']} (predicted {cheapest(variance):.3f}), under the v-loss {text['v']}")
    verdict: Verdict = "confirmed" if max(off) <= TOLERANCE else "refuted" if study.full else "inconclusive"
    statement = f"under the u-loss k ends where a perfect network's u is cheapest, within {TOLERANCE}: 0.50, 0.89, 1.00"
    return Finding(statement, verdict, "; ".join(parts))


def quality(study: Study) -> Finding:
    """Learned k under the v-loss beside learned k under the u-loss, by the distance of `kdiff.experiments.quality`, clean."""
    distances = {(what, space): of_targets(study, what, space)["learned"] for what in judged(study) for space in SPACES}
    verdict, text = as_good({what: log_ratios(distances[what, "v"], distances[what, "u"]) for what in judged(study)})
    if not study.full:
        verdict = "inconclusive"
    for what in judged(study):
        u, v = (study.values("frechet", cell=named(what, space), target="learned") for space in SPACES)
        if study.values("off_manifold", cell=named(what, "v"), target="learned"):  # where another distance decides
            text += f"; by the Fréchet distance {what} {interval(log_ratios(v, u))}"
    statement = "k learned under the v-loss gives samples as good as k learned under the u-loss, or better"
    return Finding(statement, verdict, f"distance (clean), v-loss / u-loss: {text}")


def of_targets(study: Study, what: str, space: Space) -> dict[str, list[float]]:
    """Distances of samples, clean last step, by target."""
    return by_target(quality_rows(study, named(what, space)))


def judged(study: Study) -> dict[str, str]:
    """The data whose samples are judged in this form, by name."""
    return {what: data for what, data in JUDGED.items() if study.runs(cell=named(what, "v"))}


def examine(study: Study) -> Outcome:
    """Ends of k, what pulls there, and what it costs."""
    findings = [linear_ends(study), exact_pulls(study), spurious(study), quality(study)]
    parts = ["Learned k, and what theories say", k_table(study), "Gradient of w of an exact denoiser", pull_table(study)]
    for what in judged(study):
        rows = [row for space in SPACES for row in study.rows if row["cell"] == named(what, space) and "measure" in row]
        parts += [what, table([{**row, "target": f"{row['target']}, {row['cell'][-6:]}"} for row in rows])]
    return Outcome(findings, "\n\n".join(parts), [NOTE])


NOTE = (
    "The pace of the one-dimensional networks, 30, was chosen on a pilot (variance 0.1, seed 7): a pull towards 1 fades as "
    "k (1 − k), and a pace of 10 had ended at 0.95 where 1 is predicted."
)


def k_table(study: Study) -> str:
    """A line per data and loss."""
    lines = []
    for what in [*LINEAR, *LINE, *judged(study)]:
        for space in SPACES:
            config = next(job.config for job in study.jobs if job.cell == named(what, space))
            ks = [run["k"] for run in study.runs(cell=named(what, space)) if run["target"].startswith("learned")]
            linear = "" if what in LINE else f"{float(predicted(str(config.data), space)):.4g}"
            perfect = f"{cheapest(LINE[what]):.4g}" if what in LINE and space == "u" else ""
            lines.append([what, space, with_spread(statistics.mean(ks), deviation(ks)), linear, perfect])
    return markdown(["data", "loss", "learned k", "linear theory, same loss", "perfect network"], lines)


def pull_table(study: Study) -> str:
    """A line per data and loss, a column per k."""
    lines = []
    for name, data in judged(study).items():
        for space, by_k in pulls(data, BATCHES[study.full]).items():
            lines.append([name, space, *(f"{mean:+.2g} ± {error:.1g}" for mean, error in by_k.values())])
    return markdown(["data", "loss", *(f"k = {k:g}" for k in PROBED)], lines)


def draw(study: Study, outcome: Outcome, path: Path) -> None:
    """Ends against theory, pulls, ways, distances."""
    figure = new_figure(9.5, 7.5)
    (ends, force), (ways, costs) = figure.subplots(2, 2)
    ends.plot([0.25, 1], [0.25, 1], color="#999999", linewidth=1)
    for space in SPACES:
        for cells, marker, kind in ((LINEAR, "o", "linear network"), (LINE, "D", "one dimension, perfect network")):
            if cells is LINE and space == "v":
                continue  # a perfect network has no best k under the v-loss
            points = [
                (cheapest(LINE[what]) if cells is LINE else float(predicted(LINEAR[what], space)), run["k"])
                for what in cells
                for run in study.runs(cell=named(what, space))
            ]
            ends.plot(*zip(*points), marker, color=COLOURS[space], markersize=5, alpha=0.7, label=f"{kind}, {space}-loss")
    ends.set(xlabel="k predicted", ylabel="k learned")
    ends.set_title("One network, two losses, two ends", fontsize=9, color=INK)
    force.set(xlabel="k", ylabel="gradient of w")
    force.set_title("What pulls k when the network is perfect", fontsize=9, color=INK)
    ways.set(xlabel="step", ylabel="k")
    ways.set_title("k learned by real networks", fontsize=9, color=INK)
    for i, (name, data) in enumerate(judged(study).items()):
        for space in SPACES:
            cell, look = named(name, space), {"color": COLOURS[space], "linestyle": ("-", "--", ":")[i], "linewidth": 1.1}
            values, errors = zip(*pulls(data, BATCHES[study.full])[space].values())
            force.errorbar(PROBED, values, errors, label=cell, **look)
            for seed in {run["seed"] for run in study.runs(cell=cell)}:
                lines = read_metrics(study.folder(cell, "learned", seed) / "metrics.jsonl")
                ways.plot([x["step"] for x in lines], [x["k"] for x in lines], label=None if seed else cell, **look)
            for j, (target, marker) in enumerate(MARKERS.items()):
                distances = of_targets(study, name, space).get(target, [])
                places = [i + 0.12 * (2 * j + SPACES.index(space) - 2.5)] * len(distances)
                label = None if i else f"{target}, {space}-loss"
                costs.plot(places, distances, marker, color=COLOURS[space], markersize=5, alpha=0.7, label=label)
    costs.set(yscale="log", xlim=(-0.6, len(judged(study)) - 0.4))
    costs.set_xticks(range(len(judged(study))), [*judged(study)], fontsize=7)
    costs.set_title("distance, clean last step (a point per seed)", fontsize=9, color=INK)
    force.set_ylim(top=1.7 * force.get_ylim()[1])  # room for the legend
    for axes in (ends, force, ways, costs):
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=6.5)
    save_figure(figure, path)


CLAIM = Claim(
    name="loss_space",
    title="the u-loss and the v-loss learn different k, and the v-loss learns the better one",
    says="The rule D/(D + d) is of the u-loss, k-Diff trains with the v-loss: under the u-loss k goes where u is cheap, "
    "also for a perfect network; under the v-loss only where something is still to be learned.",
    varied="the loss, u or v; linear networks on data of three variances; one-dimensional Gaussians; digits, a spiral in 32 "
    "dimensions (MLP) and Fashion-MNIST (JiT) with velocity, data and learned k. Three seeds; five of digits and spiral.",
    measured="learned k beside kdiff.theory.optimal_k under either loss; the gradient of w of an exact denoiser of the "
    "training samples; Fréchet distances, √(2 SW² + off²) of the spiral, under both samplers.",
    refuted_if="a linear network ends more than 0.03 from its theory; an exact denoiser's gradient of w is more than 4 "
    "standard errors from 0 under the v-loss at any k, or is not under the u-loss at half of them (confirmed only if it "
    "cannot be as large as the u-loss's median, with 95 % confidence); a network in one "
    "dimension ends more than 0.03 from 0.50, 0.89, 1.00 under the u-loss; samples under the v-loss are told apart as worse.",
    core_hours=(0.03, 2.8),
    plan=plan,
    examine=examine,
    draw=draw,
)
