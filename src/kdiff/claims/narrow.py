"""Real networks with a bottleneck, for the claim `stagnation`: does k stay near ½, and does this make samples worse?

Each network is trained with k from the paper's start, from 0.95, and from 0.5 at ten times the pace. A cell has *the failure*
if in every seed k from the paper's start ends below 0.6 and is at rest there, while one of the other two ends at a k larger by
0.1 and at a loss lower by 2 %: a better k existed and was not found. Training uses no clamp, like the theory. A clamped loss is
lower near k = 1 for that reason alone, so losses could not be compared.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdiff.claims.arrangements import Ended, read_end
from kdiff.claims.claim import Finding, Study, decided
from kdiff.claims.curves import interval
from kdiff.claims.evidence import spread
from kdiff.claims.quality import by_target, quality_rows
from kdiff.config.training import TrainConfig
from kdiff.studies.tables import counted_seeds

PAPER, HIGH, FAST = (0.5, 1), (0.95, 1), (0.5, 10)  # start and pace of k
NEAR_HALF, RESTS, AWAY, LOWER = 0.6, 0.02, 0.1, 0.02


def target(start: float, pace: float) -> str:
    """A learned k with a loss without a clamp."""
    return f"learned(init={start}, rate={pace}, min_denominator=0.0)"


STARTS = {target(*pair): pair for pair in (PAPER, HIGH, FAST)}
GAUSSIAN, SPHERE = "gaussian(ambient_dim=48, intrinsic_dim=24)", "sphere(intrinsic_dim=9, ambient_dim=32)"
CURVED = "gaussian(ambient_dim=36, intrinsic_dim=10, embedding=curved)"
JIT = "JiT(patch_size=4, hidden_size=8, depth=4, num_heads=2, bottleneck=8, context_tokens=0)"
# By name: data, network, whether it has a bottleneck, whether it is in the quick form.
NETWORKS: dict[str, tuple[str, str, bool, bool]] = {
    "Gaussian, d = 24, D = 48; MLP 32": (GAUSSIAN, "MLP(width=32, depth=1)", True, True),
    "Gaussian, d = 24, D = 48; MLP 16, 16": (GAUSSIAN, "MLP(width=16, depth=2)", True, False),
    "sphere, d = 9, D = 32; MLP 16, 16": (SPHERE, "MLP(width=16, depth=2)", True, False),
    "curved, d = 10, D = 36; MLP 8, 8": (CURVED, "MLP(width=8, depth=2)", True, False),
    "digits; JiT 8 wide": ("digits", JIT, True, False),
    "sphere, d = 9, D = 32; MLP 256, 256": (SPHERE, "MLP(width=256, depth=2)", False, False),
}


def configs(full: bool) -> dict[str, TrainConfig]:
    """The cells with their settings, by name."""
    common: dict[str, Any] = {"steps": 4000 if full else 1500, "learning_rate": 0.003, "schedule": "cosine", "ema": [0.99]}
    chosen = {name: pair for name, (*pair, _, quick) in NETWORKS.items() if full or quick}
    return {name: TrainConfig(data=data, network=network, **common) for name, (data, network) in chosen.items()}


@dataclass(frozen=True)
class Narrow:
    """The runs of a cell by target, in order of seeds: how they ended, and the distance of samples (clean last step)."""

    name: str
    ends: Mapping[str, Sequence[Ended]]
    quality: Mapping[str, Sequence[float]]

    @property
    def paper(self) -> Sequence[Ended]:
        """How the runs from the paper's start ended."""
        return self.ends[target(*PAPER)]

    @property
    def stays(self) -> bool:
        """Whether k from the paper's start ends near ½ and is at rest there, in every seed."""
        return all(one.k < NEAR_HALF and abs(one.k - one.half) < RESTS for one in self.paper)

    def better(self) -> list[str]:
        """The targets that in every seed end at a k larger by 0.1 and a loss lower by 2 % than from the paper's start."""
        return [
            other
            for other, ends in self.ends.items()
            if all(one.k > mine.k + AWAY and one.loss < mine.loss * (1 - LOWER) for one, mine in zip(ends, self.paper))
        ]

    @property
    def fails(self) -> bool:
        """The failure: k stays near ½ although a better k existed."""
        return self.stays and bool(self.better())

    @property
    def k(self) -> str:
        """k from the paper's start, as text."""
        return f"k = {spread(one.k for one in self.paper)}"

    def cost(self, other: str) -> tuple[float, float]:
        """The distance from the paper's start minus that of another target: mean over seeds and half its 95 % interval.

        Both are in units of the mean distance of the other target.
        """
        pairs = list(zip(self.quality[target(*PAPER)], self.quality[other]))
        unit = statistics.mean(theirs for _, theirs in pairs)
        differences = [(own - theirs) / unit for own, theirs in pairs]
        return statistics.mean(differences), interval(differences) if len(pairs) > 1 else math.inf


