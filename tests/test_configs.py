"""The configurations that come with the package: each is read, builds its true-size network, and can be planned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import kdiff
from kdiff.commands.arguments import config_folder, read_config
from kdiff.commands.main import main
from kdiff.config.autoencoding import AutoencoderConfig
from kdiff.config.training import Expected, TrainConfig
from kdiff.run.build import build_model
from kdiff.targets import LearnedK

NAMES = sorted(path.stem for path in config_folder().glob("*.yaml"))
# Parameters in millions, as published with the architectures (LightningDiT-XL is DiT-XL's size).
PUBLISHED = {"jit_b16": 131, "jit_b32": 133, "jit_l16": 459, "jit_l32": 462, "jit_h16": 953, "lightningdit_xl": 675}


def config_of(name: str) -> TrainConfig:
    config: TrainConfig = read_config("train", TrainConfig, [name], "[CONFIG]")[0]
    return config


def test_there_are_some() -> None:
    assert {"digits", "fashion_pixel", "glyphs_pixel64", "fashion_latent", "imagenet256_jit_b16"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_read(name: str) -> None:
    config = config_of(name)
    assert str(config.target).startswith("learned")
    assert config.steps >= 1000


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("imagenet")])
def test_the_true_size_network(name: str) -> None:
    config = config_of(name)
    assert config.expects is not None
    with torch.device("meta"):
        model = build_model(config, config.target, tuple(config.expects.shape), config.expects.num_classes)
    assert isinstance(model.target, LearnedK)
    millions = sum(p.numel() for p in model.network.parameters()) / 1e6
    assert millions == pytest.approx(next(size for part, size in PUBLISHED.items() if part in name), rel=0.005)
    assert model.null == {"y": 1000}
    assert model.noise_scale == (2.0 if "512" in name else 1.0)
    epochs = next((int(part.removesuffix("ep")) for part in name.split("_") if part.endswith("ep")), 600)
    assert config.steps * config.batch_size / config.expects.num_samples == pytest.approx(epochs, rel=0.002)


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("imagenet")])
def test_the_recipes_way_of_sampling(name: str) -> None:
    config = config_of(name)
    sampling = config.sampling
    # JiT's sampler leaves out the start of the interval; LightningDiT's guides there, and not one float32 number earlier.
    (low, high), start = sampling.guidance_interval, torch.tensor(0.125 if "800ep" in name else 0.1)
    before = torch.nextafter(start, torch.tensor(0.0))
    assert high == 1
    assert [bool(t > low) for t in (before, start)] == [False, "lightningdit" in name]
    assert torch.tensor(low) == (before if "lightningdit" in name else start)
    scales = {"jit_b": 2.9, "256_jit_l": 2.4, "512_jit_l": 2.5, "jit_h": 2.2, "lightningdit": 2.0}
    assert sampling.guidance == next(scale for part, scale in scales.items() if part in name)
    way = ("heun", 50, "uniform") if "jit" in name else ("euler", 249, "shifted(0.3)")
    assert (str(sampling.solver), sampling.steps, str(sampling.times)) == way
    assert ("dropout" in str(config.network)) == ("jit_h" in name)


def test_a_plan_needs_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "imagenet256_jit_b16"]) == 0
    out, err = capsys.readouterr()
    assert not err
    assert "1000 classes, as the configuration expects them; they are not read\n" in out
    assert "131.1 M parameters, 256 tokens per sample" in out
    assert "8 devices" in out


def test_planning_a_run_on_latents_of_its_own_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "fashion_latent"]) == 0
    assert main(["train", "fashion_latent", "--dry-run"]) == 0
    assert "4 × 7 × 7, 10 classes" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_that_runs_expectation_is_right() -> None:
    """The number that is trained on, and the shape that the small autoencoder's defaults give."""
    try:
        images = kdiff.load_data("fashion")
    except FileNotFoundError:
        pytest.skip("Fashion-MNIST is not installed")
    defaults, expected = AutoencoderConfig(), config_of("fashion_latent").expects
    sides = [side // 2 ** (len(defaults.channels) - 1) for side in images.shape[1:]]
    train = images.part(config_of("fashion_latent").train_on)[0]
    assert expected == Expected([defaults.latent_channels, *sides], images.num_classes, len(train))


def test_a_configuration_for_other_data() -> None:
    words = ["fashion_latent", "--data.images", "photos/", "--expects", "null"]
    assert read_config("train", TrainConfig, words, "[CONFIG]")[0].expects is None


STEP = """
import json, sys
from kdiff.commands.arguments import read_config
from kdiff.config.training import TrainConfig
from kdiff.training.cost import dry_run, peak_memory
config = read_config("train", TrainConfig, [sys.argv[1]], "[CONFIG]")[0]
fitted = dry_run(config, batch_size=1, steps=1)
print(json.dumps({"loss": fitted.metrics["loss"], "peak": peak_memory()}))
"""


def test_the_largest_takes_a_step_within_24_gigabytes() -> None:
    """LightningDiT-XL/1 with AdamW and its average, in the precision of the configuration."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if memory < 22e9:
        pytest.skip(f"this machine has {memory / 1e9:.0f} GB of memory; a step of LightningDiT-XL/1 needs about 16")
    words = [sys.executable, "-c", STEP, "imagenet256_lightningdit_xl_64ep"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert 0 < found["loss"] < 10
    assert found["peak"] < 24e9
