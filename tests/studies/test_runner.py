"""The runner: runs that differ in their target alone, done once, resumed where they were cut off, a few at a time."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdiff.commands.main import main
from kdiff.config.training import TrainConfig
from kdiff.run.lock import FolderReplaced, locked
from kdiff.run.metrics import read_metrics
from kdiff.run.run import load_run
from kdiff.studies import runner
from kdiff.studies.collecting import collect
from kdiff.studies.runner import Job, RunFailed, make_jobs, run_jobs, slug

CONFIG = TrainConfig(
    data="spiral(num_samples=400)",
    network="MLP(width=16, depth=1)",
    steps=20,
    batch_size=32,
    log_every=5,
    checkpoint_every=10,
    warmup=5,
)
TARGETS = ["velocity", 0.5, "learned(rate=1)"]
NUM_SAMPLES = 80


class Serial:
    """In the place of the pool of processes: each job at once, in this process."""

    submitted: list[Job]

    def __init__(self, workers: int, mp_context: Any, initializer: Callable[[], None]) -> None:
        type(self).submitted = []

    def __enter__(self) -> Serial:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, function: Callable[[Job], None], job: Job) -> Future[None]:
        self.submitted.append(job)
        future: Future[None] = Future()
        try:
            future.set_result(function(job))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture(autouse=True)
def _serial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "ProcessPoolExecutor", Serial)


def jobs_in(out: Path, config: TrainConfig = CONFIG) -> list[Job]:
    return make_jobs({"a spiral": config}, TARGETS, [3, 4], out, NUM_SAMPLES, exact=True)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """A whole experiment of 3 targets and 2 seeds, and its rows; read only."""
    out = tmp_path_factory.mktemp("experiment") / "out"
    jobs = jobs_in(out)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runner, "ProcessPoolExecutor", Serial)
        run_jobs(jobs)
    return out, collect(jobs, out, note="a fact")


@pytest.fixture
def out(finished, tmp_path) -> Path:
    """A copy of the experiment, to go on with."""
    return Path(shutil.copytree(finished[0], tmp_path / "out"))


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def figures(folder: Path) -> Any:
    return read(folder / "evaluation.json")["samplers"]


# What is planned


def test_jobs_are_cells_by_targets_by_seeds() -> None:
    cells = {"one": CONFIG, "two/three": replace(CONFIG, data="moons")}
    jobs = make_jobs(cells, ["noise", "learned(rate=1)"], [5, 7], Path("out"), 10, exact=True)
    assert [(job.config.seed, job.cell, job.target) for job in jobs] == [
        (seed, cell, target) for seed in (5, 7) for cell in cells for target in ("noise", "learned(rate=1)")
    ]
    assert [str(job.config.target) for job in jobs[:2]] == ["noise", "learned(rate=1)"]
    assert jobs[-1].folder == Path("out/runs/two_three/learned_rate=1/seed_7")
    assert len({job.folder for job in jobs}) == len(jobs)
    assert [job.exact for job in jobs] == [True] * 4 + [False] * 4
    assert not any(job.exact for job in make_jobs(cells, ["noise"], [5], Path("out"), 10, exact=False))
    for job in jobs:  # and nothing else differs
        assert replace(job.config, seed=0, target="learned") == replace(cells[job.cell], seed=0, recipe="balanced")


@pytest.mark.parametrize(
    ("targets", "seeds"),
    [([], [0]), (["noise"], []), (["noise", "noise"], [0]), ([0.5, "0.50"], [0]), (["learned()", "learned"], [0])],
)
def test_jobs_that_cannot_be(targets, seeds) -> None:
    with pytest.raises(ValueError, match="at least one of each, and no target twice"):
        make_jobs({"a": CONFIG}, targets, seeds, Path("out"), 10, exact=True)


@pytest.mark.parametrize(
    "text", ["spiral(ambient_dim=32)", "../../etc/passwd", "a b\tc", "données", "learned(init=0.5, rate=1)"]
)
def test_a_label_as_a_file_name(text) -> None:
    name = slug(text)
    assert Path(name).name == name
    assert not set(name) & set(" /\\()[]{}'\",;*?$&|<>\t")
    assert slug(name) == name


# What is run


def test_runs_of_one_seed_are_matched(finished) -> None:
    """k = ½ under two names is the same run to the last bit: weights, order, times and noise do not come from the label."""
    runs = finished[0] / "runs" / "a_spiral"
    for name in (
        "metrics.jsonl",
        "checkpoints/step_00000020/model.safetensors",
        "checkpoints/step_00000020/ema_0.999.safetensors",
    ):
        for seed in ("seed_3", "seed_4"):
            assert (runs / "velocity" / seed / name).read_bytes() == (runs / "0.5" / seed / name).read_bytes()
        assert (runs / "velocity" / "seed_3" / name).read_bytes() != (runs / "velocity" / "seed_4" / name).read_bytes()
        assert (runs / "velocity" / "seed_3" / name).read_bytes() != (runs / "learned_rate=1" / "seed_3" / name).read_bytes()
    assert figures(runs / "velocity" / "seed_3") == figures(runs / "0.5" / "seed_3")


def test_every_run_is_a_run_folder(finished) -> None:
    for job in jobs_in(finished[0]):
        run = load_run(job.folder)
        assert (run.config, run.step) == (job.config, CONFIG.steps)


def test_the_exact_floor_goes_with_the_first_seed(finished) -> None:
    for job in jobs_in(finished[0]):
        for sampler in figures(job.folder).values():
            assert ("exact" in sampler) == (job.config.seed == 3)


# What is collected


def test_results_are_tidy_and_complete(finished) -> None:
    out, rows = finished
    measures = ("frechet", "frechet_heldout", "sliced_wasserstein", "mmd", "off_manifold", "copying")
    keys = [(row["cell"], row["target"], row["seed"], row["sampler"], row["measure"]) for row in rows]
    assert len(set(keys)) == len(keys)
    assert set(keys) == {
        ("a spiral", target, seed, sampler, measure)
        for target in ("velocity", "0.5", "learned(rate=1)")
        for seed in (3, 4)
        for sampler in ("paper", "clean")
        for measure in measures
    }
    assert len({tuple(row) for row in rows}) == 1, "every row has the same columns"
    for job in jobs_in(out):
        result, last = read(job.folder / "evaluation.json"), load_run(job.folder).metrics()[-1]
        for row in rows:
            if (row["target"], row["seed"]) != (job.target, job.config.seed):
                continue
            judged = result["samplers"][row["sampler"]]
            figure = judged["figures"][row["measure"]]
            assert {name: row[name] for name in figure} == figure
            assert row["heldout"] == result["heldout"][row["measure"]]["value"]
            assert row["exact"] == (judged["exact"][row["measure"]]["value"] if job.config.seed == 3 else None)
            assert (row["loss"], row["loss_along"], row["loss_across"]) == (
                last["loss"],
                last["loss_along"],
                last["loss_across"],
            )
            assert row["k"] == load_run(job.folder).model.target.k
            lines = read_metrics(job.folder / "metrics.jsonl")
            before = [line for line in lines if line["step"] <= 0.75 * job.config.steps][-1]
            assert (row["k_before"], row["k_last"]) == (before.get("k"), lines[-1].get("k"))
            assert (row["k"] == row["k_last"]) == ("learned" not in job.target), "averages lag behind"
            assert (row["num_samples"], row["group_size"]) == (NUM_SAMPLES, result["group_size"])


def test_files_hold_what_was_returned(finished) -> None:
    out, rows = finished
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.DictReader(file))
    assert len(table) == len(rows)
    for written, row in zip(table, rows):
        assert written == {name: "" if value is None else str(value) for name, value in row.items()}
    stored = read(out / "results.json")
    assert stored["rows"] == rows
    assert stored["note"] == "a fact"
    assert stored["environment"]["packages"]["torch"]


# What is not run again


def test_a_second_invocation_runs_nothing(out) -> None:
    before = times(out)
    run_jobs(jobs_in(out))
    assert times(out) == before


def test_more_seeds_leave_the_others_alone(out) -> None:
    before = times(out)
    run_jobs(make_jobs({"a spiral": CONFIG}, TARGETS[:1], [3, 5], out, NUM_SAMPLES, exact=True))
    after = times(out)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[3] for name in after.keys() - before.keys()} == {"seed_5"}


def test_more_samples_are_judged_without_training(out) -> None:
    before = times(out)
    run_jobs([replace(job, num_samples=NUM_SAMPLES + 1) for job in jobs_in(out)])
    changed = {name for name, time in times(out).items() if before[name] != time}
    assert {Path(name).name for name in changed} == {"evaluation.json"}
    assert len(changed) == 6


@pytest.mark.parametrize("change", ["older", "other"])
def test_figures_of_an_older_version_stand_and_those_of_other_settings_do_not(out, change) -> None:
    """A setting that a newer version has added, with a default that changes nothing, is no reason to judge again."""
    folder = out / "runs/a_spiral/velocity/seed_3"
    result = read(folder / "evaluation.json")
    if change == "older":
        del result["job"]["config"]["loss_space"], result["job"]["config"]["optimizer"]
    else:
        result["job"]["config"]["steps"] += 1
    (folder / "evaluation.json").write_text(json.dumps(result))
    before = times(out)
    run_jobs(jobs_in(out))
    changed = {name for name, time in times(out).items() if before[name] != time}
    assert changed == (set() if change == "older" else {str((folder / "evaluation.json").relative_to(out))})


def cut_off(folder: Path, *, checkpoints: int) -> None:
    """Leave what a run had written when it was cut off with this many of its two checkpoints."""
    (folder / "evaluation.json").unlink()
    (folder / "finished.json").unlink()
    for checkpoint in sorted((folder / "checkpoints").iterdir())[checkpoints:]:
        shutil.rmtree(checkpoint)
    lines = (folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(lines[: 2 * checkpoints + 1]))


@pytest.mark.parametrize("checkpoints", [0, 1, 2])
def test_a_run_that_was_cut_off_is_gone_on_with(checkpoints, finished, out) -> None:
    folder, original = out / "runs/a_spiral/learned_rate=1/seed_4", finished[0] / "runs/a_spiral/learned_rate=1/seed_4"
    cut_off(folder, checkpoints=checkpoints)
    (folder / "leftover").touch()
    before = times(out)
    run_jobs(jobs_in(out))
    for name in ("metrics.jsonl", "checkpoints/step_00000020/model.safetensors"):
        assert (folder / name).read_bytes() == (original / name).read_bytes()
    assert figures(folder) == figures(original)
    after = times(out)
    here = str(folder.relative_to(out))
    assert {name for name in before if after.get(name) != before[name] and not name.startswith(here)} == set()
    # Without a checkpoint it is begun anew; with one, what is there stays.
    assert (folder / "leftover").exists() == (checkpoints > 0)
    for step in (10, 20)[:checkpoints]:
        name = f"{here}/checkpoints/step_{step:08d}/model.safetensors"
        assert after[name] == before[name]


def test_a_trained_run_that_was_not_judged_is_not_trained_again(out) -> None:
    folder = out / "runs/a_spiral/velocity/seed_3"
    expected = figures(folder)
    (folder / "evaluation.json").unlink()
    before = times(folder)
    run_jobs(jobs_in(out))
    assert figures(folder) == expected
    assert {name: time for name, time in times(folder).items() if name != "evaluation.json"} == before


# What is refused, and what fails


def refused(jobs: list[Job], message: str, out: Path) -> None:
    before = times(out)
    Serial.submitted = []
    with pytest.raises(ValueError, match=message):
        run_jobs(jobs)
    assert Serial.submitted == []
    assert times(out) == before


def test_a_folder_of_other_settings_is_refused_before_any_run(out) -> None:
    last = jobs_in(out)[-1]
    shutil.rmtree(jobs_in(out)[0].folder)  # there would be work to do
    refused(
        jobs_in(out, replace(CONFIG, learning_rate=0.5)),
        "holds a run with other settings; choose another folder with --out",
        out,
    )
    refused(
        [*jobs_in(out)[:-1], replace(last, config=replace(last.config, steps=30))], f"{last.folder} holds a run with other", out
    )


def test_a_damaged_checkpoint_is_refused_before_any_run(out) -> None:
    jobs = jobs_in(out)
    shutil.rmtree(jobs[0].folder)
    weights = jobs[-1].folder / "checkpoints" / "step_00000020" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused(jobs, f"{weights} is truncated", out)


def test_data_that_have_changed_are_refused_before_any_run(tmp_path) -> None:
    x, y = np.random.default_rng(0).standard_normal((100, 2)), np.arange(100) % 2
    np.savez(tmp_path / "table.npz", x=x, y=y)
    jobs = jobs_in(tmp_path / "out", replace(CONFIG, data=str(tmp_path / "table.npz")))[:1]
    run_jobs(jobs)
    np.savez(tmp_path / "table.npz", x=x + 1, y=y)
    refused(jobs, f"a spiral has changed since {jobs[0].folder} was begun", tmp_path / "out")


def test_a_run_that_fails_is_named_and_the_rest_is_not_begun(tmp_path) -> None:
    cells = {"good": CONFIG, "bad": replace(CONFIG, learning_rate=1e30, clip=0.0, warmup=0)}
    jobs = make_jobs(cells, ["velocity"], [0, 1], tmp_path, NUM_SAMPLES, exact=False)
    with pytest.raises(RunFailed, match=f"{jobs[1].folder}: TrainingDiverged: the loss") as caught:
        run_jobs(jobs, workers=1)
    assert type(caught.value.__cause__).__name__ == "TrainingDiverged"
    assert (jobs[0].folder / "evaluation.json").exists()
    assert not (jobs[1].folder / "finished.json").exists()
    assert [job.folder.exists() for job in jobs[2:]] == [False, False]


def wide_pool(leaving: threading.Event) -> type[ThreadPoolExecutor]:
    """A pool that takes any number of jobs at a time, whatever it was asked for, and tells when it is left."""

    class Wide(ThreadPoolExecutor):
        def __init__(self, workers: int, **_: object) -> None:
            super().__init__(6)

        def __exit__(self, *error: object) -> None:
            leaving.set()
            super().__exit__(*error)

    return Wide


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_no_more_than_so_many_at_a_time(workers, monkeypatch, tmp_path) -> None:
    """Of six jobs, `workers` meet at a barrier, and there are never more, though the pool would take them all."""
    lock, meeting = threading.Lock(), threading.Barrier(workers)
    running, most = 0, 0

    def execute(job: Job) -> None:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        meeting.wait(timeout=60)
        with lock:
            running -= 1

    monkeypatch.setattr(runner, "ProcessPoolExecutor", wide_pool(threading.Event()))
    monkeypatch.setattr(runner, "execute", execute)
    run_jobs(jobs_in(tmp_path), workers=workers)
    assert most == workers


def test_after_a_failure_no_more_is_begun(monkeypatch, tmp_path, capsys) -> None:
    """Two run at a time; the first fails while the second still runs, and the others are never begun. It is said at once."""
    jobs, begun, leaving = jobs_in(tmp_path), [], threading.Event()

    def execute(job: Job) -> None:
        begun.append(job)
        if job is jobs[0]:
            raise OSError("no space left")
        assert leaving.wait(timeout=60)
        said.append(capsys.readouterr().err)

    said: list[str] = []
    monkeypatch.setattr(runner, "ProcessPoolExecutor", wide_pool(leaving))
    monkeypatch.setattr(runner, "execute", execute)
    with pytest.raises(RunFailed, match="no space left"):
        run_jobs(jobs, workers=2)
    assert begun == jobs[:2]
    assert f"{jobs[0].folder} failed: no space left; the other current runs finish first" in said[0]


def test_the_bar_counts_steps_and_judged_runs(out, capsys) -> None:
    run_jobs(jobs_in(out), progress="training")
    err = capsys.readouterr().err
    assert "training: 100%" in err
    assert "120/120" in err
    assert "6/6 runs judged" in err
    run_jobs(jobs_in(out))
    assert capsys.readouterr().err == ""


def test_workers_compute_with_one_thread() -> None:
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        runner._start_worker()
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)


def test_a_second_ctrl_c_does_not_break_into_the_shutdown(monkeypatch, tmp_path, capfd) -> None:
    """It would leave the pool waiting for ever; the handlers of before are back behind it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    shut = []

    class Interrupted(Serial):
        def submit(self, function: Callable[[Job], None], job: Job) -> Future[None]:
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("the first one acts")

        def __exit__(self, *_: object) -> None:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            shut.append(True)

    monkeypatch.setattr(runner, "ProcessPoolExecutor", Interrupted)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_jobs(make_jobs({"spiral": CONFIG}, TARGETS, [0], tmp_path, 0, False), workers=1)
        assert shut == [True]
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
        assert capfd.readouterr().err.count("ending the current runs") == 1
    finally:
        signal.signal(signal.SIGINT, before)


