"""An exported run with a calibration: diffusers draws the calibrated samples, also in half precision."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import DiffusionPipeline

from kdiff.export.diffusers_folder import export
from kdiff.run.run import Run, load_run
from kdiff.targets.bases import KINDS, make_basis
from kdiff.targets.calibration import Calibration

pytestmark = pytest.mark.usefixtures("code_cache")


def calibrated(trained: Callable[..., Path], kind: str = "principal", **changes: Any) -> Run:
    """A run with a calibration that changes samples much."""
    run = load_run(trained(network="MLP(width=16, depth=1)", **changes))
    basis, generator = make_basis(kind, run.shape), torch.Generator().manual_seed(0)
    if kind in ("principal", "patch"):
        basis.directions.copy_(torch.linalg.qr(torch.randn(basis.directions.shape, generator=generator)).Q)
    h = 0.3 * torch.randn(3, *basis.coefficient_shape, generator=generator)
    centre = torch.randn(basis.coordinate_shape, generator=generator)
    run.model.calibration = Calibration(basis, torch.tensor([0.2, 0.5, 0.8]), h, centre)
    return run


@pytest.mark.parametrize("kind", KINDS)
def test_diffusers_draws_the_calibrated_samples(kind: str, trained: Any, exported: Any, tmp_path: Path) -> None:
    run = calibrated(trained, kind)
    pipeline = exported(run, tmp_path)
    noise, y = torch.randn(3, *run.shape), torch.tensor([0, 4, 9])
    for options in ({}, {"guidance": 2.0}):
        ours = run.model.sample(noise, solver="euler", steps=6, last_step="data", y=y, **options)
        scale = {"guidance_scale": options.get("guidance", 1.0)}
        theirs = pipeline(y, latents=noise, num_inference_steps=6, output_type="latent", **scale).images
        torch.testing.assert_close(theirs, ours, atol=1e-4, rtol=1e-4)
    run.model.calibration = None
    assert not torch.allclose(run.model.sample(noise, solver="euler", steps=6, last_step="data", y=y), ours, atol=0.1)


def test_the_variance_preserving_path_is_calibrated_too(trained: Any, exported: Any, tmp_path: Path) -> None:
    run = calibrated(trained, path="variance_preserving")
    pipeline = exported(run, tmp_path)
    noise, y = torch.randn(3, *run.shape), torch.tensor([0, 4, 9])
    fine = run.model.sample(noise, solver="euler", steps=400, last_step="data", y=y)
    theirs = pipeline(y, latents=noise, num_inference_steps=400, output_type="latent").images
    torch.testing.assert_close(theirs, fine, atol=0.05, rtol=0.05)


def test_in_half_precision_the_calibration_stays_in_float32(trained: Any, tmp_path: Path) -> None:
    run = calibrated(trained)
    folder = export(run, tmp_path / "pipeline")
    half = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True, dtype=torch.bfloat16)
    found = half.transformer.model.calibration
    assert {value.dtype for value in found.buffers()} == {torch.float32}
    assert torch.equal(found.h, run.model.calibration.h)
    assert torch.equal(found.basis.directions, run.model.calibration.basis.directions)


def test_the_card_and_the_facts_say_so(trained: Any, tmp_path: Path) -> None:
    run = calibrated(trained)
    folder = export(run, tmp_path / "pipeline")
    assert json.loads((folder / "kdiff.json").read_text())["calibrated"] is True
    assert "with a calibration of the data prediction" in (folder / "README.md").read_text()
    run.model.calibration = None
    folder = export(run, tmp_path / "pipeline")
    assert json.loads((folder / "kdiff.json").read_text())["calibrated"] is False
    assert "calibration" not in (folder / "README.md").read_text()
