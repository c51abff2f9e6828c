"""Compare prediction targets on one data set: noise, velocity, data and learned k, or any list of targets.

All targets share the network, the order of the data, the times and the noise. Each run is judged by samples of the default
sampler, which is called "clean", because its last step returns the data prediction and leaves no noise behind. Where the
paper's sampler gives others (k above 0.95 or below 0.05), "paper" stands beside it. With sampler "paper", "clean" is the
paper's sampler with a clean last step. Every figure comes with its spread over seeds and with its floors. The result is a
table, a picture, and the files behind them. With a grid of fixed k among the targets, the result is a curve of quality against
k, and shows where on the curve a learned k ends.
"""

from __future__ import annotations

import math
import statistics
import sys
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdiff.config.plain import as_dict, from_dict
from kdiff.config.studies import CompareConfig
from kdiff.config.training import TrainConfig
from kdiff.data import Dataset
from kdiff.evaluation.judge import Judge
from kdiff.files.atomic import write_text
from kdiff.run.build import build_model, load_dataset
from kdiff.run.lock import locked
from kdiff.studies.collecting import collect
from kdiff.studies.continuing import check_same, find_network, find_precision, find_recipe, seed_range, with_grid
from kdiff.studies.paired import Interval, interval, log_ratios
from kdiff.studies.runner import Job, make_jobs, run_jobs
from kdiff.studies.tables import deviation, markdown, with_spread
from kdiff.targets import fixed_k
from kdiff.training.choosing import choose_network, timed
from kdiff.training.start import start_from
from kdiff.training.trainer import precision_for

MEASURES = {
    "frechet": "Fréchet distance",
    "frechet_heldout": "Fréchet distance to held-out data",
    "sliced_wasserstein": "sliced Wasserstein",
    "mmd": "MMD²",
    "off_manifold": "distance off the manifold",
    "copying": "copying ratio",
}
MEMORISED = 0.95  # the verdict warns of copying if the copying ratio is below this


@dataclass(frozen=True)
class Summary:
    """Mean and standard deviation over seeds (NaN for one seed) of a measure, and its floors."""

    mean: float
    std: float
    grouped: float
    heldout: float
    exact: float | None
    seeds: int

    def __str__(self) -> str:
        return with_spread(self.mean, self.std)


def compare(
    config: CompareConfig, out: Path, progress: str | None = "training"
) -> tuple[list[Job], list[dict[str, Any]], Dataset]:
    """Run a comparison into a folder; returns the runs, the tidy rows and the data. Finished runs are not run again.

    Raises:
        ValueError: bad data or configuration, before any run starts.
    """
    config = replace(config, recipe=find_recipe(config, out))
    dataset, jobs = plan(config, out, progress is not None)
    config = replace(config, network=jobs[0].config.network, precision=jobs[0].config.precision)
    # This refuses data that cannot be judged, and trains the data's classifier once, before every worker needs it.
    held_out = Judge(dataset).held_out
    if held_out.note:
        warnings.warn(held_out.note, stacklevel=2)
    check_same(config, out)
    with locked(out):
        run_jobs(jobs, config.workers, progress)
        rows = collect(jobs, out, config=as_dict(config), heldout_set=held_out.facts)
        write_text(out / "table.md", table(rows) + "\n")
    return jobs, rows, dataset


def plan(config: CompareConfig, out: Path, say: bool = False) -> tuple[Dataset, list[Job]]:
    """The data and the runs of a comparison, after data, network and targets have been checked.

    With `say`, a network that is chosen for the data is timed and printed, with the reason; and so is a precision.
    """
    dataset, targets = load_dataset(config), with_grid(config.targets, config.grid)
    config = replace(config, recipe=find_recipe(config, out), network=find_network(config, out))
    config = replace(config, precision=find_precision(config, out))
    shared = {key: value for key, value in as_dict(config).items() if key in TrainConfig.__dataclass_fields__}
    base = replace(from_dict(TrainConfig, shared), target="velocity")
    base, chosen = choose_network(base, dataset.shape, dataset.num_classes, threads=1)
    config = replace(config, network=base.network)
    for target in targets:
        made, specs = (dataset.moments, dataset.samples), [each.spec for each in dataset.conditions.values()]
        model = build_model(config, target, dataset.shape, dataset.num_classes, config.seed, *made, conditions=specs)
        if config.start_from is not None:
            start_from(model, replace(base, target=target), *dataset.part("train"), dataset)
    if base.precision == "auto":  # one precision for all targets
        faster = precision_for(base, model, dataset, threads=1)
        base = replace(base, precision=faster.precision)
        if say:
            print(faster, file=sys.stderr)
    seeds = seed_range(config.seed, config.seeds)
    how = config.num_samples, config.exact
    jobs = make_jobs({str(config.data): base}, targets, seeds, out, *how, sampler=config.sampler)
    if chosen and say:
        chosen = timed(chosen, base, dataset.shape, dataset.num_classes, threads=1)
        print(chosen.as_text(base, len(dataset.part("train")[0]), len(jobs), config.workers), file=sys.stderr)
    return dataset, jobs


