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
from dataclasses import replace
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
from kdiff.studies.runner import collect, run_jobs
from kdiff.studies.tables import markdown

CLAIMS = (
    *("linear", "dynamics", "toy", "dimension", "depth", "pixel", "latent"),
    *("architectures", "ablation", "stagnation", "loss_space"),
)


def find_claim(name: str) -> Claim:
    """A claim by name.

    Raises:
        ValueError: no claim has this name.
    """
    if name not in CLAIMS:
        close = difflib.get_close_matches(name, CLAIMS, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else "."
        raise ValueError(f"no claim is called {name!r}{hint} Known: {', '.join(CLAIMS)}, or all")
    claim: Claim = import_module(f"kdiff.claims.{name}").CLAIM
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


def reproduce(claim: Claim, full: bool, out: Path, workers: int = 2, progress: str | None = None) -> Outcome:
    """Do the missing runs, examine all runs, and write verdict, table and picture into the folder `out`.

    Raises:
        ValueError: `out` holds runs with other settings.
    """
    if claim.prepare:
        claim.prepare(full)
    jobs = claim.jobs(full, out)
    # Missing data are found before any run. A classifier is trained once here, not once in every worker.
    judged = {str(job.config.data) for job in jobs if job.num_samples}
    for name, config in {str(job.config.data): job.config for job in jobs}.items():
        dataset = load_dataset(config)
        if name in judged:
            Judge(dataset)
    with locked(out):
        run_jobs(jobs, workers, progress)
        rows = collect(jobs, out, claim=claim.name, full=full)
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


def _without_refutation(finding: Finding) -> Finding:
    if finding.verdict != "refuted":
        return finding
    return replace(
        finding, verdict="inconclusive", evidence=f"{finding.evidence} (against the claim, but the quick form refutes nothing)"
    )


def _stamp(claim: Claim, study: Study, outcome: Outcome) -> dict[str, Any]:
    seconds = sum(
        read_finished(job.folder)["seconds"] + read_evaluation(job.folder / "evaluation.json")["seconds"] for job in study.jobs
    )
    return {
        "claim": claim.name,
        "says": claim.says,
        "refuted_if": claim.refuted_if,
        "form": "full" if study.full else "quick",
        "verdict": outcome.verdict,
        "findings": [vars(finding) for finding in outcome.findings],
        "notes": outcome.notes,
        "runs": len(study.jobs),
        "seeds": sorted({job.config.seed for job in study.jobs}),
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
    runs = f"{stamp['form']} form: {stamp['runs']} runs, seeds {seeds}"
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
