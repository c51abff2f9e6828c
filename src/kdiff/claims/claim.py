"""What a claim is, which runs it needs, and what was found in them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kdiff.config.parts import Spec
from kdiff.config.recipes import EARLIER, EARLIER_NETWORK
from kdiff.config.training import TrainConfig
from kdiff.networks.choice import is_auto
from kdiff.run.metrics import read_metrics
from kdiff.studies.paired import Verdict
from kdiff.studies.runner import Job, Judging, make_jobs

# The transformer of the claims about images.
SMALL_JIT = "JiT(patch_size={patch}, hidden_size=96, depth=4, num_heads=4, bottleneck=64, context_tokens=0)"


@dataclass(frozen=True)
class Group:
    """Runs of every cell with every target and every seed.

    `cells` are configurations by name; a name that is in two groups has the same configuration in both. `num_samples` are drawn
    from each run for its evaluation, 0 if it is not evaluated. `exact` adds the floor of an exact denoiser for the first seed.
    `judge` evaluates the runs in another way (see `kdiff.studies.runner.Job`).
    """

    cells: Mapping[str, TrainConfig]
    targets: Sequence[Spec]
    seeds: Sequence[int]
    num_samples: int = 0
    exact: bool = False
    judge: Judging | None = None


@dataclass(frozen=True)
class Study:
    """The runs of a claim, and rows of those that are finished: of all, unless the claim is examined in pieces."""

    jobs: list[Job]
    rows: list[dict[str, Any]]
    full: bool

    @property
    def cells(self) -> dict[str, TrainConfig]:
        """The configurations of all cells by name."""
        return {job.cell: job.config for job in self.jobs}

    def data(self, cell: str) -> str:
        """The data of a cell, as text."""
        return str(self.cells[cell].data)

    def runs(self, **wanted: Any) -> list[dict[str, Any]]:
        """One row for each run that has these values of cell, target and seed, whatever was measured of the run."""
        found = {(row["cell"], row["target"], row["seed"]): row for row in self.rows}
        return [row for row in found.values() if all(row[name] == value for name, value in wanted.items())]

    def values(self, measure: str, sampler: str = "clean", **wanted: Any) -> list[float]:
        """A measure of the evaluated runs that have these values: one number for each run, in order of seeds."""
        wanted = {"measure": measure, "sampler": sampler, **wanted}
        found = [row for row in self.rows if all(row.get(name) == value for name, value in wanted.items())]
        return [row["value"] for row in sorted(found, key=lambda row: row["seed"])]

    def folder(self, cell: str, target: str, seed: int) -> Path:
        """The run folder of one run."""
        return next(job.folder for job in self.jobs if (job.cell, job.target, job.config.seed) == (cell, target, seed))

    def metrics(self, cell: str, target: str, seed: int) -> list[dict[str, Any]]:
        """The logged metrics of one run, in order of steps."""
        return read_metrics(self.folder(cell, target, seed) / "metrics.jsonl")


@dataclass(frozen=True)
class Finding:
    """What was found about one statement: the verdict, and the figures behind it as evidence.

    `decides` says whether the statement is part of the claim; if not, it is reported and does not change the claim's verdict.
    """

    statement: str
    verdict: Verdict
    evidence: str
    decides: bool = True


def decided(confirmed: bool, refuted: bool = False) -> Verdict:
    """The verdict "confirmed" or "refuted" if one of them holds (the first counts), else "inconclusive"."""
    return "confirmed" if confirmed else "refuted" if refuted else "inconclusive"


@dataclass(frozen=True)
class Outcome:
    """The findings, a table (Markdown) of the figures behind them, and notes."""

    findings: list[Finding]
    table: str
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        """That of the findings that decide. If they differ: "mixed" for confirmed and refuted ones, else the worse."""
        found = {finding.verdict for finding in self.findings if finding.decides}
        if {"confirmed", "refuted"} <= found:
            return "mixed"
        return next(verdict for verdict in ("refuted", "inconclusive", "confirmed") if verdict in found)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper (or of this project), and the experiment that tests it.

    `refuted_if` says before any run what would refute the claim. `core_hours` are estimates for the quick and for the full
    form, on one x86-64 core. `plan` gives the runs of the full form (True) or the quick form (False), `examine` derives the
    findings from the finished runs, and `draw` draws them into a file. `prepare` makes the data of a form first, unless they
    exist. `follow` gives further runs that depend on finished ones. A `piecewise` claim can be examined before all its runs are
    finished.
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
    follow: Callable[[Study], list[Group]] | None = None
    piecewise: bool = False

    def jobs(self, full: bool, out: Path) -> list[Job]:
        """All runs of a form, in order of seeds, so that the first seed soon gives a whole picture.

        The recipe is "plain" and the network an MLP unless a cell names others: the claims are about targets, and were run
        before there were recipes.
        """
        return self.jobs_of(self.plan(full), out)

    @staticmethod
    def jobs_of(groups: Sequence[Group], out: Path) -> list[Job]:
        """The runs of some groups, in order of seeds. A run that is in two groups is made once, as the last of them says."""
        jobs: dict[Path, Job] = {}
        for group in groups:
            cells = {name: _as_then(config) for name, config in group.cells.items()}
            made = make_jobs(cells, group.targets, group.seeds, out, group.num_samples, group.exact, group.judge)
            jobs |= {job.folder: job for job in made}
        return sorted(jobs.values(), key=lambda job: job.config.seed)


def _as_then(config: TrainConfig) -> TrainConfig:
    """The settings with the recipe and the network that were the defaults when the claims were first run."""
    network = EARLIER_NETWORK if is_auto(config.network) else config.network
    return replace(config, recipe=config.recipe or EARLIER, network=network)
