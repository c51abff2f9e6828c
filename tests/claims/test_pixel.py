"""The claim `pixel`: its plan builds, its criteria decide as they say, the ends of t are really looked at, it runs whole."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import torch

from kdiff.claims import pixel
from kdiff.claims.claim import Study
from kdiff.claims.ends import TIMES, at_the_ends
from kdiff.claims.reproduction import reproduce
from kdiff.config.training import TrainConfig
from kdiff.data import load
from kdiff.data.font import find_font
from kdiff.networks import JiT
from kdiff.run.build import build_model
from kdiff.studies.predictions import predictions
from kdiff.training.trainer import train_run

SHAPES = {"fashion": (1, 28, 28), **{f"glyphs(size={size})": (3, size, size) for size in (32, 64, 128)}}


@pytest.mark.parametrize("full", [False, True])
def test_the_plan_builds_and_stays_within_its_budget(full, tmp_path: Path) -> None:
    jobs = pixel.CLAIM.jobs(full, tmp_path)
    assert len({job.folder for job in jobs}) == len(jobs) == (41 if full else 5)
    for job in jobs:
        model = build_model(job.config, job.config.target, SHAPES[str(job.config.data)], 10)
        assert isinstance(model.network, JiT)
        rows, columns = model.network.grid
        assert rows * columns == 16
        assert model.network.context_tokens == 0
    assert sum(job.config.steps for job in jobs) == (82_000 if full else 1000)
    assert pixel.CLAIM.core_hours[full] <= 6


def find_data(name: str) -> None:
    """Skip where Debian's package is not installed."""
    try:
        find_font() if name.startswith("glyphs") else load("fashion")
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.slow
@pytest.mark.parametrize("cell", ["Fashion 28, patch 7", "glyphs 32, patch 8"])
def test_the_theories_of_the_real_pictures(cell) -> None:
    data = pixel.CELLS[cell][0]
    find_data(data)
    theory = predictions(data)
    assert 0.5 < theory["loss on u"] < 1
    assert theory["loss on u"] == pytest.approx(1 / (1 + (1 / theory["loss on v, start"] - 1) ** 2), rel=1e-6)


# Criteria


def way(end: float, passes: int | None = 500, late: float = 0.0, steps: int = 2000) -> list[tuple[int, float]]:
    """A course that ends at `end`, is at 0.9 from step `passes` on, and whose logit rises by `late` in the last quarter."""
    earlier = 1 / (1 + math.exp(-(pixel.logit(end) - late)))
    found = []
    for step in range(10, steps + 1, 10):
        k = earlier if step < steps else end
        found.append((step, min(k, 0.8) if passes is None or step < passes else k))
    return found


def ways(**ends: list[list[tuple[int, float]]]) -> pixel.Ways:
    cells = dict(zip(("small", "middle", "large"), pixel.GROWING))
    return {(cells[name], "learned"): each for name, each in ends.items()}


@pytest.mark.parametrize(
    ("end", "late", "full", "verdict"),
    [
        (0.97, 0.0, True, "confirmed"),
        (0.92, 0.02, True, "refuted"),
        (0.92, 0.5, True, "inconclusive"),
        (0.92, 0.0, False, "inconclusive"),
        (0.97, 0.0, False, "confirmed"),
    ],
)
def test_near_one(end, late, full, verdict) -> None:
    found = ways(small=[way(end, late=late)] * 3, large=[way(0.99)] * 3)
    assert pixel.near_one(found, full).verdict == verdict


def test_larger_is_nearer() -> None:
    def ends(*ks: float) -> list[list[tuple[int, float]]]:
        return [way(k) for k in ks]

    up = {"small": ends(0.90, 0.91, 0.905), "middle": ends(0.95, 0.952, 0.951), "large": ends(0.99, 0.9905, 0.99)}
    assert pixel.grows(ways(**up), True).verdict == "confirmed"
    assert pixel.grows(ways(**up), False).verdict == "inconclusive"
    down = {**up, "large": ends(0.90, 0.905, 0.9)}
    assert pixel.grows(ways(**down), True).verdict == "refuted"
    level = {**up, "large": ends(0.95, 0.953, 0.9495)}
    assert pixel.grows(ways(**level), True).verdict == "inconclusive"


