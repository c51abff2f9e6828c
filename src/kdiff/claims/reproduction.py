"""Reproduce a claim: do the runs of its experiment that are missing, and write what was found.

The folder of a claim then holds

    report.md         claim, verdict, findings, picture and table, to read
    verdict.json      claim, findings, verdict, time taken, environment
    table.md          the figures behind the findings
    NAME.png          the picture
    results.csv       a row for each run, sampler and measure; results.json: the same with the environment
    runs/             the runs, which can be resumed
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from importlib import import_module
from pathlib import Path
from typing import Any

from kdiff.claims.claim import Claim, Finding, Outcome, Study
from kdiff.evaluation.judge import Judge
from kdiff.files.atomic import write_json, write_text
from kdiff.run.build import load_dataset
from kdiff.run.contents import read_evaluation, read_finished
from kdiff.run.environment import describe_environment
from kdiff.run.lock import check_held, locked
from kdiff.studies.collecting import collect
from kdiff.studies.runner import Job, run_jobs
from kdiff.studies.tables import markdown

CLAIMS = (
    *("linear", "dynamics", "toy", "dimension", "depth", "pixel", "latent"),
    *("architectures", "ablation", "stagnation", "loss_space", "beyond"),
)
FILES = {"beyond": "beyond_study"}  # of claims whose name is that of another file


def find_claim(name: str) -> Claim:
    """A claim by name.

    Raises:
        ValueError: no claim has this name.
    """
    if name not in CLAIMS:
        close = difflib.get_close_matches(name, CLAIMS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"no claim is called {name!r}{hint} Known: {', '.join(CLAIMS)}, or all")
    claim: Claim = import_module(f"kdiff.claims.{FILES.get(name, name)}").CLAIM
    return claim


def describe(claim: Claim, full: bool) -> str:
    """What a claim says before its runs, and what a form of it costs."""
    hours = claim.core_hours[full]
    cost = f"{hours * 60:.0f} core-minutes" if hours < 1 else f"{hours:.1f} core-hours"
    return (
        f"{claim.name}: {claim.title}\n"
        f"  claim       {claim.says}\n"
        f"  varied      {claim.varied}\n"
        f"  measured    {claim.measured}\n"
        f"  refuted if  {claim.refuted_if}\n"
        f"  {'full' if full else 'quick'} form, about {cost}"
    )


def reproduce(
    claim: Claim, full: bool, out: Path, workers: int = 2, progress: str | None = None, only: Sequence[str] = ()
) -> Outcome:
    """Do the missing runs, examine all runs, and write verdict, table and picture into the folder `out`.

    With `only`, patterns such as `H4*` or `*/learned/*` for CELL/TARGET/seed_N, only the missing runs that match one of them
    are done, and all finished runs are examined.

    Raises:
        ValueError: `out` holds runs with other settings; a claim cannot be examined before all its runs are finished; or no run
            matches `only`.
    """
    if only and not claim.piecewise:
        raise ValueError(f"{claim.name} cannot be reproduced in pieces; leave --only out")
    if claim.prepare:
        claim.prepare(full)
    jobs = claim.jobs(full, out)
    if not (claim.follow and any(job.finished for job in jobs)):
        _check_matched(claim, jobs, only)
    with locked(out):
        _run(jobs, only, workers, progress)
        if claim.follow and (ended := [job for job in jobs if job.finished]):
            study = Study(jobs, collect(ended, out, claim=claim.name, full=full), full)
            there = {job.folder for job in jobs}
            further = [job for job in claim.jobs_of(claim.follow(study), out) if job.folder not in there]
            _run(further, only, workers, progress)
            jobs += further
            _check_matched(claim, jobs, only)
        # A study knows all its runs, and has rows of those that are finished; with `only` some may be missing.
        rows = collect([job for job in jobs if job.finished or not only], out, claim=claim.name, full=full)
        study = Study(jobs, rows, full)
        outcome = claim.examine(study)
        if not full:
            # Too few seeds and steps to refute anything; the evidence says what speaks against the claim.
            outcome = replace(outcome, findings=[_without_refutation(finding) for finding in outcome.findings])
        check_held(out)
        write_text(out / "table.md", outcome.table + "\n")
        claim.draw(study, outcome, out / f"{claim.name}.png")
        stamp = _stamp(claim, study, outcome)
        write_text(out / "report.md", page(claim, outcome, stamp))
        write_json(out / "verdict.json", stamp)
    return outcome


def _check_matched(claim: Claim, jobs: Sequence[Job], only: Sequence[str]) -> None:
    """Raise ValueError if the patterns match no run."""
    if not any(_matches(job, only) for job in jobs):
        cells = ", ".join(dict.fromkeys(job.cell for job in jobs))
        raise ValueError(
            f"no run of {claim.name} matches {' or '.join(only)}; expected patterns for CELL/TARGET/seed_N: {cells}"
        )


def _matches(job: Job, only: Sequence[str]) -> bool:
    name = f"{job.cell}/{job.target}/seed_{job.config.seed}"
    return not only or any(fnmatchcase(name, pattern) for pattern in only)


def _run(jobs: Sequence[Job], only: Sequence[str], workers: int, progress: str | None) -> None:
    """Do the runs that match and are missing, after their data have been found and their classifiers trained."""
    wanted = [job for job in jobs if _matches(job, only)]
    # Missing data are found before any run. A classifier is trained once here, not once in every worker.
    judged = {str(job.config.data) for job in wanted if job.num_samples and not job.finished}
    for name, config in {str(job.config.data): job.config for job in wanted}.items():
        dataset = load_dataset(config)
        if name in judged:
            Judge(dataset)
    run_jobs(wanted, workers, progress)


def _without_refutation(finding: Finding) -> Finding:
    if finding.verdict != "refuted":
        return finding
    return replace(
        finding, verdict="inconclusive", evidence=f"{finding.evidence} (against the claim, but the quick form refutes nothing)"
    )


def _stamp(claim: Claim, study: Study, outcome: Outcome) -> dict[str, Any]:
    ended = [job for job in study.jobs if job.finished]
    seconds = sum(
        read_finished(job.folder)["seconds"] + read_evaluation(job.folder / "evaluation.json")["seconds"] for job in ended
    )
    return {
        "claim": claim.name,
        "says": claim.says,
        "refuted_if": claim.refuted_if,
        "form": "full" if study.full else "quick",
        "verdict": outcome.verdict,
        "findings": [vars(finding) for finding in outcome.findings],
        "notes": outcome.notes,
        "runs": len(ended),
        **({"planned": len(study.jobs)} if len(ended) < len(study.jobs) else {}),
        "seeds": sorted({job.config.seed for job in ended}),
        "core_hours": {"estimated": claim.core_hours[study.full], "taken": round(seconds / 3600, 3)},
        "environment": describe_environment(),
    }


def page(claim: Claim, outcome: Outcome, stamp: dict[str, Any]) -> str:
    """The report as Markdown; the picture lies in the same folder."""
    findings = [
        [one.statement, f"**{one.verdict}**" if one.decides else f"{one.verdict} (not part of the claim)", one.evidence]
        for one in outcome.findings
    ]
    seeds, hours = ", ".join(map(str, stamp["seeds"])), stamp["core_hours"]
    planned = f" of {stamp['planned']}" if "planned" in stamp else ""
    runs = f"{stamp['form']} form: {stamp['runs']}{planned} runs, seeds {seeds}"
    about = {
        "Claim": claim.says,
        "Varied": claim.varied,
        "Measured": claim.measured,
        "A part is refuted if": claim.refuted_if,
    }
    parts = [
        f"# {claim.name}: {claim.title}",
        f"```sh\n{stamp['environment']['command']}\n```",
        "\n".join(f"- **{what}**: {text}" for what, text in about.items()),
        f"**Verdict: {outcome.verdict}** ({runs}, {hours['taken']:.2g} core-hours, {hours['estimated']:g} estimated).",
        markdown(["finding", "verdict", "evidence"], findings),
        "\n".join(f"- Note: {note}" for note in outcome.notes),
        f"![{claim.title}]({claim.name}.png)",
        outcome.table,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def report(outcome: Outcome) -> str:
    """The table and the findings as text."""
    lines = [
        f"{finding.verdict.upper() if finding.decides else finding.verdict:12}  {finding.statement}\n{'':14}{finding.evidence}"
        for finding in outcome.findings
    ]
    notes = [f"{'note':12}  {note}" for note in outcome.notes]
    return "\n".join([outcome.table, "", *lines, *notes, "", f"verdict: {outcome.verdict}"])
