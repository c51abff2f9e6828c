"""Real networks with a narrow place, for the claim `stagnation`: does k stay near ½, and what does it cost?

Each network is trained with k from the paper's start, from 0.95, and from 0.5 at ten times the pace. A cell has *the failure*
if in every seed the paper's k ends below 0.6 and rests there while one of the others ends at a k larger by 0.1 and at a loss
lower by 2 %: a better k was there, and was not found. They are trained without a clamp, as the theory has it: a clamped loss is
lower near k = 1 by itself, and would not compare.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from kdiff.experiments.arrangements import Ended, read_end
from kdiff.experiments.claim import Finding, Study, Verdict, counted_seeds
from kdiff.experiments.compare import deviation, with_spread
from kdiff.experiments.curves import interval
from kdiff.experiments.quality import by_target, quality_rows
from kdiff.training.config import TrainConfig

PAPER, HIGH, FAST = (0.5, 1), (0.95, 1), (0.5, 10)  # start and pace of k
NEAR_HALF, RESTS, AWAY, LOWER = 0.6, 0.02, 0.1, 0.02


def target(start: float, pace: float) -> str:
    """A learned k, its loss without a clamp."""
    return f"learned(init={start}, rate={pace}, min_denominator=0.0)"


TARGETS = [target(*PAPER), target(*HIGH), target(*FAST)]
# Name: data, network, whether it is narrow, whether it is in the quick form.
NETWORKS: dict[str, tuple[str, str, bool, bool]] = {
    "Gaussian, d = 24, D = 48; MLP 32": ("gaussian(ambient_dim=48, intrinsic_dim=24)", "MLP(width=32, depth=1)", True, True),
    "Gaussian, d = 24, D = 48; MLP 16, 16": (
        "gaussian(ambient_dim=48, intrinsic_dim=24)",
        "MLP(width=16, depth=2)",
        True,
        False,
    ),
    "sphere, d = 9, D = 32; MLP 16, 16": ("sphere(intrinsic_dim=9, ambient_dim=32)", "MLP(width=16, depth=2)", True, False),
    "curved, d = 10, D = 36; MLP 8, 8": (
        "gaussian(ambient_dim=36, intrinsic_dim=10, embedding=curved)",
        "MLP(width=8, depth=2)",
        True,
        False,
    ),
    "digits; JiT 8 wide": (
        "digits",
        "JiT(patch_size=4, hidden_size=8, depth=4, num_heads=2, bottleneck=8, context_tokens=0)",
        True,
        False,
    ),
    "sphere, d = 9, D = 32; MLP 256, 256": ("sphere(intrinsic_dim=9, ambient_dim=32)", "MLP(width=256, depth=2)", False, False),
}


def settings(data: str, network: str, full: bool) -> TrainConfig:
    """Ordinary training."""
    return TrainConfig(
        data=data,
        network=network,
        steps=4000 if full else 1500,
        learning_rate=0.003,
        schedule="cosine",
        ema=[0.99],
    )


def configs(full: bool) -> dict[str, TrainConfig]:
    """The cells."""
    return {name: settings(data, network, full) for name, (data, network, _, quick) in NETWORKS.items() if full or quick}


@dataclass(frozen=True)
class Narrow:
    """The runs of a cell by target, in order of seeds: how they ended, how far samples are from the data (clean last step)."""

    name: str
    ends: Mapping[str, Sequence[Ended]]
    quality: Mapping[str, Sequence[float]]

    @property
    def stays(self) -> bool:
        """Whether the paper's k ends near ½ and rests there, in every seed."""
        return all(one.k < NEAR_HALF and abs(one.k - one.half) < RESTS for one in self.ends[target(*PAPER)])

    def better(self) -> list[str]:
        """The targets that in every seed end at a k larger by 0.1 and a loss lower by 2 % than the paper's."""
        own = self.ends[target(*PAPER)]
        return [
            other
            for other, ends in self.ends.items()
            if all(one.k > mine.k + AWAY and one.loss < mine.loss * (1 - LOWER) for one, mine in zip(ends, own))
        ]

    @property
    def fails(self) -> bool:
        """The failure: k stays, and better was to be had."""
        return self.stays and bool(self.better())

    def cost(self, other: str) -> tuple[float, float]:
        """Mean over seeds of the paper's distance less the other's, and half its 95 % interval, in units of the other's."""
        pairs = list(zip(self.quality[target(*PAPER)], self.quality[other]))
        unit = statistics.mean(theirs for _, theirs in pairs)
        differences = [(own - theirs) / unit for own, theirs in pairs]
        return statistics.mean(differences), interval(differences) if len(pairs) > 1 else math.inf


