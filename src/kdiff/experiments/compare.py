"""Which prediction target suits this data? Noise, velocity, data and learned k (or any list) on the same footing.

The same network, data order, times and noise for every target; two samplers (the paper's, and a clean last step); every figure
with its spread over seeds and its floors. One table, one picture, and the files behind them. A grid of fixed k among the
targets is a curve of quality against k, and shows where on it a learned k lands.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdiff.components import parse
from kdiff.data import Dataset
from kdiff.evaluation.judge import Judge
from kdiff.experiments.config import CompareConfig, fixed_k, with_grid
from kdiff.experiments.paired import Interval, interval, log_ratios
from kdiff.experiments.runner import Job, collect, make_jobs, run_jobs
from kdiff.files import read_json, write_text
from kdiff.training.config import TrainConfig, as_dict, from_dict
from kdiff.training.folder import locked
from kdiff.training.run import build_model, load_dataset
from kdiff.training.start import start_from

MEASURES = {
    "frechet": "Fréchet distance",
    "frechet_heldout": "Fréchet distance to held-out",
    "sliced_wasserstein": "sliced Wasserstein",
    "mmd": "MMD²",
    "off_manifold": "off the manifold",
    "copying": "copying ratio",
}


MEMORISED = 0.95


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
    # Refuses data that cannot be judged, and trains its classifier once, before every worker wants it.
    Judge(dataset)
    _check_same(config, out)
    with locked(out):
        run_jobs(jobs, config.workers, progress)
        rows = collect(jobs, out, config=as_dict(config))
        write_text(out / "table.md", table(rows) + "\n")
    return jobs, rows, dataset


def plan(config: CompareConfig, out: Path) -> tuple[Dataset, list[Job]]:
    """The data and the runs of a comparison, once data, network and targets have been found sound."""
    dataset, targets = load_dataset(config), with_grid(config.targets, config.grid)
    shared = {key: value for key, value in as_dict(config).items() if key in TrainConfig.__dataclass_fields__}
    base = from_dict(TrainConfig, shared)
    for target in targets:
        model = build_model(config, target, dataset.shape, dataset.num_classes)
        if config.start_from is not None:
            start_from(model, replace(base, target=target), *dataset.part("train"))
    seeds = _seeds(config.seed, config.seeds)
    return dataset, make_jobs({str(parse(config.data)): base}, targets, seeds, out, config.num_samples, config.exact)


def _check_same(config: CompareConfig, out: Path) -> None:
    """Refuse to write one comparison's results over another's; one with more targets or seeds is the same, continued.

    Settings of the runs are compared when those are gone on with; other data would be runs beside them.
    """
    if not (out / "results.json").exists():
        return
    stored = read_json(out / "results.json")["config"]
    data, now = str(parse(stored["data"])), str(parse(config.data))
    if data != now:
        raise ValueError(f"{out} holds a comparison on {data}, this one is on {now}; choose another folder by --out")
    seeds = sorted(set(_seeds(stored["seed"], stored["seeds"])) - set(_seeds(config.seed, config.seeds)))
    if seeds:
        raise ValueError(
            f"{out} holds a comparison with the seeds {', '.join(map(str, seeds))} too; choose another folder by --out, or as "
            "many --seeds"
        )
    there = {str(parse(target)) for target in with_grid(stored["targets"], stored.get("grid", 0))}
    lost = sorted(there - {str(parse(target)) for target in with_grid(config.targets, config.grid)})
    if lost:
        raise ValueError(f"{out} holds a comparison with {', '.join(lost)}; choose another folder by --out, or add them")


def _seeds(first: int, count: int) -> range:
    return range(first, first + count)


def main_measure(rows: Sequence[dict[str, Any]]) -> str:
    """What targets are ranked by: the Fréchet distance where there are labels, else the sliced Wasserstein distance."""
    return next(measure for measure in MEASURES if any(row["measure"] == measure for row in rows))


def summarise(rows: Sequence[dict[str, Any]], target: str, sampler: str, measure: str) -> Summary:
    """Over the seeds of a target."""
    chosen = [r for r in rows if (r["target"], r["sampler"], r["measure"]) == (target, sampler, measure)]
    values = [row["value"] for row in chosen]
    exact = next((row["exact"] for row in chosen if row["exact"] is not None), None)
    grouped, heldout = statistics.mean(row["grouped"] for row in chosen), chosen[0]["heldout"]
    return Summary(statistics.mean(values), deviation(values), grouped, heldout, exact, len(values))


def deviation(values: Sequence[float]) -> float:
    """The standard deviation, NaN for one value."""
    return statistics.stdev(values) if len(values) > 1 else math.nan


def with_spread(mean: float, std: float) -> str:
    """A mean ± standard deviation, in as many digits as make sense."""
    # A number of that many digits is written out again, so that 12 becomes 10 and not 1e+01. A fixed k has no spread.
    rounded, spread = f"{float(f'{mean:.3g}'):g}", f"{float(f'{std:.1g}'):g}"
    return rounded if math.isnan(std) or std == 0 else f"{rounded} ± {spread}"


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The comparison as a Markdown table: one line per target, then the held-out data.

    The main measure under both samplers, with the exact denoiser's floor in brackets where it was computed; the others under
    the clean one; and the main one in groups as large as the held-out set, to compare with the last line.
    """
    targets = list(dict.fromkeys(row["target"] for row in rows))
    measures = [measure for measure in MEASURES if any(row["measure"] == measure for row in rows)]
    main, floors = measures[0], any(row["exact"] is not None for row in rows)
    columns = ["target", "k", "loss"]
    columns += [f"{MEASURES[main]}, {sampler}{' (floor)' if floors else ''}" for sampler in ("paper", "clean")]
    columns += [f"{MEASURES[measure]}, clean" for measure in measures[1:]]
    columns += [f"{MEASURES[main]} in groups of {rows[0]['group_size']}, clean"]
    lines = [columns]
    for target in targets:
        runs = {row["seed"]: row for row in rows if row["target"] == target}.values()
        ks, losses = [row["k"] for row in runs if row["k"] is not None], [row["loss"] for row in runs]
        cells = [
            target,
            with_spread(statistics.mean(ks), deviation(ks)) if ks else "",
            with_spread(statistics.mean(losses), deviation(losses)),
        ]
        for measure, sampler in [(main, "paper"), *((measure, "clean") for measure in measures)]:
            summary = summarise(rows, target, sampler, measure)
            floor = f" ({with_spread(summary.exact, math.nan)})" if measure == main and summary.exact is not None else ""
            cells.append(with_spread(summary.mean, summary.std) + floor)
        cells.append(with_spread(summarise(rows, target, "clean", main).grouped, math.nan))
        lines.append(cells)
    heldout = {measure: with_spread(summarise(rows, targets[0], "clean", measure).heldout, math.nan) for measure in measures}
    # The training samples' own distance to the held-out set; all else is the held-out set's, and compares with groups alone.
    beside = [heldout[measure] if measure == "frechet_heldout" else "" for measure in measures[1:]]
    lines.append(["training and held-out data", "", "", "", "", *beside, heldout[main]])
    body = [f"| {' | '.join(line)} |" for line in lines]
    body.insert(1, "|" + " --- |" * len(columns))
    return "\n".join(body)


