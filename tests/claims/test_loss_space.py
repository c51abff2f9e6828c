"""The claim `loss_space`: its plan builds, its formulas hold, its criteria decide as they say, it runs whole."""

from __future__ import annotations

import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch

from kdiff.claims import loss_space
from kdiff.claims.claim import Group, Study
from kdiff.claims.loss_space import JUDGED, LINE, LINEAR, PROBED, cheapest, named, predicted, pulls
from kdiff.claims.reproduction import reproduce
from kdiff.run.build import build_model
from kdiff.studies.runner import Job

SHAPES = {"digits": (1, 8, 8), "fashion": (1, 28, 28), "spiral(ambient_dim=32)": (32,)}


@pytest.mark.parametrize("full", [False, True])
def test_the_plan_builds_and_stays_within_its_budget(full, tmp_path: Path) -> None:
    jobs = loss_space.CLAIM.jobs(full, tmp_path)
    assert len({job.folder for job in jobs}) == len(jobs) == (36 + 78 if full else 18)
    for job in jobs:
        shape = SHAPES.get(str(job.config.data), (1,) if "ambient_dim=1," in str(job.config.data) else (16,))
        model = build_model(job.config, job.config.target, shape, 10 if len(shape) == 3 else 0)
        assert model.loss_space == job.cell[-6]
        assert torch.isfinite(model.loss(torch.randn(2, *shape)))
    assert {job.config.loss_space for job in jobs} == {"u", "v"}
    assert loss_space.CLAIM.core_hours[full] <= 6


def test_where_u_is_cheapest() -> None:
    """The figures of the design notes; and against the loss of samples, minimised over k."""
    assert [cheapest(variance) for variance in (1.0, 0.25, 0.05)] == pytest.approx([0.50, 0.89, 1.0], abs=0.005)
    t = torch.linspace(0, 1, 4001, dtype=torch.float64)[1:-1]
    variance = 0.4
    posterior = variance * (1 - t) ** 2 / (variance * t**2 + (1 - t) ** 2)
    ks = torch.linspace(0, 1, 1001, dtype=torch.float64)[:, None]
    losses = (((ks * (1 - t) + (1 - ks) * t) / (1 - t)) ** 2 * posterior).mean(1)
    assert cheapest(variance) == pytest.approx(ks[losses.argmin()].item(), abs=2e-3)


