"""The claim `dimension`: planted answers of every kind, and a miniature from end to end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from kdiff.claims import dimension
from kdiff.claims.claim import Group, Outcome, Study
from kdiff.claims.dimension import Case, cases, predictions, seen, settings
from kdiff.claims.reproduction import reproduce
from kdiff.config.training import TrainConfig
from kdiff.run.build import build_model, load_dataset
from kdiff.studies.estimation import Prediction, View
from kdiff.theory import DimensionEstimate, optimal_k, spectrum

FALLS, COUNTS, KNOWN, HELD, REAL, NEAREST = range(6)
TRUE_D = {"digits": 8, "photo_patches": 10, "photo_patches(colour=true)": 12, "fashion": 14}


def size_of(data: str) -> int:
    fixed = {"digits": 64, "photo_patches": 64, "photo_patches(colour=true)": 192, "fashion": 784}
    return fixed[data] if data in fixed else int(data.partition("ambient_dim=")[2].partition(",")[0])


def case_of(data: str) -> Case:
    return next(case for full in (True, False) for case in cases(full).values() if case.data == data)


@cache
def made_up(data: str, patch: int | None = None) -> list[View]:
    """What `kdiff estimate` could say: one estimator is right, and one finds everything three times as large."""
    D, d = size_of(data), case_of(data).d or TRUE_D[data]
    values = np.concatenate([np.full(d, 8 / d if "variance" in data else 1.0), np.zeros(D - d)])
    found = [("right", d), ("wrong", 3 * d)]
    dimensions = [DimensionEstimate(method, "global", value, value, value, 0.95, 100) for method, value in found]
    theories = {
        "linear, loss on u": float(optimal_k(values)),
        "linear, loss on v, start": float(optimal_k(values, space="v", at="initialisation")),
        "linear, loss on v, end": 1.0,
    }
    predictions = [Prediction(theory, k, "") for theory, k in theories.items()]
    whole = View("samples", D, 100, float(values.sum()), 0.0, values, dimensions, predictions)
    return [whole, replace(whole, name="patches", D=4)] if patch else [whole]


@pytest.fixture
def estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made-up estimates, and Fashion-MNIST wherever this runs."""
    monkeypatch.setattr(dimension, "_has_fashion", lambda: True)
    monkeypatch.setattr(dimension, "seen", made_up)


def planted(out: Path, k: Callable[[Case, float], float], full: bool = True) -> Outcome:
    """What the claim answers if k after training is k(case, rule), with a rule that knows the true d."""
    jobs, rows = dimension.CLAIM.jobs(full, out), []
    for job in jobs:
        case = cases(full)[job.cell]
        D, d = size_of(case.data), case.d or TRUE_D[case.data]
        seed = job.config.seed
        value = k(case, D / (D + d)) + 0.001 * math.sin(7 * (seed + 1) * (d + len(job.cell)))
        rows.append(
            {"cell": job.cell, "target": "learned", "seed": seed, "k": value, "k_before": value, "k_last": value, "loss": 1.0}
        )
    return dimension.CLAIM.examine(Study(jobs, rows, full))


def verdicts(outcome: Outcome) -> list[str]:
    return [finding.verdict for finding in outcome.findings]


