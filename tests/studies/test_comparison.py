"""The comparison: its arithmetic on rows written by hand, and the command, whole, with real workers."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pytest
import yaml

from kdiff.commands.main import main
from kdiff.config.parts import parse
from kdiff.config.plain import as_dict
from kdiff.config.studies import CompareConfig
from kdiff.report.comparison_picture import _draw_quality
from kdiff.report.drawing import new_figure
from kdiff.run.run import load_run
from kdiff.studies.comparison import check_same, main_measure, plan, summarise, table, verdict
from kdiff.studies.runner import execute
from kdiff.studies.tables import with_spread

# Arithmetic


def rows_of(values: dict[str, list[float]], measure: str = "frechet", **more: Any) -> list[dict[str, Any]]:
    """Rows of targets with a value per seed under the clean sampler; the paper's are 1 larger, each grouped value 2 larger."""
    return [
        {
            "target": target,
            "seed": seed,
            "sampler": sampler,
            "measure": measure,
            "value": value + (sampler == "paper"),
            "grouped": value + (sampler == "paper") + 2,
            "heldout": 0.25,
            "exact": (0.125 if sampler == "clean" else 0.5) if seed == 0 else None,
            "group_size": 50,
            "k": {"noise": 0.0, "data": 1.0}.get(target, 0.9 + 0.01 * seed),
            "loss": 1.5 + seed,
            **more,
        }
        for target, seeds in values.items()
        for seed, value in enumerate(seeds)
        for sampler in ("paper", "clean")
    ]


def test_a_summary_is_mean_and_deviation_over_seeds() -> None:
    rows = rows_of({"noise": [4.0, 6.0, 8.0], "data": [1.0, 1.0, 4.0]}) + rows_of({"noise": [100.0] * 3}, "copying")
    summary = summarise(rows, "noise", "clean", "frechet")
    assert (summary.mean, summary.std, summary.grouped, summary.seeds) == (6.0, 2.0, 8.0, 3)
    assert (summary.heldout, summary.exact) == (0.25, 0.125)
    paper = summarise(rows, "data", "paper", "frechet")
    assert (paper.mean, paper.std, paper.exact) == (3.0, pytest.approx(math.sqrt(3)), 0.5)


def test_one_seed_has_no_spread() -> None:
    summary = summarise(rows_of({"noise": [4.0]}), "noise", "clean", "frechet")
    assert (summary.mean, summary.seeds) == (4.0, 1)
    assert math.isnan(summary.std)


def test_without_an_exact_floor_there_is_none() -> None:
    rows = rows_of({"noise": [4.0, 5.0]}, exact=None)
    assert summarise(rows, "noise", "clean", "frechet").exact is None
    assert "exact denoiser" not in table(rows)


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (1.2345, 0.0678, "1.23 ± 0.07"),
        (1.2345, math.nan, "1.23"),
        (251.4, 12.3, "251 ± 10"),
        (1234.5, 345.0, "1230 ± 300"),
        (0.000123456, 0.00000456, "0.000123 ± 5e-06"),
        (0.5, 0.0, "0.5"),
        (0.0, math.nan, "0"),
        (1040633.0, 20000.0, "1.04e+06 ± 20000"),
    ],
)
def test_as_many_digits_as_make_sense(mean, std, text) -> None:
    assert with_spread(mean, std) == text


def test_what_targets_are_ranked_by() -> None:
    labelled = rows_of({"noise": [1.0]}, "copying") + rows_of({"noise": [1.0]}, "frechet")
    assert main_measure(labelled) == "frechet"
    unlabelled = rows_of({"noise": [1.0]}, "copying") + rows_of({"noise": [1.0]}, "sliced_wasserstein")
    assert main_measure(unlabelled) == "sliced_wasserstein"


def cells(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]


def test_the_table() -> None:
    values = {"noise": [4.0, 6.0, 8.0], "learned": [1.0, 2.0, 3.0]}
    rows = rows_of(values) + rows_of({target: [0.5] * 3 for target in values}, "copying")
    assert cells(table(rows)) == [
        [
            "target",
            "k",
            "loss",
            "Fréchet distance, paper (floor)",
            "Fréchet distance, clean (floor)",
            "copying ratio, clean",
            "Fréchet distance in groups of 50, clean",
        ],
        ["---"] * 7,
        ["noise", "0", "2.5 ± 1", "7 ± 2 (0.5)", "6 ± 2 (0.125)", "0.5", "8"],
        ["learned", "0.91 ± 0.01", "2.5 ± 1", "3 ± 1 (0.5)", "2 ± 1 (0.125)", "0.5", "4"],
        ["training and held-out data", "", "", "", "", "", "0.25"],
    ]


