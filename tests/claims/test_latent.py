"""The claim `latent`: equally many tokens everywhere, criteria that decide as they say, a whole run in miniature."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest

from kdiff.claims import latent
from kdiff.claims.claim import Study
from kdiff.claims.latent import CLAIM, latents, made, pixels
from kdiff.claims.reproduction import reproduce
from kdiff.files.cache import cache_folder
from kdiff.networks import JiT
from kdiff.run.build import build_model

SIDES = {"glyphs": (3, 32), "Fashion": (1, 28)}


@pytest.mark.parametrize("full", [False, True])
def test_all_cells_of_some_pictures_have_equally_many_tokens(full, tmp_path: Path) -> None:
    jobs = CLAIM.jobs(full, tmp_path)
    assert len({job.folder for job in jobs}) == len(jobs) == (42 if full else 4)
    for job in jobs:
        kind, level = job.cell.split(", ")[:2]
        channels, side = SIDES[kind]
        shape = (channels, side, side) if level == "pixels" else (4, *2 * [side // 2 ** (len(latent.LEVELS[level]) - 1)])
        network = build_model(job.config, job.config.target, shape, 10).network
        assert isinstance(network, JiT)
        assert network.grid == ((4, 4) if kind == "glyphs" else (7, 7))


@pytest.fixture
def finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a full study of given k, at rest unless said otherwise, with D/(D + tr Σ) of 0.7 on raw latents and ½ on others."""

    def make(k: dict[str, float], moves: dict[str, float] | None = None, learned: float = 1.0, full: bool = True) -> Study:
        jobs = CLAIM.jobs(True, tmp_path)
        rows = []
        for job in jobs:
            end = k.get(job.cell, 0.7) + 0.001 * job.config.seed
            before = end - (moves or {}).get(job.cell, 0.0)
            row = {"cell": job.cell, "target": job.target, "seed": job.config.seed, "k": end, "k_before": before, "k_last": end}
            value = {"learned": learned, "velocity": 1.0}.get(job.target, 2.0) * (1 + 0.01 * job.config.seed)
            rows.append({**row, "measure": "frechet", "sampler": "clean", "value": value} if job.num_samples else row)
        return Study(jobs, rows, full)

    monkeypatch.setattr(latent, "predictions", lambda data: {"loss on u": 0.7 if "none" in data else 0.5})
    return make


ABOVE = {pixels("glyphs"): 0.95, pixels("Fashion"): 0.9}
SMALLER = {
    **ABOVE,
    **{
        latents(*pair, scaling): {"half": 0.8, "a quarter": 0.66}[pair[1]] for pair in made(True) for scaling in latent.SCALINGS
    },
}


def test_k_between_velocity_and_data(finished: Any) -> None:
    assert latent.between(finished(SMALLER)).verdict == "confirmed"


@pytest.mark.parametrize(
    ("moves", "full", "verdict"), [(0.0, True, "refuted"), (0.1, True, "inconclusive"), (0.0, False, "inconclusive")]
)
def test_k_that_rests_at_velocity_refutes(finished: Any, moves: float, full: bool, verdict: str) -> None:
    name = latents("glyphs", "a quarter")
    assert latent.between(finished({**SMALLER, name: 0.505}, {name: moves}, full=full)).verdict == verdict


def test_k_that_is_on_its_way_between_confirms_nothing(finished: Any) -> None:
    assert latent.between(finished(SMALLER, {latents("glyphs", "half"): 0.05})).verdict == "inconclusive"


def test_k_falls_from_pixels_to_smaller_latents(finished: Any) -> None:
    assert latent.falls(finished(SMALLER)).verdict == "confirmed"
    assert latent.falls(finished({**SMALLER, latents("Fashion", "a quarter"): 0.9})).verdict == "refuted"
    assert latent.falls(finished({**SMALLER, latents("Fashion", "a quarter"): 0.8})).verdict == "inconclusive"


@pytest.mark.parametrize(("k", "verdict"), [(0.85, "confirmed"), (0.55, "refuted"), (None, "inconclusive")])
def test_normalisation_moves_k_as_the_theory_says(finished: Any, k: float | None, verdict: str) -> None:
    raw = {} if k is None else {latents(*pair, "as they are"): k for pair in made(True)}
    finding = latent.shifts(finished({**SMALLER, **raw}))
    assert finding.verdict == verdict
    assert not finding.decides


@pytest.mark.parametrize(("learned", "verdict"), [(0.95, "confirmed"), (1.3, "refuted")])
def test_samples_as_good_as_velocity_prediction(finished: Any, learned: float, verdict: str) -> None:
    assert latent.quality(finished(SMALLER, learned=learned)).verdict == verdict
    assert latent.quality(finished(SMALLER, learned=learned, full=False)).verdict == "inconclusive"


@pytest.mark.usefixtures("in_this_process")
def test_a_miniature_runs_from_images_to_a_verdict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latent, "PICTURES", {"glyphs": latent.Pictures("digits", 4)})
    whole, small = latent.settings, {"steps": 4, "batch_size": 8, "log_every": 1}
    tiny = "JiT(patch_size={}, hidden_size=16, depth=1, num_heads=2, bottleneck=8, context_tokens=0)"
    monkeypatch.setattr(
        latent, "settings", lambda patch, full: replace(whole(patch, full), network=tiny.format(patch), **small)
    )
    encoder = latent.autoencoder
    monkeypatch.setattr(latent, "autoencoder", lambda *what: replace(encoder(*what), steps=3, batch_size=8))
    written, cache = [], cache_folder() / "autoencoders"
    others = {*cache.rglob("*")}
    for _ in range(2):
        outcome = reproduce(CLAIM, False, tmp_path / "out", workers=1)
        assert {finding.verdict for finding in outcome.findings} == {"inconclusive"}
        made = {*cache.rglob("*.safetensors")} - others
        written.append({path: path.stat().st_mtime_ns for path in made})
    assert written[0]
    assert written[1] == written[0], "neither autoencoder nor latents are made twice"
    assert "dB" in outcome.table
    assert "glyphs, a quarter, as they are" in outcome.table
    assert matplotlib.image.imread(tmp_path / "out" / "latent.png").std() > 0.01
    assert json.loads((tmp_path / "out" / "verdict.json").read_text())["runs"] == 4