def main_measure(rows: Sequence[dict[str, Any]]) -> str:
    """The measure that ranks targets: the Fréchet distance if the data have labels, else the sliced Wasserstein distance."""
    return next(measure for measure in MEASURES if any(row["measure"] == measure for row in rows))


def main_number(row: dict[str, Any]) -> tuple[str, float | None]:
    """The name and the value of the main number of a row's target; k if the row does not name it."""
    name = row.get("main_number") or "k"
    return name, row[name]


def summarise(rows: Sequence[dict[str, Any]], target: str, sampler: str, measure: str) -> Summary:
    """One measure of one target under one sampler, over its seeds."""
    chosen = [r for r in rows if (r["target"], r["sampler"], r["measure"]) == (target, sampler, measure)]
    values = [row["value"] for row in chosen]
    exact = next((row["exact"] for row in chosen if row["exact"] is not None), None)
    grouped, heldout = statistics.mean(row["grouped"] for row in chosen), chosen[0]["heldout"]
    return Summary(statistics.mean(values), deviation(values), grouped, heldout, exact, len(values))


def judged_by(rows: Sequence[dict[str, Any]], target: str, sampler: str) -> bool:
    """Whether the runs of a target were judged by a sampler: in the default way, the paper's judges only some targets."""
    return any((row["target"], row["sampler"]) == (target, sampler) for row in rows)


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The comparison as a Markdown table: a line for each target, then a line for the held-out data.

    The main measure is given under each sampler, with the floor of the exact denoiser in brackets if it was computed. An empty
    place means that the runs were not judged by that sampler. The other measures are given under the clean sampler. The last
    column is the main measure in groups as large as the held-out set: only that column compares with the last line. Main
    numbers of targets that are not k have columns beside k.
    """
    targets = list(dict.fromkeys(row["target"] for row in rows))
    measures = [measure for measure in MEASURES if any(row["measure"] == measure for row in rows)]
    main, floors = measures[0], any(row["exact"] is not None for row in rows)
    numbers = list(dict.fromkeys(["k", *(main_number(row)[0] for row in rows)]))
    columns = ["target", *numbers, "loss"]
    samplers = [sampler for sampler in ("paper", "clean") if any(row["sampler"] == sampler for row in rows)]
    columns += [f"{MEASURES[main]}, {sampler}{' (floor)' if floors else ''}" for sampler in samplers]
    columns += [f"{MEASURES[measure]}, clean" for measure in measures[1:]]
    columns += [f"{MEASURES[main]} in groups of {rows[0]['group_size']}, clean"]
    lines: list[list[str]] = []
    for target in targets:
        runs = {row["seed"]: row for row in rows if row["target"] == target}.values()
        losses, cells = [row["loss"] for row in runs], [target]
        for number in numbers:
            ks = [k for name, k in map(main_number, runs) if name == number and k is not None]
            cells.append(with_spread(statistics.mean(ks), deviation(ks)) if ks else "")
        cells.append(with_spread(statistics.mean(losses), deviation(losses)))
        for measure, sampler in [*((main, sampler) for sampler in samplers), *((each, "clean") for each in measures[1:])]:
            if not judged_by(rows, target, sampler):
                cells.append("")
                continue
            summary = summarise(rows, target, sampler, measure)
            floor = f" ({with_spread(summary.exact, math.nan)})" if measure == main and summary.exact is not None else ""
            cells.append(f"{summary}{floor}")
        cells.append(with_spread(summarise(rows, target, "clean", main).grouped, math.nan))
        lines.append(cells)
    heldout = {measure: with_spread(summarise(rows, targets[0], "clean", measure).heldout, math.nan) for measure in measures}
    # The column "to held-out data" has the distance of the training samples, and the last column that of the held-out set.
    beside = [heldout[measure] if measure == "frechet_heldout" else "" for measure in measures[1:]]
    lines.append(["training and held-out data", *[""] * (len(numbers) + 1 + len(samplers)), *beside, heldout[main]])
    return markdown(columns, lines)


def fixed_targets(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The targets with a fixed k, and these k, in order of k."""
    ks = {target: k for target in {row["target"]: None for row in rows} if (k := fixed_k(target)) is not None}
    return dict(sorted(ks.items(), key=lambda item: item[1]))