def test_what_pulls_k(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several points the u-loss pulls and the v-loss does not; of one point, known for certain, neither does."""
    several = torch.randn(30, 3)
    for points in (several, several[:1]):
        monkeypatch.setattr("kdiff.claims.pulls.training_samples", lambda data, points=points: (points, None))
        by_k = pulls.__wrapped__("points", 20)
        assert set(by_k["u"]) == set(by_k["v"]) == set(PROBED)
        assert all(abs(mean) <= 4 * error + 1e-6 for mean, error in by_k["v"].values())
        ratios = [abs(mean) / max(error, 1e-6) for mean, error in by_k["u"].values()]
        assert (statistics.median(ratios) > 4) == (len(points) > 1)


# Criteria

Ends = dict[str, list[float]]


def study_of(ks: Ends, full: bool = True, frechet: dict[str, list[float]] | None = None) -> Study:
    rows: list[dict[str, Any]] = [
        {"cell": cell, "target": "learned", "seed": seed, "k": k} for cell, each in ks.items() for seed, k in enumerate(each)
    ]
    rows += [
        {"cell": c, "target": "learned", "seed": s, "k": 0.8, "measure": "frechet", "sampler": "clean", "value": value}
        for c, values in (frechet or {}).items()
        for s, value in enumerate(values)
    ]
    return Study(list[Job](), rows, full)


def linear_ends(shift: float = 0.0) -> Ends:
    return {
        named(name, space): [float(predicted(data, space)) + shift] * 3
        for name, data in LINEAR.items()
        for space in loss_space.SPACES
    }


def test_linear_networks_against_their_theories() -> None:
    assert loss_space.linear_ends(study_of(linear_ends(-0.01))).verdict == "confirmed"
    assert loss_space.linear_ends(study_of(linear_ends(-0.05))).verdict == "refuted"
    assert loss_space.linear_ends(study_of(linear_ends(-0.05), full=False)).verdict == "inconclusive"
    swapped = {
        named(name, space): [float(predicted(data, "u"))] * 3 for name, data in LINEAR.items() for space in loss_space.SPACES
    }
    assert loss_space.linear_ends(study_of(swapped)).verdict == "refuted", "the v-loss has an end of its own"


def test_spurious_minima() -> None:
    planted = {named(name, "u"): [cheapest(v)] * 3 for name, v in LINE.items()}
    held = {named(name, "v"): [0.55] * 3 for name in LINE}
    assert loss_space.spurious(study_of({**planted, **held})).verdict == "confirmed"
    elsewhere = {cell: [0.5] * 3 for cell in planted}
    assert loss_space.spurious(study_of({**elsewhere, **held})).verdict == "refuted"
    assert loss_space.spurious(study_of({**elsewhere, **held}, full=False)).verdict == "inconclusive"


@pytest.mark.parametrize(
    ("v", "verdict"), [([1.0, 1.1, 0.9], "confirmed"), ([3.0, 3.1, 2.9], "refuted"), ([1.0, 4.0, 1.5], "inconclusive")]
)
def test_quality(v, verdict) -> None:
    frechet = {named(what, space): v if space == "v" else [2.0, 2.2, 1.8] for what in JUDGED for space in "uv"}
    found = loss_space.quality(study_of({}, frechet=frechet))
    assert found.verdict == verdict
    assert all(what in found.evidence for what in JUDGED)
    assert loss_space.quality(study_of({}, full=False, frechet=frechet)).verdict == "inconclusive"


def test_the_frechet_distance_stands_beside_where_another_one_decides() -> None:
    """On a manifold: a reader must see where the two disagree."""
    rows = study_of({}, frechet={named(what, space): [2.0, 2.2, 1.8] for what in JUDGED for space in "uv"}).rows
    spiral = next(what for what in JUDGED if "spiral" in what)
    for space, frechet in (("u", 1.0), ("v", 2.0)):
        one = {"cell": named(spiral, space), "target": "learned", "k": 0.8, "sampler": "clean", "grouped": 1.0, "heldout": 1.0}
        one |= {"exact": None}
        rows = [row for row in rows if row["cell"] != one["cell"]]
        for measure, value in (("frechet", frechet), ("sliced_wasserstein", 0.1), ("off_manifold", 1 / frechet)):
            rows += [{**one, "seed": seed, "measure": measure, "value": value * (1 + 0.01 * seed)} for seed in range(3)]
    jobs = [job for job in loss_space.CLAIM.jobs(True, Path("out")) if "spiral" in job.cell]
    evidence = loss_space.quality(Study(jobs, rows, True)).evidence
    assert f"by the Fréchet distance {spiral} +0.69 [" in evidence
    assert f"{spiral} -0.6" in evidence
    assert "by the Fréchet distance digits" not in evidence


@pytest.mark.parametrize(
    ("u", "v", "full", "verdict"),
    [
        (30.0, 1.0, True, "confirmed"),
        (30.0, 9.0, True, "refuted"),
        (30.0, 9.0, False, "inconclusive"),
        (1.0, 1.0, True, "refuted"),
        (4.5, 3.5, True, "inconclusive"),
    ],
)
def test_exact_pulls(u, v, full, verdict, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = {"u": dict.fromkeys(PROBED, (u, 1.0)), "v": dict.fromkeys(PROBED, (-v, 1.0))}
    monkeypatch.setattr(loss_space, "pulls", lambda data, batches: planted)
    what = next(iter(JUDGED))
    assert loss_space.exact_pulls(study_of({named(what, "v"): [0.8]}, full)).verdict == verdict


# Whole


@pytest.mark.usefixtures("in_this_process")
def test_a_miniature_runs_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups = loss_space.plan(False)
    few = [
        replace(
            group,
            cells={name: replace(c, steps=3, batch_size=8, log_every=1) for name, c in group.cells.items()},
            targets=group.targets[-1:],
            num_samples=min(group.num_samples, 1),
        )
        for group in groups
    ]
    assert all(isinstance(group, Group) for group in few)
    claim = replace(loss_space.CLAIM, plan=lambda full: few)
    outcome = reproduce(claim, False, tmp_path, workers=1)
    linear, exact, line, quality = (finding.verdict for finding in outcome.findings)
    assert (linear, line, quality) == ("inconclusive",) * 3
    assert exact == "confirmed"
    assert "learned, u-loss" in outcome.table
    assert matplotlib.image.imread(tmp_path / "loss_space.png").std() > 0.01
