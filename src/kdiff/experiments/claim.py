"""What a claim is, and what reproducing one gives: said beforehand, run by the runner, answered with a verdict."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from kdiff.components import Spec
from kdiff.experiments.runner import Job, make_jobs
from kdiff.training.config import TrainConfig

Verdict = Literal["confirmed", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Group:
    """Runs: every cell with every target and seed.

    Args:
        cells: configurations by name; a name in two groups has one configuration, and other targets or seeds.
        targets: what is compared.
        seeds: of each.
        num_samples: drawn from each run to judge it; 0 for runs that are not judged.
        exact: compute the floor of an exact denoiser for the first seed.
    """

    cells: Mapping[str, TrainConfig]
    targets: Sequence[Spec]
    seeds: Sequence[int]
    num_samples: int = 0
    exact: bool = False


@dataclass(frozen=True)
class Study:
    """The finished runs of a claim."""

    jobs: list[Job]
    rows: list[dict[str, Any]]
    full: bool

    def runs(self, **wanted: Any) -> list[dict[str, Any]]:
        """One row per run (whatever was measured of it) with these values: cell, target, seed."""
        found = {(row["cell"], row["target"], row["seed"]): row for row in self.rows}
        return [row for row in found.values() if all(row[name] == value for name, value in wanted.items())]

    def values(self, measure: str, sampler: str = "clean", **wanted: Any) -> list[float]:
        """A measure of the judged runs with these values, a number per run, in order of seeds."""
        wanted = {"measure": measure, "sampler": sampler, **wanted}
        found = [row for row in self.rows if all(row.get(name) == value for name, value in wanted.items())]
        return [row["value"] for row in sorted(found, key=lambda row: row["seed"])]

    def folder(self, cell: str, target: str, seed: int) -> Path:
        """The run folder of one run."""
        return next(job.folder for job in self.jobs if (job.cell, job.target, job.config.seed) == (cell, target, seed))


@dataclass(frozen=True)
class Finding:
    """What was found of one statement, and the figures that say so.

    Args:
        statement: what is decided.
        verdict: of it.
        evidence: the figures.
        decides: it is part of the claim; else it is reported beside, and the claim's verdict does not hang on it.
    """

    statement: str
    verdict: Verdict
    evidence: str
    decides: bool = True


@dataclass(frozen=True)
class Outcome:
    """The findings, and a table (Markdown) of the figures behind them."""

    findings: list[Finding]
    table: str
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """That of the findings that decide, if they agree; "mixed" if some are confirmed and some refuted."""
        found = {finding.verdict for finding in self.findings if finding.decides}
        if {"confirmed", "refuted"} <= found:
            return "mixed"
        return next(verdict for verdict in ("refuted", "inconclusive", "confirmed") if verdict in found)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper (or of ours), and the experiment that decides it.

    Args:
        name: as in `kdiff reproduce NAME`.
        title: a line.
        says: what is claimed.
        varied: what differs between runs.
        measured: what is looked at.
        refuted_if: what would refute it, said before any run.
        core_hours: estimated for the quick and for the full form, on one x86-64 core each.
        plan: the runs, of the full form or the quick one.
        examine: findings from the finished runs.
        draw: a picture of them, into a file.
        prepare: makes the data of a form, as far as they are not there, before anything else.
    """

    name: str
    title: str
    says: str
    varied: str
    measured: str
    refuted_if: str
    core_hours: tuple[float, float]
    plan: Callable[[bool], list[Group]]
    examine: Callable[[Study], Outcome]
    draw: Callable[[Study, Outcome, Path], None]
    prepare: Callable[[bool], None] | None = None

    def jobs(self, full: bool, out: Path) -> list[Job]:
        """All runs of a form, first seeds first, so that a whole picture is there early."""
        jobs = []
        for group in self.plan(full):
            jobs += make_jobs(group.cells, group.targets, group.seeds, out, group.num_samples, group.exact)
        return sorted(jobs, key=lambda job: job.config.seed)


def counted_seeds(count: int) -> str:
    """1 seed, 2 seeds."""
    return f"{count} seed{'' if count == 1 else 's'}"


def markdown(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar in a cell is escaped."""
    body = [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in [header, *lines]]
    body.insert(1, "|" + " --- |" * len(header))
    return "\n".join(body)