def read(study: Study, name: str) -> Narrow:
    """A cell from its run folders and judged rows."""
    quality = by_target(quality_rows(study, name))
    seeds = {label: sorted(run["seed"] for run in study.runs(cell=name, target=label)) for label in quality}
    ends = {label: [read_end(study.folder(name, label, seed)) for seed in seeds[label]] for label in quality}
    return Narrow(name, ends, quality)


HEADER = ["network", "k from, at pace", "k", "loss", "distance, clean (exact)", "paper's sampler (exact)"]
HEADER += ["in groups, clean", "held out", "in the plane, clean", "off it, clean"]
NOTE = (
    "The distance of real networks is the Fréchet distance for digits, else √(p SW² + off²): the sliced Wasserstein distance "
    "in the data's plane of p dimensions, and the root-mean-square distance off it."
)


def lines(study: Study, cell: Narrow) -> list[list[str]]:
    """Rows of the table: distances under both samplers with the exact denoiser's floor, and beside the held-out data."""
    found, rows = [], quality_rows(study, cell.name)
    for label, ends in cell.ends.items():
        figures = []
        for sampler in ("clean", "paper"):
            values, exact = (by_target(rows, field, sampler)[label] for field in ("value", "exact"))
            floor = next((value for value in exact if value is not None), None)
            figures.append(spread(values) if floor is None else f"{spread(values)} ({floor:.3g})")
        figures += [spread(by_target(rows, "grouped")[label]), f"{rows[0]['heldout']:.3g}"]
        off = study.values("off_manifold", cell=cell.name, target=label)
        inside = study.values("sliced_wasserstein", cell=cell.name, target=label) if off else []
        figures += [spread(parts) if parts else "" for parts in (inside, off)]
        start, pace = next(pair for pair in (PAPER, HIGH, FAST) if target(*pair) == label)
        ks, losses = spread([one.k for one in ends]), spread([one.loss for one in ends])
        found.append([cell.name, f"{start:g}, {pace:g}", ks, losses, *figures])
    return found


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation."""
    return with_spread(statistics.mean(values), deviation(values))


def findings(cells: Sequence[Narrow], full: bool) -> list[Finding]:
    """Is it found in real networks, does it cost quality, and is room what it takes?"""
    narrow, wide = ([cell for cell in cells if NETWORKS[cell.name][2] is kind] for kind in (True, False))
    failing = [cell for cell in narrow if cell.fails]
    seeds = counted_seeds(len(next(iter(cells[0].ends.values()))))
    texts = [
        f"{cell.name}: k = {spread([one.k for one in cell.ends[target(*PAPER)]])}, else up to "
        f"{max(statistics.mean(one.k for one in ends) for ends in cell.ends.values()):.3g}, "
        + ("the failure" if cell.fails else "k stays, but no better end was seen" if cell.stays else "k does not stay")
        for cell in narrow
    ]
    result = [
        Finding(
            "in some real network with a bottleneck k stays near ½ although another start or pace ends at a lower loss",
            "confirmed" if failing else "refuted" if full else "inconclusive",
            f"{'found' if failing else 'not found'} in {len(failing)} of {len(narrow)}, {seeds}. " + "; ".join(texts),
        )
    ]
    if failing:
        costs = {cell.name: cell.cost(cell.better()[0]) for cell in failing}
        worse = all(mean > half for mean, half in costs.values())
        better = any(mean < -half for mean, half in costs.values())
        parts = [f"{100 * mean:+.0f} ± {100 * half:.0f} % ({name})" for name, (mean, half) in costs.items()]
        statement = "where it is found the samples are worse for it (distance, clean last step, in all such cells)"
        verdict: Verdict = "confirmed" if worse else "refuted" if better else "inconclusive"
        evidence = f"the paper's start against the first that ended lower, 0.95 or pace 10: {'; '.join(parts)}"
        result.append(Finding(statement, verdict, evidence))
    if wide:
        statement = "a network with room does not have the failure"
        parts = [f"{cell.name}: k = {spread([one.k for one in cell.ends[target(*PAPER)]])}" for cell in wide]
        result.append(Finding(statement, "refuted" if any(cell.fails for cell in wide) else "confirmed", "; ".join(parts)))
    return result
