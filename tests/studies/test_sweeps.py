"""Sweeps: every combination once, the same noise for all, the best and those not significantly worse, resumed."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import matplotlib.image
import pytest
import torch

from kdiff.commands.main import main
from kdiff.config.sampling import Sampling
from kdiff.config.studies import SweepConfig
from kdiff.config.training import TrainConfig
from kdiff.evaluation.judge import Judge
from kdiff.report.sweep_picture import draw_sweep
from kdiff.run.run import Run
from kdiff.studies import sweeps as module
from kdiff.studies.sweep_result import Setting, summarise, table, verdict
from kdiff.studies.sweeps import GROUPS, combinations, sweep
from kdiff.training.trainer import train_run

LABELLED = TrainConfig(network="MLP(width=32)", steps=20, batch_size=32, ema=[0.9, 0.99])
PLAIN = TrainConfig(
    data="gaussian(ambient_dim=4, intrinsic_dim=2, num_samples=400)", network="MLP(width=16)", steps=5, batch_size=16, ema=[0.9]
)


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_run(LABELLED, tmp_path_factory.mktemp("sweep") / "digits")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train_run(PLAIN, tmp_path_factory.mktemp("sweep") / "spiral")


def setting(value: float, groups: list[float] | None = None, evaluations: float = 10, **options: object) -> Setting:
    wanted = {"ema": 0.9, "solver": "heun", "times": "uniform", "last_step": "data", "steps": 5, "guidance": 1.0}
    return Setting({**wanted, "guidance_interval": [0.0, 1.0], **options}, evaluations, value, groups or [value] * GROUPS, 1.0)


def test_every_combination_occurs_once_and_none_twice() -> None:
    config = SweepConfig(guidance=[1.0, 2.0, 3.0], guidance_interval=[(0, 1), (0.2, 0.9)], steps=[5, 10])
    found = combinations(config, [0.9])
    # Without guidance its interval is nothing: 2 · (1 + 2 · 2).
    assert len(found) == len({str(options) for options in found}) == 10
    assert {options["steps"] for options in found if options["guidance"] == 1} == {5, 10}
    assert all(options["guidance_interval"] == [0.0, 1.0] for options in found if options["guidance"] == 1)
    assert len(combinations(SweepConfig(solver=["dopri5", "dopri5(rtol=1e-3)"], steps=[5, 10, 20]), [0.9])) == 2


@pytest.mark.parametrize("options", [{"steps": []}, {"guidance": [1.0, 1.0]}, {"num_samples": 5}])
def test_what_cannot_be_swept_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="expected"):
        SweepConfig(**options)  # type: ignore[arg-type]


def noisy(mean: float, spread: float, seed: int) -> list[float]:
    values = torch.randn(GROUPS, generator=torch.Generator().manual_seed(seed))
    return (mean + spread * (values - values.mean())).tolist()


def test_the_best_is_the_nearest_and_noise_is_not_significant() -> None:
    shared = noisy(0, 5.0, 0)
    best = setting(1.0, [1.0 + value for value in shared], evaluations=99)
    # The same luck of the groups, which is far larger than the differences.
    worse = setting(1.5, [1.5 + value for value in shared], evaluations=9, solver="euler")
    alike = setting(1.01, [1.01 + value + own for value, own in zip(shared, noisy(0, 0.1, 1))], evaluations=19, solver="ab3")
    vague = setting(1.02, [1.02 + value + own for value, own in zip(shared, noisy(0, 0.5, 2))], evaluations=5, solver="ab2")
    found = summarise([worse, vague, alike, best], "distance")
    assert found.best is best
    assert found.close == [best, alike, vague]
    # Cheaper still, but nobody knows whether it is as good.
    assert found.cheap is alike
    assert found.varied == ["solver"]
    assert "solver heun" in verdict(found)
    as_good = (
        "Cheapest that is as good (with 95 % confidence at most 10 % farther from the data): solver ab3 (1.01, 19 evaluations)."
    )
    assert as_good in verdict(found)
    assert "Not significantly worse than the best: 2 of the 3 other settings." in verdict(found)
    lines = table(found).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["heun", "ab3", "ab2", "euler"]


def test_settings_without_finite_samples_are_last_and_never_best() -> None:
    broken = setting(math.inf, [math.inf] * GROUPS, solver="euler")
    found = summarise([broken, setting(1.0)], "distance")
    assert found.best.options["solver"] == "heun"
    assert broken not in found.close
    assert table(found).splitlines()[-1].startswith("| euler")
    with pytest.raises(RuntimeError, match="some samples are not finite numbers"):
        summarise([broken], "distance")


def test_a_sweep_is_written_resumed_and_drawn(labelled: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = SweepConfig(guidance=[1.0, 2.0, 3.0], steps=[2, 3], ema=[0.9, 0.99], solver=["euler"], num_samples=40)
    found, out = sweep(labelled.folder, config, tmp_path / "out")
    assert len(found.settings) == 12
    # Two evaluations a step where it is guided; the last step of three is one of the data.
    for each in found.settings:
        assert each.evaluations == each.options["steps"] * (1 if each.options["guidance"] == 1 else 2)
    rows = list(csv.DictReader((out / "sweep.csv").open()))
    assert [float(row["value"]) for row in rows] == [each.value for each in found.settings]
    facts = json.loads((out / "sweep.json").read_text())
    assert facts["best"] == found.best.options
    assert facts["environment"]
    other, elsewhere = sweep(labelled.folder, replace(config, steps=[2], guidance=[1.0]))
    third, another = sweep(labelled.folder, replace(config, steps=[3], guidance=[1.0]))
    assert elsewhere != another, "results of one sweep take no other's place"
    assert (elsewhere.parent, len(other.settings), len(third.settings)) == (labelled.folder / "sweeps", 2, 2)
    monkeypatch.setattr(module, "generate", lambda model, num, *a, **b: pytest.fail("sampled again") if num > 1 else None)
    again, _ = sweep(labelled.folder, config, tmp_path / "out")
    assert again == found
    draw_sweep(tmp_path / "sweep.png", found)
    assert matplotlib.image.imread(tmp_path / "sweep.png").std() > 0.01


def test_the_jackknife_is_that_of_the_judge(labelled: Run, tmp_path: Path) -> None:
    """The mean of p is the jackknife's corrected distance, computed here another way."""
    config = SweepConfig(steps=[3], num_samples=60)
    found, _ = sweep(labelled.folder, config, tmp_path / "out")
    x, _ = module.generate(labelled.model, 60, labelled.shape, labelled.class_counts, steps=3, solver="ab3", last_step="data")
    judge = Judge(labelled.dataset())
    kept = torch.arange(60).view(GROUPS, 6)
    left = [judge.distance(x[torch.cat([kept[:g].flatten(), kept[g + 1 :].flatten()])]) for g in range(GROUPS)]
    value = judge.distance(x)
    assert found.best.value == pytest.approx(value, rel=1e-5)
    assert sum(found.best.groups) / GROUPS == pytest.approx(GROUPS * value - (GROUPS - 1) * sum(left) / GROUPS, rel=1e-4)