def test_a_target_that_the_papers_sampler_did_not_judge_has_an_empty_place() -> None:
    rows = [
        row for row in rows_of({"noise": [4.0], "learned": [1.0]}) if (row["target"], row["sampler"]) != ("learned", "paper")
    ]
    assert "| learned | 0.9 | 1.5 |  | 1 (0.125) |" in table(rows)
    clean = [row for row in rows if row["sampler"] == "clean"]
    assert "paper" not in table(clean)
    assert table(clean).splitlines()[-1].count("|") == table(clean).splitlines()[0].count("|")


def test_the_legend_names_each_sampler_once_and_none_that_did_not_judge() -> None:
    rows = rows_of({"noise": [4.0], "learned": [1.0]})
    for kept, count in ((rows, 1), ([row for row in rows if row["sampler"] == "clean"], 0)):
        axes = new_figure(6, 3).add_subplot()
        _draw_quality(axes, kept, "frechet", {"noise": "red", "learned": "green"})
        texts = [text.get_text() for text in axes.get_legend().get_texts()]
        assert len(texts) == len(set(texts))
        assert texts.count("paper's sampler") == count


def test_the_table_of_one_seed_and_of_a_target_without_k() -> None:
    rows = rows_of({"general(a=1, b=1)": [4.0]}, "sliced_wasserstein", k=None, exact=None)
    assert cells(table(rows))[2] == ["general(a=1, b=1)", "", "1.5", "5", "4", "6"]


def test_numbers_that_are_not_k_have_their_own_column() -> None:
    rows = rows_of({"data": [1.0]}, main_number="k") + rows_of({"silent": [1.0]}, main_number=None, k=None)
    rows += rows_of({"a.Mean": [1.0, 2.0]}, main_number="mean k", **{"mean k": 0.9})
    rows += rows_of({"a.Other": [1.0]}, main_number="ratio", ratio=1.3, k=None)
    header, _, *lines = cells(table(rows))
    assert header[:5] == ["target", "k", "mean k", "ratio", "loss"]
    numbers = [line[:4] for line in lines]
    assert numbers[:2] == [["data", "1", "", ""], ["silent", "", "", ""]]
    assert numbers[2:4] == [["a.Mean", "", "0.9", ""], ["a.Other", "", "", "1.3"]]
    assert {len(line) for line in lines} == {len(header)}


def test_the_verdict_tests_ratios_seed_by_seed() -> None:
    """Seeds that move all targets alike do not hide a difference; t(2) at 5 %, two-sided, over two others is 6.2."""
    best = [1.0, 2.0, 3.0]
    steady = [value * math.exp(0.5 + wobble) for value, wobble in zip(best, (0.0, 0.01, 0.02))]
    loose = [value * math.exp(0.5 + wobble) for value, wobble in zip(best, (0.0, 0.2, 0.4))]
    rows = rows_of({"data": best, "noise": steady, "learned": loose})
    assert verdict(rows) == (
        "Lowest Fréchet distance (clean last step): data, 2 ± 1. "
        "Significantly higher (paired t-test over 3 seeds, 5 % level over all comparisons): noise. "
        "Not significantly higher: learned."
    )
    # The mean logarithm of `loose` is 0.7 with a standard error of 0.115: 6.06 of them.
    error = 0.2 / math.sqrt(3)
    assert 0.7 / error < 6.2


def test_what_is_far_beyond_is_significantly_higher_by_two_seeds() -> None:
    """Seeds that differ by 6 % do not bring a hundred thousand near to one: t(1) over two others is 25.5."""
    text = verdict(rows_of({"data": [0.48, 0.5], "noise": [146000.0, 155000.0], "velocity": [0.49, 0.52]}))
    assert "over 2 seeds, 5 % level over all comparisons): noise. Not significantly higher: velocity." in text


