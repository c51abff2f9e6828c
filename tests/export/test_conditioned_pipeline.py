"""An exported run with conditions: the pipeline takes them by name, and draws the samples that the run draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from toy_conditions import conditional_gaussian

from kdiff.config.training import TrainConfig
from kdiff.export.diffusers_folder import as_pipeline, export
from kdiff.run.run import Run
from kdiff.sampling import draw_noise
from kdiff.training.trainer import train_run

pytest.importorskip("diffusers")
GIVEN = {"params": [15.0, -3.0], "past": np.array([[0.5, -1.0]])}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    config = TrainConfig(
        data=f"{conditional_gaussian.__module__}.conditional_gaussian(labels=true, past=true)",
        network="MLP(width=8, depth=2)",
        null_rates={"params": 0.3},
        steps=30,
        batch_size=32,
        learning_rate=1e-2,
        warmup=2,
        split_loss=False,
    )
    return train_run(config, tmp_path_factory.mktemp("conditioned") / "run")


@pytest.fixture(scope="module")
def pipeline(run: Run) -> Any:
    found = as_pipeline(run)
    found.set_progress_bar_config(disable=True)
    return found


@pytest.mark.parametrize("guided", [{}, {"guidance": 2.0}, {"guidance": 2.0, "guide_on": ["params"]}])
def test_pipeline_and_run_draw_the_same_samples(run: Run, pipeline: Any, guided: dict[str, Any]) -> None:
    mine, y = run.sample(4, conditions={**GIVEN, "y": 1}, solver="euler", steps=6, last_step="data", **guided)
    assert y is not None
    noise = draw_noise(range(4), run.shape, 0)
    own = {"guidance_scale": guided.get("guidance", 1.0), "guide_on": guided.get("guide_on")}
    theirs = pipeline(1, conditions=GIVEN, latents=noise, num_inference_steps=6, **own).images
    torch.testing.assert_close(theirs, mine, rtol=1e-5, atol=1e-5)


def test_rows_of_conditions_and_none(run: Run, pipeline: Any) -> None:
    noise = draw_noise(range(2), run.shape, 0)
    how = {"latents": noise, "num_inference_steps": 4}
    rows = {"params": [[15.0, -3.0], [5.0, 5.0]], "past": None}
    both = pipeline([1, 0], conditions=rows, **how).images
    mine, _ = run.sample(2, conditions={**rows, "y": [1, 0]}, solver="euler", steps=4, last_step="data")
    torch.testing.assert_close(both, mine, rtol=1e-5, atol=1e-5)
    nothing = pipeline(conditions=None, **how).images
    none, _ = run.sample(2, conditions={"params": None, "past": None, "y": None}, solver="euler", steps=4, last_step="data")
    torch.testing.assert_close(nothing, none, rtol=1e-5, atol=1e-5)


def test_wrong_conditions_are_refused(pipeline: Any) -> None:
    with pytest.raises(ValueError, match="no condition 'force'; its conditions are y, params, past"):
        pipeline(0, conditions={"force": 1.0})
    with pytest.raises(ValueError, match=r"'params' has shape \(3,\)"):
        pipeline(0, conditions={"params": [1.0, 2.0, 3.0]})
    with pytest.raises(ValueError, match="not trained both with and without force"):
        pipeline(0, conditions=GIVEN, guidance_scale=2.0, guide_on=["force"])
    with pytest.warns(UserWarning, match="'params' has 400 for number 1"):
        pipeline(0, conditions={"params": [400.0, 1.0]}, num_inference_steps=2)


def test_the_folder_loads_and_its_card_names_the_conditions(run: Run, tmp_path: Path, code_cache: None) -> None:
    from diffusers import DiffusionPipeline

    folder = export(run, tmp_path / "exported")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "`params` (vector, 2, in training [" in card
    assert "`past` (field, 1 × 2)" in card
    assert "class_labels=[0, 1], guidance_scale=2.0, conditions={'params': [" in card
    assert list(json.loads((folder / "kdiff.json").read_text())["data"]["conditions"]) == ["params", "past"]
    loaded = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    loaded.set_progress_bar_config(disable=True)
    how = {"latents": draw_noise(range(2), run.shape, 0), "num_inference_steps": 4, "conditions": GIVEN}
    assert torch.equal(loaded(1, **how).images, as_pipeline(run)(1, **how).images)