# The folder is taken away, or the disk is full


COMPARE = ["compare", str(CONFIG.data), "--network", str(CONFIG.network), "--steps", "6", "--num-samples", "60", "--seeds", "1"]


@pytest.mark.parametrize(
    "at", [0, 1, 3]
)  # before the first run begins in a worker, before the second, while the last is judged
def test_a_comparison_never_makes_its_folder_again(at, monkeypatch, tmp_path, capsys) -> None:
    out = tmp_path / "out"

    class Taken(Serial):
        def submit(self, function: Callable[[Job], None], job: Job) -> Future[None]:
            if len(self.submitted) == at:
                shutil.rmtree(out)
            return super().submit(function, job)

    def judged(*args: Any, **more: Any) -> dict[str, Any]:
        if at == 3:
            shutil.rmtree(out)
        return usual(*args, **more)

    usual = runner.evaluate
    monkeypatch.setattr(runner, "evaluate", judged)
    monkeypatch.setattr(runner, "ProcessPoolExecutor", Taken)
    targets = ["--targets", "velocity", "data"]
    assert main([*COMPARE, *targets, "--exact", "false", "--out", str(out)]) == 1
    said = capsys.readouterr()
    assert f"kdiff compare: error: {out} was removed or replaced while this process wrote in it" in said.err.splitlines()[-1]
    assert said.out == ""
    assert not out.exists()
    assert len(Taken.submitted) == (2 if at == 1 else 1), "no further run is begun"