def test_equal_targets_are_rarely_significantly_different() -> None:
    """4 targets of one law, 3 seeds: any is significantly higher in no more than the 5 % that it says, by simulation."""
    generator = np.random.default_rng(0)
    told = 0
    for _ in range(300):
        values = {name: generator.normal(1.0, 0.1, 3).tolist() for name in ("noise", "velocity", "data", "learned")}
        told += "comparisons): none." not in verdict(rows_of(values))
    assert told / 300 < 0.08


def test_the_verdict_says_what_speaks_against_the_best() -> None:
    rows = rows_of({"data": [2.0, 2.1], "learned": [1.0, 1.1]})
    rows += rows_of({"data": [1.0, 1.0], "learned": [1.5, 1.5]}, "frechet_heldout")
    rows += rows_of({"data": [0.9, 0.9], "learned": [0.5, 0.7]}, "copying")
    text = verdict(rows)
    assert "Lowest Fréchet distance to held-out data: data, 1; learned has 1.5." in text
    assert "Samples of learned are closer to the training data than held-out data are (copying ratio 0.6)." in text


def test_the_verdict_goes_by_the_clean_sampler() -> None:
    rows = rows_of({"noise": [2.0, 2.1], "data": [1.0, 1.1]})
    for row in rows:
        if (row["target"], row["sampler"]) == ("data", "paper"):
            row["value"] += 100
    assert "(clean last step): data, 1.05" in verdict(rows)


def test_the_verdict_of_one_seed_warns() -> None:
    text = verdict(rows_of({"noise": [4.0], "learned": [1.0]}))
    assert text.startswith("Lowest Fréchet distance (clean last step): learned, 1. One seed")
    assert "--seeds 3" in text
    assert "standard errors" not in text


# The plan


def test_a_plan_shares_all_but_target_and_seed(tmp_path) -> None:
    config = CompareConfig(data="spiral(num_samples=400)", steps=7, learning_rate=0.5, seeds=2, seed=5, exact=False)
    dataset, jobs = plan(config, tmp_path)
    assert dataset.name == "spiral"
    assert [(job.target, job.config.seed) for job in jobs] == [(str(t), s) for s in (5, 6) for t in config.targets]
    assert all((job.config.steps, job.config.learning_rate, job.config.data) == (7, 0.5, config.data) for job in jobs)
    assert {job.cell for job in jobs} == {"spiral(num_samples=400)"}
    assert not any(job.exact for job in jobs)
    assert list(tmp_path.iterdir()) == []


# The command, whole

DATA = "spiral(num_samples=400)"
OPTIONS = ["--targets", "noise", "learned(rate=1)", "--seeds", "2", "--steps", "20", "--num-samples", "80", "--log-every", "10"]
OPTIONS += ["--network.width", "16", "--network.depth", "1", "--batch-size", "32"]


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison by the command, in two worker processes; read only."""
    out = tmp_path_factory.mktemp("comparison") / "out"
    assert main(["compare", DATA, *OPTIONS, "--workers", "2", "--out", str(out)]) == 0
    return out


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are trained and judged here: worker processes take seconds to start, and `compared` has shown what they do."""
    monkeypatch.setattr("kdiff.studies.comparison.run_jobs", lambda jobs, *_: [execute(job) for job in jobs])


@pytest.fixture
def out(compared, tmp_path) -> Path:
    """A copy of the comparison, to go on with."""
    return Path(shutil.copytree(compared, tmp_path / "out"))


def times(folder: Path) -> dict[str, int]:
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_comparison_leaves_table_picture_figures_and_runs(compared) -> None:
    shown = {path.name for path in compared.iterdir() if not path.name.startswith(".")}
    assert shown == {"comparison.png", "strip.png", "results.csv", "results.json", "table.md", "runs"}
    stored = json.loads((compared / "results.json").read_text(encoding="utf-8"))
    assert stored["config"]["seeds"] == 2
    assert parse(stored["config"]["network"]) == parse("MLP(width=16, depth=1)")
    assert stored["environment"]["python"]
    assert (compared / "table.md").read_text(encoding="utf-8") == table(stored["rows"]) + "\n"
    assert [line[0] for line in cells(table(stored["rows"]))[2:4]] == ["noise", "learned(rate=1)"]
    pixels = matplotlib.image.imread(compared / "comparison.png")
    assert pixels.shape[:2] == (840, 1200)  # three panels, but no less than 8 inches, at 150 dots per inch
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 100


