"""Experiments as cells × targets × seeds: matched, resumable runs in a few worker processes with one thread each.

Runs of the same cell and seed share initial weights, data order, times and noise, both in training and in the samples that are
judged. They differ only in their target. The spread over seeds is that of training and of sampling together. Each run is a run
folder. A finished run is not run again; an interrupted run is resumed from its newest checkpoint.

    OUT/runs/<cell>/<target>/seed_<s>/       run folders, each with evaluation.json
    OUT/results.csv                          tidy: one row per run, sampler and measure. k: of the averaged weights at the end;
                                             k_last: of the weights themselves; k_before: like k_last, at three quarters of the
                                             steps, from the last line logged by then (or from the first line). If targets have
                                             numbers besides k: main_number, the name of the main one, and a column for each
    OUT/results.json                         the same, with configuration and environment
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from tqdm import tqdm

from kdiff.config.parts import Spec, parse, slug
from kdiff.config.plain import as_dict, from_dict
from kdiff.config.recipes import chosen_recipe
from kdiff.config.training import TrainConfig
from kdiff.evaluation.judge import Judge, evaluate
from kdiff.files.atomic import FULL, write_json
from kdiff.run.build import load_dataset
from kdiff.run.checkpoint import list_checkpoints
from kdiff.run.contents import read_evaluation
from kdiff.run.environment import describe_environment
from kdiff.run.folder import with_recipe
from kdiff.run.heap import keep_freed_memory
from kdiff.run.lock import check_locks, locked, locks_around
from kdiff.run.metrics import read_metrics
from kdiff.run.precision_choice import run_in
from kdiff.run.run import Run, load_run
from kdiff.run.signals import acting_once
from kdiff.run.trust import is_trusting, trust_all
from kdiff.training.trainer import train_run

Judging = Callable[[Run, int, int], dict[str, Any]]


class RunFailed(RuntimeError):
    """A run of an experiment failed."""


@dataclass(frozen=True)
class Job:
    """One run: its folder, its settings, and the number of samples that judge it (0: it is not judged).

    `judge` judges it in another way than `kdiff.evaluation.judge.evaluate`. It is called with the run, the number of samples
    and the seed. It returns a record with `figures`, values by sampler and measure, with the `floor`, and `samplers` empty.
    `sampler` says which samplers judge it (`kdiff.evaluation.judged_samplers`).
    """

    cell: str
    target: str
    config: TrainConfig
    folder: Path
    num_samples: int
    exact: bool
    judge: Judging | None = None
    sampler: Literal["paper", "default"] = "paper"

    @property
    def finished(self) -> bool:
        """Whether the run is trained, and judged as the job says."""
        done = self.folder / "evaluation.json"
        return done.exists() and _as_now(read_evaluation(done).get("job")) == self.stamp

    @property
    def stamp(self) -> dict[str, Any]:
        """What evaluation.json records of the job."""
        judge = {"judge": self.judge.__name__} if self.judge else {}
        judge |= {"sampler": self.sampler} if self.sampler != "paper" else {}
        return {"config": as_dict(self.config), "num_samples": self.num_samples, "exact": self.exact, **judge}


def make_jobs(
    cells: Mapping[str, TrainConfig],
    targets: Sequence[Spec],
    seeds: Sequence[int],
    out: Path,
    num_samples: int,
    exact: bool,
    judge: Judging | None = None,
    sampler: Literal["paper", "default"] = "paper",
) -> list[Job]:
    """All runs, seed by seed, so that a whole comparison is ready early. Only the first seed has `exact` floors."""
    labels = [str(parse(target)) for target in targets]
    if len(set(labels)) < len(labels) or not labels or not seeds:
        raise ValueError(f"targets are {labels} and seeds {list(seeds)}; expected at least one of each, and no target twice")
    return [
        Job(
            cell=cell,
            target=label,
            config=replace(config, target=target, seed=seed, recipe=chosen_recipe(config.recipe, config.loss_space)),
            folder=out / "runs" / slug(cell) / slug(label) / f"seed_{seed}",
            num_samples=num_samples,
            exact=exact and seed == seeds[0],
            judge=judge,
            sampler=sampler,
        )
        for seed, (cell, config), (target, label) in itertools.product(seeds, cells.items(), zip(targets, labels))
    ]


def execute(job: Job) -> None:
    """Train and judge one run, as far as this has not been done."""
    if job.finished:
        return
    if (job.folder / "finished.json").exists():
        run = _load_matching(job)
    else:
        run = train_run(job.config, job.folder, resume=(job.folder / "config.yaml").exists())
    started = time.perf_counter()
    if job.judge:
        result = job.judge(run, job.num_samples, job.config.seed)
    elif job.num_samples:
        run_in(job.config.precision, run)
        judge = Judge(run.dataset())
        result = evaluate(run, judge, job.num_samples, job.config.seed, exact=job.exact, sampler=job.sampler)
    else:
        target = run.model.target.describe()
        result = {"k": target.position, "target_state": target.scalars, "samplers": {}}
        result["environment"] = describe_environment()
    run.place.check()
    write_json(job.folder / "evaluation.json", {"job": job.stamp, **result, "seconds": time.perf_counter() - started})


def _execute_within(locks: dict[Path, tuple[int, int]], job: Job) -> None:
    """Execute a job, unless a folder around it is no longer the one that the parent has locked: it is not made again."""
    check_locks(locks)
    execute(job)


def _load_matching(job: Job) -> Run:
    """The run in a job's folder, if it has the job's settings."""
    run = load_run(job.folder, calibrated=False)  # as `train_run` returns it
    if as_dict(run.config) != as_dict(job.config):
        raise ValueError(f"{job.folder} holds a run with other settings; choose another folder with --out, or delete it")
    return run


def _as_now(stamp: dict[str, Any] | None) -> dict[str, Any] | None:
    """The stamp of a judged run, with the defaults of settings that are newer than it; None for a stamp of another kind."""
    try:
        return stamp and {**stamp, "config": as_dict(from_dict(TrainConfig, with_recipe(TrainConfig, stamp["config"])))}
    except (KeyError, ValueError):
        return None


def _start_worker(trust: bool = False) -> None:
    """Trust run folders as the parent does, and use one thread.

    Ignore Ctrl-C, which a terminal sends to workers too: the parent ends them by SIGTERM, so they save.
    """
    trust_all(trust)
    torch.set_num_threads(1)
    keep_freed_memory()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """End this worker if its parent was killed; else it would train on and then wait forever."""
    if parent := multiprocessing.parent_process():
        parent.join()
        while True:
            # The first signal ends the training, the next one ends the wait for more work.
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(1)


def run_jobs(jobs: Sequence[Job], workers: int = 2, progress: str | None = None) -> None:
    """Run all jobs, at most `workers` at a time, with a progress bar over all their steps.

    Raises:
        ValueError: a folder with a run of other settings or other data, or with a damaged checkpoint; before any run starts.
        RunFailed: the first error of a run. The other runs stay as they are, and the same command resumes them.
        OSError: the disk was full in a run.
        FolderReplaced: a folder around the runs that this process has locked was removed or replaced.
    """
    _check_folders(jobs)
    total, last = sum(job.config.steps for job in jobs), {job.folder: _last_row(job) for job in jobs}
    bar = tqdm(total=total, desc=progress, unit="step", disable=progress is None, smoothing=0.02)
    context = multiprocessing.get_context("spawn")
    processes = ProcessPoolExecutor(workers, mp_context=context, initializer=partial(_start_worker, is_trusting()))
    with bar, acting_once("ending the current runs; those in training save first"), processes as pool, _ended_with_us():
        waiting, running, done = list(reversed(jobs)), dict[Future[None], Job](), 0
        while waiting or running:
            # Jobs are submitted one by one: the pool would run all that it has been given, even after a failure.
            while waiting and len(running) < workers:
                job = waiting.pop()
                locks = locks_around(job.folder)
                check_locks(locks)
                running[pool.submit(partial(_execute_within, locks), job)] = job
            ended = wait(running, timeout=1, return_when=FIRST_COMPLETED).done
            last |= {job.folder: _last_row(job) for job in running.values()}  # the others have not changed
            for future in ended:
                job = running.pop(future)
                check_locks(locks_around(job.folder))
                if error := future.exception():
                    others = "; the other current runs finish first (Ctrl-C saves and ends them)" if running else ""
                    tqdm.write(f"{job.folder} failed: {error}{others}", file=sys.stderr)
                    if isinstance(error, OSError) and error.errno in FULL:
                        raise error
                    raise RunFailed(f"{job.folder}: {type(error).__name__}: {error}") from error
                done += 1
            _show(bar, jobs, [last[job.folder] for job in jobs], done)


@contextlib.contextmanager
def _ended_with_us() -> Iterator[None]:
    """End the workers if this process is interrupted; those in training save first."""
    others = set(multiprocessing.active_children())
    try:
        yield
    except KeyboardInterrupt:
        for worker in set(multiprocessing.active_children()) - others:
            worker.terminate()
        raise


def _check_folders(jobs: Sequence[Job]) -> None:
    """Refuse folders whose runs cannot be resumed, before anything is run."""
    fingerprints: dict[str, str] = {}
    for job in jobs:
        if not (job.folder / "config.yaml").exists():
            continue
        if not list_checkpoints(job.folder / "checkpoints"):
            # A run that was interrupted before its first checkpoint has nothing to resume from.
            with locked(job.folder):
                shutil.rmtree(job.folder)
            continue
        run = _load_matching(job)
        if job.cell not in fingerprints:
            fingerprints[job.cell] = load_dataset(job.config).fingerprint
        if run.data["fingerprint"] != fingerprints[job.cell]:
            raise ValueError(f"{job.cell} has changed since {job.folder} was begun; choose another --out, or delete the folder")


def _last_row(job: Job) -> list[dict[str, Any]]:
    """The last line of a run's metrics, if there is one. A damaged file is mended when its run is resumed."""
    try:
        return read_metrics(job.folder / "metrics.jsonl")[-1:]
    except ValueError:
        return []


def _show(bar: tqdm, jobs: Sequence[Job], rows: Sequence[list[dict[str, Any]]], done: int) -> None:
    bar.n = sum(row[0]["step"] for row in rows if row)
    moving = [f"{job.target} {row[0]['loss']:.3g}" for job, row in zip(jobs, rows) if row and row[0]["step"] < job.config.steps]
    bar.set_postfix_str(f"{done}/{len(jobs)} runs judged" + (f", loss: {', '.join(moving)}" if moving else ""))
    bar.refresh()