@pytest.mark.parametrize(("passes", "verdict"), [(990, "confirmed"), (1500, "refuted"), (None, "refuted")])
def test_soon(passes, verdict) -> None:
    found = ways(small=[way(0.99, passes)] * 3, large=[way(0.99, 300)] * 3)
    slow = {(pixel.GROWING[0], pixel.PAPERS): [way(0.7, None)]}
    finding = pixel.soon({**found, **slow}, True, 2000)
    assert finding.verdict == verdict
    assert "43% to 43% of the way" in finding.evidence
    assert pixel.soon(found, False, 2000).verdict == "inconclusive"


def test_steps_as_text() -> None:
    assert pixel.first_step([(10, 0.5), (20, 0.9), (30, 0.7)], 0.9) == 20
    found = pixel.steps_text([10, 30]), pixel.steps_text([20]), pixel.steps_text([None]), pixel.steps_text([None, 20])
    assert found == ("10 to 30", "20", "not reached", "20 to not reached")


def judged_rows(learned: list[float]) -> list[dict[str, Any]]:
    return [
        {"cell": cell, "target": target, "seed": seed, "measure": "frechet", "sampler": sampler, "value": value}
        for cell in pixel.CELLS
        for target, values in (("learned", learned), ("data", [1.0, 1.1, 0.9]))
        for seed, value in enumerate(values)
        for sampler in ("clean", "paper")
    ]


@pytest.mark.parametrize(
    ("learned", "verdict"),
    [([0.8, 0.89, 0.71], "confirmed"), ([1.5, 1.6, 1.4], "refuted"), ([2.0, 0.6, 0.9], "inconclusive")],
)
def test_quality(learned, verdict) -> None:
    assert pixel.quality(Study([], judged_rows(learned), True)).verdict == verdict
    assert pixel.quality(Study([], judged_rows(learned), False)).verdict == "inconclusive"


# The ends of t

TINY = "JiT(patch_size=4, hidden_size=16, depth=1, num_heads=2, bottleneck=8, context_tokens=0)"


@pytest.mark.parametrize("target", ["velocity", "data", "noise", "learned(init=0.99)"])
def test_the_ends_are_finite(target, tmp_path: Path) -> None:
    run = train_run(TrainConfig(network=TINY, target=target, steps=3, batch_size=8), tmp_path / "run")
    x, y = run.dataset().part("train")
    broken, off = at_the_ends(run.folder, x[:4], None if y is None else y[:4])
    assert broken == []
    assert all(0 < value < 1 for value in off.values())
    assert off["output"] < 0.1


def test_what_is_not_finite_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that breaks at t = 1 in bf16 alone."""
    run = train_run(TrainConfig(network=TINY, steps=1, batch_size=8), tmp_path / "run")
    whole = JiT.forward

    def fragile(self: JiT, z: torch.Tensor, t: torch.Tensor, y: torch.Tensor | None = None) -> torch.Tensor:
        u = whole(self, z, t, y)
        return u / 0 if torch.is_autocast_enabled("cpu") and t[0] == 1 else u

    monkeypatch.setattr(JiT, "forward", fragile)
    x, y = run.dataset().part("train")
    broken, _ = at_the_ends(run.folder, x[:4], None if y is None else y[:4])
    assert "velocity without clamp at t = 1 in bf16" in broken
    assert "gradient at t = 1 in bf16" in broken
    assert all(text.endswith("at t = 1 in bf16") for text in broken)
    assert (TIMES[0], TIMES[-1]) == (0, 1)


# Whole


@pytest.mark.usefixtures("in_this_process")
def test_a_miniature_runs_from_end_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = pixel.settings
    monkeypatch.setattr(
        pixel, "settings", lambda *what: replace(whole(*what), network=TINY, steps=4, batch_size=8, log_every=1)
    )
    monkeypatch.setattr(pixel, "CELLS", dict.fromkeys(pixel.CELLS, ("digits", 4)))
    outcome = reproduce(pixel.CLAIM, False, tmp_path, workers=1)
    assert [finding.verdict for finding in outcome.findings] == ["inconclusive"] * 4 + ["confirmed"]
    assert outcome.table.count("learned") >= 8
    assert "Fréchet distance, paper" in outcome.table
    assert matplotlib.image.imread(tmp_path / "pixel.png").std() > 0.01
    assert json.loads((tmp_path / "verdict.json").read_text())["verdict"] == "inconclusive"