def test_data_without_labels_have_no_guidance_but_are_swept(plain: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="without labels"):
        sweep(plain.folder, SweepConfig(guidance=[2.0]), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    found, _ = sweep(plain.folder, SweepConfig(solver=["euler", "heun"], steps=[2, 4], num_samples=20), tmp_path / "out")
    assert found.measure == "√(p SW² + off²)"
    draw_sweep(tmp_path / "sweep.png", found)
    assert matplotlib.image.imread(tmp_path / "sweep.png").std() > 0.01


@pytest.mark.parametrize("wrong", [["--solver", "hein"], ["--times", "shiftet(2)"], ["--ema", "0.5"]])
def test_what_the_run_cannot_do_is_refused_before_any_sampling(labelled: Run, tmp_path: Path, wrong: list[str], capsys) -> None:
    assert main(["sweep", str(labelled.folder), *wrong, "--out", str(tmp_path / "out")]) == 2
    assert wrong[1].split("(")[0] in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_what_is_not_varied_is_as_the_run_says(tmp_path: Path) -> None:
    said = Sampling(guidance=2.0, guidance_channels=[0], solver="euler", steps=3)
    run = train_run(TrainConfig(data="digits", network="MLP(width=8, depth=1)", steps=2, batch_size=8, sampling=said), tmp_path)
    arguments = ["--ema", "0.999", "none", "--guidance", "1", "2", "--num-samples", "20", "--out", str(tmp_path / "out")]
    assert main(["sweep", str(run.folder), *arguments]) == 0
    settings = [setting["options"] for setting in json.loads((tmp_path / "out" / "sweep.json").read_text())["settings"]]
    assert {(each["solver"], each["steps"], each["ema"]) for each in settings} == {("euler", 3, 0.999), ("euler", 3, "none")}
    assert [each.get("guidance_channels") for each in settings] == [None if each["guidance"] == 1 else [0] for each in settings]


def test_the_command(labelled: Run, tmp_path: Path, capsys) -> None:
    arguments = ["--steps", "2", "3", "--guidance-interval", "[[0, 1], [0.2, 0.8]]", "--guidance", "2", "--num-samples", "20"]
    assert main(["sweep", str(labelled.folder), *arguments, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "Best: steps" in said
    assert "0.2 … 0.8" in said
    assert (tmp_path / "out" / "sweep.png").exists()
