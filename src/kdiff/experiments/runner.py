"""Experiments as cells × targets × seeds: matched, resumable, at most a few one-thread workers.

Runs of one cell and seed share initial weights, data order, times and noise, in training and in the samples that are judged,
and differ in their target alone; the spread over seeds holds both. Each run is a run folder; one that is finished is not run
again, one that was cut off is resumed from its newest checkpoint.

    OUT/runs/<cell>/<target>/seed_<s>/       run folders, each with evaluation.json
    OUT/results.csv                          tidy: one row per run, sampler and measure. k: of the averaged weights at the end;
                                             k_last: of the weights themselves; k_before: the same at three quarters of the
                                             steps, as of the last line logged by then (or of the first line)
    OUT/results.json                         the same, with configuration and environment
"""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import multiprocessing
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from kdiff.components import Spec, parse
from kdiff.evaluation.judge import Judge, evaluate
from kdiff.files import read_json, write_json, write_text
from kdiff.heap import keep_freed_memory
from kdiff.training.checkpoint import list_checkpoints
from kdiff.training.config import TrainConfig, as_dict, from_dict
from kdiff.training.folder import locked
from kdiff.training.metrics import read_metrics
from kdiff.training.run import describe_environment, load_dataset, load_run, train_run
from kdiff.training.signals import acting_once


class RunFailed(RuntimeError):
    """A run of an experiment failed."""


@dataclass(frozen=True)
class Job:
    """One run: where, what, and how it is judged: by `num_samples` samples, or not at all for 0."""

    cell: str
    target: str
    config: TrainConfig
    folder: Path
    num_samples: int
    exact: bool


def slug(text: str) -> str:
    """A label as a file name."""
    return re.sub(r"[^\w.=+-]+", "_", text).strip("_")


def make_jobs(
    cells: Mapping[str, TrainConfig],
    targets: Sequence[Spec],
    seeds: Sequence[int],
    out: Path,
    num_samples: int,
    exact: bool,
) -> list[Job]:
    """All runs, seeds outermost so that a first whole comparison is there early. `exact` floors go with the first seed."""
    labels = [str(parse(target)) for target in targets]
    if len(set(labels)) < len(labels) or not labels or not seeds:
        raise ValueError(f"targets are {labels} and seeds {list(seeds)}; expected at least one of each, and no target twice")
    return [
        Job(
            cell=cell,
            target=label,
            config=replace(config, target=target, seed=seed),
            folder=out / "runs" / slug(cell) / slug(label) / f"seed_{seed}",
            num_samples=num_samples,
            exact=exact and seed == seeds[0],
        )
        for seed, (cell, config), (target, label) in itertools.product(seeds, cells.items(), zip(targets, labels))
    ]


def execute(job: Job) -> None:
    """Train and judge one run, as far as that is not done already."""
    stamp = {"config": as_dict(job.config), "num_samples": job.num_samples, "exact": job.exact}
    done = job.folder / "evaluation.json"
    if done.exists() and _as_now(read_json(done).get("job")) == stamp:
        return
    if (job.folder / "finished.json").exists():
        run = load_run(job.folder)
        if as_dict(run.config) != as_dict(job.config):
            raise ValueError(f"{job.folder} holds a run with other settings; choose another folder by --out, or delete it")
    else:
        run = train_run(job.config, job.folder, resume=(job.folder / "config.yaml").exists())
    started = time.perf_counter()
    if job.num_samples:
        result = evaluate(run, Judge(run.dataset()), job.num_samples, job.config.seed, exact=job.exact)
    else:
        result = {"k": getattr(run.model.target, "k", None), "samplers": {}, "environment": describe_environment()}
    write_json(done, {"job": stamp, **result, "seconds": time.perf_counter() - started})


def _as_now(stamp: dict[str, Any] | None) -> dict[str, Any] | None:
    """The stamp of a judged run, with the defaults of settings that are younger than it; None for a stamp of another kind."""
    try:
        return stamp and {**stamp, "config": as_dict(from_dict(TrainConfig, stamp["config"]))}
    except (KeyError, ValueError):
        return None