def fixed_targets(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The targets of a fixed k, in order of k."""
    ks = {target: k for target in {row["target"]: None for row in rows} if (k := fixed_k(target)) is not None}
    return dict(sorted(ks.items(), key=lambda item: item[1]))


def has_curve(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether there are enough fixed k for a curve over k: three different ones."""
    return len(set(fixed_targets(rows).values())) >= 3


def _clean_summaries(rows: Sequence[dict[str, Any]]) -> dict[str, Summary]:
    targets = dict.fromkeys(row["target"] for row in rows)
    return {target: summarise(rows, target, "clean", main_measure(rows)) for target in targets}


def best_target(rows: Sequence[dict[str, Any]], among: Iterable[str] | None = None) -> str:
    """The target, of all or of some, with the lowest mean of the main measure under the clean sampler."""
    summaries = _clean_summaries(rows)
    return min(among or summaries, key=lambda target: summaries[target].mean)


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Which target has the lowest main measure under the clean sampler, which others can be told from it, and what to hold
    against it.

    Others are told apart by a t-test on the logarithms of ratios seed by seed, 5 % over all comparisons (Bonferroni;
    `kdiff.experiments.paired`). With few seeds only large differences are: with three, and three others, 7.6 standard errors.
    """
    measure, summaries, best = main_measure(rows), _clean_summaries(rows), best_target(rows)
    summary = summaries[best]
    parts = [f"Lowest {MEASURES[measure]} (clean last step): {best}, {with_spread(summary.mean, summary.std)}."]
    others = [target for target in summaries if target != best]
    if summary.seeds < 2:
        parts.append("One seed says nothing of the spread: repeat with --seeds 3 before believing small differences.")
    elif others:
        apart = [target for target in others if _against(rows, measure, best, target, len(others)).low > 0]
        close = [target for target in others if target not in apart]
        parts.append(f"Told apart from it by {summary.seeds} seeds: {', '.join(apart) or 'none'}.")
        parts.append(f"Not told apart: {', '.join(close) or 'none'}.")
    if has_curve(rows):
        parts.append(_along_k(rows, measure, summaries))
    for other in ("frechet_heldout", "off_manifold"):
        if other != measure and any(row["measure"] == other for row in rows):
            means = {target: summarise(rows, target, "clean", other).mean for target in summaries}
            lowest = min(means, key=lambda target: means[target])
            if lowest != best:
                parts.append(f"Lowest {MEASURES[other]}: {lowest}, {means[lowest]:.3g}; {best} has {means[best]:.3g}.")
    if any(row["measure"] == "copying" for row in rows):
        copying = summarise(rows, best, "clean", "copying").mean
        if copying < MEMORISED:
            parts.append(f"Its samples lie nearer to the training data than new data do (copying ratio {copying:.2g}).")
    return " ".join(parts)


def _along_k(rows: Sequence[dict[str, Any]], measure: str, summaries: dict[str, Summary]) -> str:
    """The best fixed k, and where learned ones ended and how they compare with it.

    Told apart in either direction, by the same test and as strictly as in the rest of the verdict: the best of many is
    the best by luck too.
    """
    fixed = fixed_targets(rows)
    best = best_target(rows, fixed)
    parts = [f"Best of {len(set(fixed.values()))} fixed k: {fixed[best]:g} ({_figure(summaries[best])})"]
    for target, summary in summaries.items():
        ks = list({row["seed"]: row["k"] for row in rows if row["target"] == target}.values())
        if target in fixed or None in ks:
            continue
        text = f"{target} ends at k = {with_spread(statistics.mean(ks), deviation(ks))} with {_figure(summary)}"
        if summary.seeds > 1:
            found = _against(rows, measure, best, target, len(summaries) - 1)
            apart = found.low > 0 or found.high < 0
            text += f", {'' if apart else 'not '}told apart from it"
        parts.append(text)
    return "; ".join(parts) + "."


def _figure(summary: Summary) -> str:
    return with_spread(summary.mean, summary.std)


def _against(rows: Sequence[dict[str, Any]], measure: str, best: str, other: str, comparisons: int) -> Interval:
    """Log of the other's measure over the best's, paired over the seeds of both."""
    chosen = [row for row in rows if row["measure"] == measure and row["sampler"] == "clean"]
    ours, theirs = ({row["seed"]: row["value"] for row in chosen if row["target"] == target} for target in (best, other))
    seeds = [seed for seed in ours if seed in theirs]
    return interval(log_ratios([theirs[seed] for seed in seeds], [ours[seed] for seed in seeds]), comparisons)