def read(study: Study, name: str) -> Narrow:
    """A cell from its run folders and the rows of its evaluation."""
    quality = by_target(quality_rows(study, name))
    seeds = {label: sorted(run["seed"] for run in study.runs(cell=name, target=label)) for label in quality}
    ends = {label: [read_end(study.folder(name, label, seed)) for seed in seeds[label]] for label in quality}
    return Narrow(name, ends, quality)


HEADER = ["network", "start and pace of k", "k", "loss", "distance, clean (exact)", "paper's sampler (exact)"]
HEADER += ["in groups, clean", "held out", "in the plane, clean", "off the plane, clean"]
NOTE = (
    "The distance of real networks is the Fréchet distance for digits. Otherwise it is √(p SW² + off²), with the sliced "
    "Wasserstein distance SW in the p-dimensional plane of the data, and off, the root-mean-square distance off the plane."
)


def lines(study: Study, cell: Narrow) -> list[list[str]]:
    """Lines of the table: distances under both samplers with the exact denoiser's floor, and the floor of held-out data."""
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
        start, pace = STARTS[label]
        ks, losses = spread(one.k for one in ends), spread(one.loss for one in ends)
        found.append([cell.name, f"{start:g}, {pace:g}", ks, losses, *figures])
    return found


def findings(cells: Sequence[Narrow], full: bool) -> list[Finding]:
    """Whether real networks have the failure, whether it makes samples worse, and whether a wide network has it too."""
    narrow, wide = ([cell for cell in cells if NETWORKS[cell.name][2] is kind] for kind in (True, False))
    failing = [cell for cell in narrow if cell.fails]
    seeds = counted_seeds(len(cells[0].paper))
    texts = [
        f"{cell.name}: {cell.k}, from another start or pace up to "
        f"{max(statistics.mean(one.k for one in ends) for ends in cell.ends.values()):.3g} "
        f"({'the failure' if cell.fails else 'k stays, but no better end was seen' if cell.stays else 'k does not stay'})"
        for cell in narrow
    ]
    result = [
        Finding(
            "in some real network with a bottleneck k stays near ½ although another start or pace ends at a lower loss",
            decided(bool(failing), full),
            f"{'found' if failing else 'not found'} in {len(failing)} of {len(narrow)} networks, {seeds}. " + "; ".join(texts),
        )
    ]
    if failing:
        costs = {cell.name: cell.cost(cell.better()[0]) for cell in failing}
        parts = [f"{100 * mean:+.0f} ± {100 * half:.0f} % ({name})" for name, (mean, half) in costs.items()]
        worse, better = all(mean > half for mean, half in costs.values()), any(mean < -half for mean, half in costs.values())
        statement = "where it is found, it makes the samples worse (distance, clean last step, in all such cells)"
        evidence = (
            f"distance from the paper's start relative to the first of 0.95 and pace 10 that ended lower: {'; '.join(parts)}"
        )
        result.append(Finding(statement, decided(worse, better), evidence))
    if wide:
        statement = "a network without a bottleneck does not have the failure"
        refuted = any(cell.fails for cell in wide)
        result.append(Finding(statement, decided(not refuted, refuted), "; ".join(f"{cell.name}: {cell.k}" for cell in wide)))
    return result