def has_curve(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether there are at least three different fixed k, enough for a curve over k."""
    return len(set(fixed_targets(rows).values())) >= 3


def _clean_summaries(rows: Sequence[dict[str, Any]]) -> dict[str, Summary]:
    targets = dict.fromkeys(row["target"] for row in rows)
    return {target: summarise(rows, target, "clean", main_measure(rows)) for target in targets}


def best_target(rows: Sequence[dict[str, Any]], among: Iterable[str] | None = None) -> str:
    """The target, of all or of `among`, with the lowest mean of the main measure under the clean sampler."""
    summaries = _clean_summaries(rows)
    return min(among or summaries, key=lambda target: summaries[target].mean)


def verdict(rows: Sequence[dict[str, Any]]) -> str:
    """Sentences that name the best target (lowest main measure, clean sampler) and the targets that are significantly higher.

    The test is a paired t-test on the logarithms of the ratios, seed by seed, at 5 % over all comparisons together
    (Bonferroni; `kdiff.studies.paired`). With few seeds only large differences are significant: with three seeds and three
    other targets, 7.6 standard errors. The verdict also compares learned k with the best fixed k, and names what speaks
    against the best target: another target is lower by another measure, or its samples are close to copies.
    """
    measure, summaries, best = main_measure(rows), _clean_summaries(rows), best_target(rows)
    summary = summaries[best]
    parts = [f"Lowest {MEASURES[measure]} (clean last step): {best}, {summary}."]
    others = [target for target in summaries if target != best]
    if summary.seeds < 2:
        parts.append("One seed says nothing about the spread: repeat with --seeds 3 before you believe small differences.")
    elif others:
        worse = [target for target in others if _against(rows, measure, best, target, len(others)).low > 0]
        close = [target for target in others if target not in worse]
        test = f"paired t-test over {summary.seeds} seeds, 5 % level over all comparisons"
        parts.append(f"Significantly higher ({test}): {', '.join(worse) or 'none'}.")
        parts.append(f"Not significantly higher: {', '.join(close) or 'none'}.")
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
            near = f"closer to the training data than held-out data are (copying ratio {copying:.2g})"
            parts.append(f"Samples of {best} are {near}.")
    return " ".join(parts)


def _along_k(rows: Sequence[dict[str, Any]], measure: str, summaries: dict[str, Summary]) -> str:
    """The best fixed k, where each learned k ended, and whether it is significantly higher or lower than the best fixed k.

    The test and its level are those of the rest of the verdict, since the best of many fixed k is the best by luck too.
    """
    fixed = fixed_targets(rows)
    best = best_target(rows, fixed)
    parts = [f"Best of {len(set(fixed.values()))} fixed k: {fixed[best]:g} ({summaries[best]})"]
    for target, summary in summaries.items():
        runs = list({row["seed"]: row for row in rows if row["target"] == target}.values())
        ks, name = [row["k"] for row in runs], main_number(runs[0])[0]
        if target in fixed or None in ks:
            continue
        text = f"{target} ends at {name} = {with_spread(statistics.mean(ks), deviation(ks))} with {summary}"
        if summary.seeds > 1:
            found = _against(rows, measure, best, target, len(summaries) - 1)
            way = "higher than" if found.low > 0 else "lower than" if found.high < 0 else "different from"
            text += f", {'' if found.low > 0 or found.high < 0 else 'not '}significantly {way} the best fixed k"
        parts.append(text)
    return "; ".join(parts) + "."


def _against(rows: Sequence[dict[str, Any]], measure: str, best: str, other: str, comparisons: int) -> Interval:
    """The interval of log(other / best) of a measure under the clean sampler, paired over the seeds that both have."""
    chosen = [row for row in rows if row["measure"] == measure and row["sampler"] == "clean"]
    ours, theirs = ({row["seed"]: row["value"] for row in chosen if row["target"] == target} for target in (best, other))
    seeds = [seed for seed in ours if seed in theirs]
    return interval(log_ratios([theirs[seed] for seed in seeds], [ours[seed] for seed in seeds]), comparisons)