class TestPlan:
    def test_the_full_form_fits_its_budget(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dimension, "_has_fashion", lambda: True)
        jobs = dimension.CLAIM.jobs(True, Path("out"))
        transformers = [job for job in jobs if "JiT" in str(job.config.network)]
        assert sum(job.config.steps for job in jobs if job not in transformers) == 23 * 3 * 8000
        assert [job.config.steps for job in transformers] == [2000] * 6
        assert sum(job.config.steps for job in dimension.CLAIM.jobs(False, Path("out"))) < 15_000

    def test_without_fashion_its_cells_are_left_out(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dimension, "_has_fashion", lambda: False)
        assert not any("Fashion" in name for name in cases(True))

    @pytest.mark.parametrize("full", [False, True])
    def test_every_cell_builds(self, full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dimension, "_has_fashion", lambda: False)
        for case in cases(full).values():
            config = settings(
                replace(case, data=case.data.replace("000)", "00)").replace("num_samples=5000", "num_samples=500")), full
            )
            dataset = load_dataset(config)
            assert dataset.dimension == size_of(case.data)
            build_model(config, "learned", dataset.shape, dataset.num_classes)

    def test_the_transformer_on_fashion_has_at_most_64_tokens(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(dimension, "_has_fashion", lambda: True)
        config = settings(cases(True)["Fashion-MNIST, transformer"], True)
        network = build_model(config, "learned", (1, 28, 28), 10).network
        assert math.prod(network.grid) + network.context_tokens <= 64
        assert (len(network.blocks), network.pos_embed.shape[-1], config.batch_size) == (4, 96, 64)

    def test_one_series_has_one_total_variance(self) -> None:
        for name, case in cases(True).items():
            if case.series == "total":
                data = case.data.replace("num_samples=10000", "num_samples=3000")
                total = float(spectrum(load_dataset(TrainConfig(data=data)).part("train")[0]).sum())
                assert total == pytest.approx(dimension.TOTAL, rel=0.1), name


def test_predictions_are_those_of_kdiff_estimate() -> None:
    case = Case("gaussian(ambient_dim=12, intrinsic_dim=3, num_samples=3000)", 3, "linear")
    found = predictions(case)
    assert list(found) == ["D/(D + d)", "D/(D + E‖x‖²)", "v-loss, start", "v-loss, end"]
    assert found["D/(D + d)"] == 12 / 15
    assert found["D/(D + E‖x‖²)"] == pytest.approx(12 / 15, abs=0.01)
    assert found["v-loss, start"] == pytest.approx(12**0.5 / (12**0.5 + 3**0.5), abs=0.01)
    rules = dimension.estimated(seen(case.data)[0])
    assert rules["energy, global"] == 12 / 15
    assert rules["TwoNN, global"] == pytest.approx(12 / 15, abs=0.03)


def test_the_column_of_the_linear_theory_is_what_its_name_says() -> None:
    """Digits are far from mean 0, so that D/(D + tr Σ) would be another number."""
    x = load_dataset(TrainConfig(data="digits")).part("train")[0][:].double().flatten(1)
    found = predictions(Case("digits", None, "real"))["D/(D + E‖x‖²)"]
    assert found == pytest.approx(64 / (64 + float(x.square().sum(1).mean())), abs=1e-4)
    assert abs(found - 64 / (64 + float(x.var(0, correction=0).sum()))) > 0.1


@pytest.mark.usefixtures("estimates")
class TestVerdicts:
    def test_all_that_is_claimed(self, tmp_path: Path) -> None:
        outcome = planted(tmp_path, lambda case, rule: rule)
        assert verdicts(outcome) == ["confirmed"] * 6
        assert outcome.verdict == "confirmed"
        assert "9 of 9" not in outcome.findings[FALLS].evidence
        assert "11 of 11 steps" in outcome.findings[FALLS].evidence
        assert "4 of 4 steps" in outcome.findings[COUNTS].evidence

    def test_if_the_total_variance_counts(self, tmp_path: Path) -> None:
        def k(case: Case, rule: float) -> float:
            return 64 / 72 if case.series == "total" else rule

        found = verdicts(planted(tmp_path, k))
        assert found[COUNTS] in ("refuted", "inconclusive")
        assert found[FALLS] == "confirmed"

    def test_if_k_rises_with_d(self, tmp_path: Path) -> None:
        found = verdicts(planted(tmp_path, lambda case, rule: 1.45 - rule))
        assert found[FALLS : HELD + 1] == ["refuted"] * 4

    def test_if_k_follows_the_theory_for_the_loss_on_v(self, tmp_path: Path) -> None:
        def k(case: Case, rule: float) -> float:
            return math.sqrt(rule) / (math.sqrt(rule) + math.sqrt(1 - rule))

        found = verdicts(planted(tmp_path, k))
        assert found == ["confirmed", "confirmed", "refuted", "refuted", "refuted", "refuted"]

    def test_if_no_estimate_fits_all_real_data(self, tmp_path: Path) -> None:
        def k(case: Case, rule: float) -> float:
            return rule - 0.3 if case.data in ("digits", "fashion") else rule

        found = verdicts(planted(tmp_path, k))
        assert found[REAL] == "refuted"
        assert found[:REAL] == ["confirmed"] * 4

    def test_an_estimate_that_fits_some_runs_only(self, tmp_path: Path) -> None:
        def k(case: Case, rule: float) -> float:
            return rule / (rule + dimension.FACTOR * (1 - rule)) if case.data == "photo_patches" else rule

        assert verdicts(planted(tmp_path, k))[REAL] == "inconclusive"

    def test_the_quick_form_refutes_nothing(self, tmp_path: Path) -> None:
        assert "refuted" not in verdicts(planted(tmp_path, lambda case, rule: 1.45 - rule, full=False))

    def test_the_tables_show_errors_and_the_d_that_would_fit(self, tmp_path: Path) -> None:
        table = planted(tmp_path, lambda case, rule: rule).table
        digits = next(line for line in reversed(table.splitlines()) if line.startswith("| digits |")).split("|")
        assert float(digits[4]) == pytest.approx(8, abs=0.1)
        assert digits[5].strip().startswith("8: 0.889 (")
        assert digits[6].strip().startswith("24: 0.727 (+0.16")
        assert "digits, transformer: patches" in table


@pytest.mark.usefixtures("in_this_process")
def test_a_miniature_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dimension, "POINTS", 300)

    def plan(full: bool) -> list[Group]:
        return [
            replace(group, cells={name: replace(config, steps=3) for name, config in group.cells.items()})
            for group in dimension.plan(full)
        ]

    outcome = reproduce(replace(dimension.CLAIM, plan=plan), False, tmp_path)
    assert len(outcome.findings) == 6
    assert "nan" not in outcome.table
    assert (tmp_path / "dimension.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "dimension.png").stat().st_size > 20_000
