"""The results of finished runs as tidy rows: results.csv and results.json (see `kdiff.studies.runner`)."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdiff.files.atomic import write_json, write_text
from kdiff.run.contents import read_evaluation, read_finished
from kdiff.run.environment import describe_environment
from kdiff.run.lock import check_held
from kdiff.run.metrics import read_metrics
from kdiff.studies.runner import Job


def collect(jobs: Sequence[Job], out: Path, **facts: Any) -> list[dict[str, Any]]:
    """Write results.csv and results.json from the finished runs; returns the tidy rows, one per run, sampler and measure.

    A run that is not judged has one row, without sampler and measure.
    """
    rows: list[dict[str, Any]] = []
    check_held(out)
    results = [read_evaluation(job.folder / "evaluation.json") for job in jobs]
    states = [result.get("target_state", {"k": result["k"]}) for result in results]  # older files have only k
    others = dict.fromkeys(name for state in states for name in state if name != "k")
    for job, result, state in zip(jobs, results, states):
        last = read_finished(job.folder)
        steps = read_metrics(job.folder / "metrics.jsonl")
        before = [row for row in steps if row["step"] <= 0.75 * job.config.steps] or steps[:1]
        main = next(iter(state), None)
        position = "" if result["k"] is None else main or ""  # the name of the number that is the place on the line
        own = {"main_number": main, **{name: state.get(name) for name in others}} if others else {}
        common = {
            "cell": job.cell,
            "target": job.target,
            "seed": job.config.seed,
            "k": result["k"],
            "k_before": before[-1].get(position) if before else None,
            "k_last": steps[-1].get(position) if steps else None,
            "loss": last["last"]["loss"],
            "loss_along": last["last"].get("loss_along"),
            "loss_across": last["last"].get("loss_across"),
            "train_seconds": last["seconds"],
        }
        common |= {name: value for name, value in own.items() if name not in common}
        for sampler, figures in result.get("figures", {}).items():
            each = {"num_samples": result["num_samples"], "heldout": result["floor"]}
            rows += [{**common, "sampler": sampler, "measure": name, "value": v, **each} for name, v in figures.items()]
        if not result["samplers"] and "figures" not in result:
            rows.append(common)
        for sampler, judged in result["samplers"].items():
            for measure, figure in judged["figures"].items():
                row = {**common, "sampler": sampler, "measure": measure, **figure}
                row["heldout"] = result["heldout"][measure]["value"]
                row["exact"] = judged.get("exact", {}).get(measure, {}).get("value")
                rows.append(row | {name: result[name] for name in ("num_samples", "group_size")})
    check_held(out)
    text = io.StringIO()
    longest = max(rows, key=len)
    writer = csv.DictWriter(text, fieldnames=list(longest), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "results.csv", text.getvalue())
    write_json(out / "results.json", {**facts, "environment": describe_environment(), "rows": rows})
    return rows