def test_a_run_that_is_replaced_while_it_is_judged_is_not_given_its_figures(out, monkeypatch) -> None:
    jobs = jobs_in(out)
    (jobs[0].folder / "evaluation.json").unlink()
    usual = runner.evaluate

    def judged(*args: Any, **more: Any) -> dict[str, Any]:
        shutil.rmtree(jobs[0].folder)
        shutil.copytree(jobs[1].folder, jobs[0].folder, ignore=shutil.ignore_patterns("evaluation.json"))
        return usual(*args, **more)

    monkeypatch.setattr(runner, "evaluate", judged)
    with locked(out), pytest.raises(RunFailed, match=f"FolderReplaced: {jobs[0].folder} was removed or replaced"):
        run_jobs(jobs)
    assert not (jobs[0].folder / "evaluation.json").exists()


def test_results_are_not_collected_into_a_folder_that_has_gone(out) -> None:
    (out / "results.json").unlink()
    with locked(out):
        shutil.copytree(out, out.with_name("other"))
        shutil.rmtree(out)
        out.with_name("other").rename(out)
        with pytest.raises(FolderReplaced):
            collect(jobs_in(out), out)
    assert not (out / "results.json").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_how_to_continue(number, monkeypatch, tmp_path, capsys) -> None:
    def execute(job: Job) -> None:
        raise OSError(number, os.strerror(number), str(job.folder / "finished.json"))

    monkeypatch.setattr(runner, "execute", execute)
    assert main([*COMPARE, "--targets", "velocity", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert (
        f"seed_0/finished.json could not be written: {os.strerror(number)}; make room; continue from the last checkpoint"
        in said
    )
    assert "with: kdiff compare" in said