def _start_worker() -> None:
    """One thread; deaf to Ctrl-C, which a terminal sends to workers too: the parent ends them by SIGTERM, so that they save."""
    torch.set_num_threads(1)
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """A worker whose parent was killed would train on, and then wait for ever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        while True:
            # The first ends the training, the next one the waiting for more to do.
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)


def run_jobs(jobs: Sequence[Job], workers: int = 2, progress: str | None = None) -> None:
    """Run them all, a few at a time, with a bar over all their steps.

    Raises:
        ValueError: a folder with a run of other settings, of other data, or with a damaged checkpoint, before any run starts.
        RunFailed: with what a run raised first; the others stay as they are, and are resumed by the same command.
    """
    _check_folders(jobs)
    total = sum(job.config.steps for job in jobs)
    bar = tqdm(total=total, desc=progress, unit="step", disable=progress is None, smoothing=0.02)
    context = multiprocessing.get_context("spawn")
    processes = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    with bar, acting_once("ending the runs under way; those in training save first"), processes as pool, _ended_with_us():
        waiting, running, done = list(reversed(jobs)), dict[Future[None], Job](), 0
        while waiting or running:
            # Submitted one by one: whatever the pool has been given, it would still run after a failure.
            while waiting and len(running) < workers:
                job = waiting.pop()
                running[pool.submit(execute, job)] = job
            for future in wait(running, timeout=1, return_when=FIRST_COMPLETED).done:
                job = running.pop(future)
                if error := future.exception():
                    under_way = "; what is under way comes to its end first (Ctrl-C: it saves and leaves)"
                    tqdm.write(f"{job.folder} failed: {error}{under_way if running else ''}", file=sys.stderr)
                    raise RunFailed(f"{job.folder}: {type(error).__name__}: {error}") from error
                done += 1
            _show(bar, jobs, done)


@contextlib.contextmanager
def _ended_with_us() -> Iterator[None]:
    """End the workers when this process is told to leave: those that train save first."""
    others = set(multiprocessing.active_children())
    try:
        yield
    except KeyboardInterrupt:
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise


def _check_folders(jobs: Sequence[Job]) -> None:
    """Refuse what cannot be gone on with, while nothing has been run yet."""
    fingerprints: dict[str, str] = {}
    for job in jobs:
        if not (job.folder / "config.yaml").exists():
            continue
        if not list_checkpoints(job.folder / "checkpoints"):
            # A leftover of a run that was cut off before its first checkpoint has nothing to resume from.
            with locked(job.folder):
                shutil.rmtree(job.folder)
            continue
        run = load_run(job.folder)
        if as_dict(run.config) != as_dict(job.config):
            raise ValueError(f"{job.folder} holds a run with other settings; choose another folder by --out, or delete it")
        if job.cell not in fingerprints:
            fingerprints[job.cell] = load_dataset(job.config).fingerprint
        if run.data["fingerprint"] != fingerprints[job.cell]:
            raise ValueError(f"{job.cell} has changed since {job.folder} was begun; choose another --out, or delete the folder")


def _show(bar: tqdm, jobs: Sequence[Job], done: int) -> None:
    rows = [read_metrics(job.folder / "metrics.jsonl")[-1:] for job in jobs]
    bar.n = sum(row[0]["step"] for row in rows if row)
    moving = [f"{job.target} {row[0]['loss']:.3g}" for job, row in zip(jobs, rows) if row and row[0]["step"] < job.config.steps]
    bar.set_postfix_str(f"{done}/{len(jobs)} runs judged" + (f", loss: {', '.join(moving)}" if moving else ""))
    bar.refresh()


def collect(jobs: Sequence[Job], out: Path, **facts: Any) -> list[dict[str, Any]]:
    """results.csv and results.json from the finished runs; returns the tidy rows: one per run, sampler and measure.

    A run that is not judged has one row, without these.
    """
    rows: list[dict[str, Any]] = []
    for job in jobs:
        result = read_json(job.folder / "evaluation.json")
        last = read_json(job.folder / "finished.json")
        steps = read_metrics(job.folder / "metrics.jsonl")
        before = [row for row in steps if row["step"] <= 0.75 * job.config.steps] or steps[:1]
        common = {
            "cell": job.cell,
            "target": job.target,
            "seed": job.config.seed,
            "k": result["k"],
            "k_before": before[-1].get("k") if before else None,
            "k_last": steps[-1].get("k") if steps else None,
            "loss": last["last"]["loss"],
            "loss_along": last["last"].get("loss_along"),
            "loss_across": last["last"].get("loss_across"),
            "train_seconds": last["seconds"],
        }
        if not result["samplers"]:
            rows.append(common)
        for sampler, judged in result["samplers"].items():
            for measure, figure in judged["figures"].items():
                exact = judged.get("exact", {}).get(measure, {})
                rows.append(
                    {
                        **common,
                        "sampler": sampler,
                        "measure": measure,
                        **figure,
                        "heldout": result["heldout"][measure]["value"],
                        "exact": exact.get("value"),
                        "num_samples": result["num_samples"],
                        "group_size": result["group_size"],
                    }
                )
    text = io.StringIO()
    longest = max(rows, key=len)
    writer = csv.DictWriter(text, fieldnames=list(longest), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "results.csv", text.getvalue())
    write_json(out / "results.json", {**facts, "environment": describe_environment(), "rows": rows})
    return rows
