"""Which prediction target suits this data? Noise, velocity, data and learned k (or any list) on the same footing.

The same network, data order, times and noise for every target; two samplers (the paper's, and a clean last step); every figure
with its spread over seeds and its floors. One table, one picture, and the files behind them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdiff.components import parse
from kdiff.data import Dataset
from kdiff.experiments.config import CompareConfig
from kdiff.experiments.runner import Job, collect, make_jobs, run_jobs
from kdiff.files import write_text
from kdiff.training.config import TrainConfig, as_dict, from_dict
from kdiff.training.run import build_model, load_dataset

MEASURES = {
    "frechet": "Fréchet distance",
    "sliced_wasserstein": "sliced Wasserstein",
    "off_manifold": "off the manifold",
    "copying": "copying ratio",
}


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation over seeds (NaN for one seed) of a measure, and its floors."""

    mean: float
    std: float
    grouped: float
    heldout: float
    exact: float | None
    seeds: int


def compare(
    config: CompareConfig, out: Path, progress: str | None = "training"
) -> tuple[list[Job], list[dict[str, Any]], Dataset]:
    """Run a comparison into a folder; returns its runs, the tidy rows and the data. What is there already is not run again.

    Raises:
        ValueError: bad data or configuration, before any run starts.
    """
    dataset, jobs = plan(config, out)
    run_jobs(jobs, config.workers, progress)
    rows = collect(jobs, out, config=as_dict(config))
    write_text(out / "table.md", table(rows) + "\n")
    return jobs, rows, dataset


def plan(config: CompareConfig, out: Path) -> tuple[Dataset, list[Job]]:
    """The data and the runs of a comparison, once data, network and targets have been found sound."""
    dataset = load_dataset(config)
    for target in config.targets:
        build_model(config, target, dataset.shape, dataset.num_classes)
    shared = {key: value for key, value in as_dict(config).items() if key in TrainConfig.__dataclass_fields__}
    base = from_dict(TrainConfig, shared)
    seeds = range(config.seed, config.seed + config.seeds)
    return dataset, make_jobs({str(parse(config.data)): base}, config.targets, seeds, out, config.num_samples)


def main_measure(rows: Sequence[dict[str, Any]]) -> str:
    """What targets are ranked by: the Fréchet distance where there are labels, else the sliced Wasserstein distance."""
    return next(measure for measure in MEASURES if any(row["measure"] == measure for row in rows))


def summarise(rows: Sequence[dict[str, Any]], target: str, sampler: str, measure: str) -> Summary:
    """Over the seeds of a target."""
    chosen = [r for r in rows if (r["target"], r["sampler"], r["measure"]) == (target, sampler, measure)]
    values = [row["value"] for row in chosen]
    exact = next((row["exact"] for row in chosen if row["exact"] is not None), None)
    grouped, heldout = statistics.mean(row["grouped"] for row in chosen), chosen[0]["heldout"]
    return Summary(statistics.mean(values), _std(values), grouped, heldout, exact, len(values))


def _std(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else math.nan


def with_spread(mean: float, std: float) -> str:
    """A mean ± standard deviation, in as many digits as make sense."""
    return f"{mean:.3g}" if math.isnan(std) else f"{mean:.3g} ± {std:.1g}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The comparison as a Markdown table: one line per target, figures under both samplers, then the floors."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    measures = [measure for measure in MEASURES if any(row["measure"] == measure for row in rows)]
    main = measures[0]
    columns = ["target", "k", "loss"]
    columns += [f"{MEASURES[m]}{', clean' if m != main else f', {s}'}" for m in measures for s in _samplers(m, main)]
    columns += [f"in groups of {rows[0]['group_size']}"]
    lines = [columns]
    for target in targets:
        runs = {row["seed"]: row for row in rows if row["target"] == target}.values()
        ks, losses = [row["k"] for row in runs if row["k"] is not None], [row["loss"] for row in runs]
        cells = [
            target,
            with_spread(statistics.mean(ks), _std(ks)) if ks else "",
            with_spread(statistics.mean(losses), _std(losses)),
        ]
        for measure in measures:
            for sampler in _samplers(measure, main):
                summary = summarise(rows, target, sampler, measure)
                cells.append(with_spread(summary.mean, summary.std))
        cells.append(f"{summarise(rows, target, 'clean', main).grouped:.3g}")
        lines.append(cells)
    floors = [summarise(rows, targets[-1], s, m) for m in measures for s in _samplers(m, main)]
    exact = ["" if floor.exact is None else f"{floor.exact:.3g}" for floor in floors]
    lines.append(["exact denoiser, " + targets[-1], "", "", *exact, ""])
    lines.append(["held-out data", "", "", *[""] * len(floors), f"{floors[0].heldout:.3g}"])
    body = [f"| {' | '.join(line)} |" for line in lines]
    body.insert(1, "|" + " --- |" * len(columns))
    return "\n".join(body)


def _samplers(measure: str, main: str) -> list[str]:
    return ["paper", "clean"] if measure == main else ["clean"]


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Which target did best under the clean sampler, and which others cannot be told from it with these seeds."""
    measure = main_measure(rows)
    summaries = {target: summarise(rows, target, "clean", measure) for target in dict.fromkeys(row["target"] for row in rows)}
    best = min(summaries, key=lambda target: summaries[target].mean)
    text = f"Lowest {MEASURES[measure]} (clean last step): {best}, {with_spread(summaries[best].mean, summaries[best].std)}."
    if summaries[best].seeds < 2:
        return f"{text} One seed says nothing of the spread: repeat with --seeds 3 before believing small differences."
    others = [target for target in summaries if target != best]
    close = [target for target in others if _within(summaries[best], summaries[target])]
    return f"{text} Within two standard errors of it: {', '.join(close) or 'no other'}."


def _within(best: Summary, other: Summary) -> bool:
    error = math.sqrt(best.std**2 / best.seeds + other.std**2 / other.seeds)
    return other.mean - best.mean < 2 * error