def test_workers_are_processes_with_one_thread(compared) -> None:
    folders = sorted(path.parent for path in compared.rglob("finished.json"))
    assert len(folders) == 4
    for folder in folders:
        assert json.loads((folder / "environment.json").read_text())["threads"] == 1
        assert load_run(folder).step == 20


@pytest.mark.usefixtures("in_this_process")
def test_the_same_command_again_runs_nothing_and_says_the_same(out, capsys) -> None:
    before, table_before = times(out / "runs"), (out / "results.csv").read_bytes()
    assert main(["compare", DATA, *OPTIONS, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    rows = json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"]
    assert table(rows) in printed
    assert verdict(rows) in printed
    for name in ("comparison.png", "strip.png", "results.csv", "results.json", "runs"):
        assert str(out / name) in printed
    for command in re.findall(r"kdiff (?:info|sample) (\S+?)[,\s]", printed):
        assert load_run(command).step == 20
    assert times(out / "runs") == before
    assert (out / "results.csv").read_bytes() == table_before


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([DATA, *OPTIONS, "--steps", "30"], "other settings"),
        ([DATA, *OPTIONS, "--targets", "velocity", "learned(rate=1)"], "holds a comparison with noise; choose another folder"),
        (["LOPSIDED"], r"holds out \[\d+, 0\] samples per class"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_any_run(argv, message, out, tmp_path, capsys) -> None:
    if argv == ["LOPSIDED"]:  # a class that is never held out: known before training, not after
        generator = np.random.default_rng(0)
        x = generator.standard_normal((100, 2))
        np.savez(tmp_path / "lopsided.npz", x=x, y=_in_training_only(x))
        argv = [str(tmp_path / "lopsided.npz")]
    before = times(out)
    assert main(["compare", *argv, "--out", str(out)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert times(out) == before


def _in_training_only(x: np.ndarray) -> np.ndarray:
    from kdiff.data import make_dataset

    return (make_dataset("probe", x).split == 0).long().numpy()


def test_a_run_of_a_comparison_is_like_any_other(out) -> None:
    folder = next((out / "runs").rglob("seed_1"))
    assert main(["info", str(folder)]) == 0
    assert main(["sample", str(folder), "--num", "3"]) == 0
    assert yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 1


def test_another_comparison_is_not_written_over(tmp_path) -> None:
    """Fewer targets in the same folder would take rows out of its table; more are a continuation."""
    stored = CompareConfig(targets=["velocity", 0.9], seeds=2)
    (tmp_path / "results.json").write_text(json.dumps({"config": as_dict(stored)}))
    with pytest.raises(ValueError, match=r"holds a comparison with 0.9; choose another folder with --out"):
        check_same(CompareConfig(targets=["velocity", "learned"]), tmp_path)
    check_same(CompareConfig(targets=["velocity", 0.9, "learned"]), tmp_path)
    for changes, message in (
        ({"seeds": 1}, "with the seeds 1 too"),
        ({"seed": 1}, "with the seeds 0 too"),
        ({"data": "spiral(ambient_dim=8)"}, r"a comparison on digits, but this one is on spiral\(ambient_dim=8\)"),
    ):
        with pytest.raises(ValueError, match=message):
            check_same(replace(stored, **changes), tmp_path)


@pytest.mark.usefixtures("in_this_process")
def test_a_grid_goes_on_with_a_comparison_and_draws_the_curve(out, capsys) -> None:
    before, height = times(out / "runs"), matplotlib.image.imread(out / "comparison.png").shape[0]
    assert main(["compare", DATA, *OPTIONS, "--grid", "3", "--exact", "true", "--out", str(out)]) == 0
    rows = json.loads((out / "results.json").read_text(encoding="utf-8"))["rows"]
    assert list(dict.fromkeys(row["target"] for row in rows)) == ["noise", "0.5", "1", "learned(rate=1)"]
    after = times(out / "runs")
    assert {path: after[path] for path in before} == before, "what was there is not run again"
    assert len(after) == 2 * len(before)
    assert "Best of 3 fixed k: " in capsys.readouterr().out
    assert matplotlib.image.imread(out / "comparison.png").shape[0] == height + 3 * 150
    for row in rows:
        assert row["loss_along"] + row["loss_across"] == pytest.approx(row["loss"])
