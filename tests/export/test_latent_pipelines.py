"""Runs on latents of several classes of autoencoders: trained, sampled and exported, and decoded by the same class."""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import pytest
import torch
from diffusers.pipelines import pipeline_utils
from safetensors.torch import load_file

from kdiff.commands.main import main
from kdiff.latent import load_autoencoder
from kdiff.run.run import load_run

TRAIN = [
    "--network",
    "MLP(width=16, depth=1)",
    "--steps",
    "2",
    "--batch-size",
    "16",
    "--ema",
    "0.5",
    "--data.normalise",
    "scaling",
]
KINDS = ["AutoencoderKLFlux2", "AutoencoderDC", "AutoencoderTiny", "AutoencoderKLQwenImage", "AutoencoderKLWan22"]


@pytest.mark.filterwarnings("ignore:.*root mean square of the latents")
@pytest.mark.parametrize("name", KINDS)
def test_from_the_command_line_to_a_pipeline(name, small_kinds, loaded, start, tmp_path, monkeypatch) -> None:
    """`kdiff sample` decodes with the autoencoder of the latents, and so does the exported pipeline, to the same images."""
    monkeypatch.chdir(tmp_path)
    folder: Path = small_kinds(name, 1)
    assert main(["encode", "digits", "--autoencoder", str(folder)]) == 0
    assert (tmp_path / "latents" / "digits" / "reconstructions.png").is_file()
    assert main(["train", "--data", "latents/digits", *TRAIN, "--out", "run"]) == 0
    assert main(["sample", "run", "--num", "3", "--steps", "2", "--out", "few"]) == 0
    found, run = load_file("few.safetensors"), load_run(tmp_path / "run")
    expected = load_autoencoder(folder).decode(found["x"])
    torch.testing.assert_close(found["images"], 8 + 8 * expected, rtol=1e-4, atol=1e-3)  # in the units of digits, 0 … 16
    assert main(["export", "run", "--out", "exported"]) == 0
    said: list[str] = []
    monkeypatch.setattr(pipeline_utils.logger, "warning", said.append)
    pipeline = loaded(tmp_path / "exported")
    assert said == []  # diffusers warns if the annotation of KDiffPipeline excludes this class
    assert type(pipeline.vae) is getattr(diffusers, name.removesuffix("22"))
    assert json.loads(Path("exported/model_index.json").read_text())["vae"] == ["diffusers", name.removesuffix("22")]
    noise, y = start(run)
    decoded = run.decode(run.normalisation.undo(run.model.sample(noise, solver="euler", steps=3, last_step="data", y=y)))
    images = pipeline(y, latents=noise, num_inference_steps=3, output_type="pt").images
    torch.testing.assert_close(images, decoded, rtol=0, atol=1e-4)
    assert pipeline(y, latents=noise, num_inference_steps=3).images[0].size == (8, 8)
