"""The examples, each run small: what they say of themselves holds."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from kdiff.config.training import TrainConfig
from kdiff.training.trainer import train_run

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    """An example by name, with arguments on its command line, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def load(name: str, *arguments: object) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        return module

    return load


def test_every_example_is_run_here() -> None:
    """By the text of this file."""
    text = Path(__file__).read_text(encoding="utf-8")
    assert [path.stem for path in EXAMPLES.glob("*.py") if f'"{path.stem}"' not in text] == []


def test_diffusers_training(example, tmp_path) -> None:
    losses, ks = example("diffusers_training", "--steps", 40, "--batch-size", 16, "--out", tmp_path / "out").main()
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert ks[0] == pytest.approx(0.5, abs=0.01)
    assert len(set(ks)) == 40
    assert load_file(tmp_path / "out" / "target.safetensors").keys() == {"target.w", "target.pace"}
    assert (tmp_path / "out" / "transformer" / "diffusion_pytorch_model.safetensors").is_file()
    assert Image.open(tmp_path / "out" / "samples.png").size == (320, 128)


def test_plain_loop(example) -> None:
    """Two of sixteen dimensions: k goes towards the data, and samples come near the ring."""
    losses, k, off = example("plain_loop", "--steps", 300).main()
    assert sum(losses[-20:]) < 0.6 * sum(losses[:20])
    assert k > 0.6
    assert off < 0.25 * 16**0.5


def test_azula_sampling(example) -> None:
    found = example("azula_sampling", "--steps", 20, "--sampling-steps", 9).main()
    assert found.keys() == {"DDIM and euler", "DDIM and euler, guided"}
    assert max(found.values()) < 1e-5


@pytest.mark.usefixtures("code_cache")
def test_diffusers_schedulers(example, tmp_path, capsys) -> None:
    config = TrainConfig(data="digits", network="MLP(width=16, depth=1)", steps=20, batch_size=32, ema=[0.9])
    train_run(config, tmp_path / "run")
    found = dict(example("diffusers_schedulers", tmp_path / "run", "--steps", 10, "--num", 4).main())
    assert found.keys() == {"Euler", "Heun", "UniPC"}
    assert found["Euler"] < 1e-5
    assert min(found["Heun"], found["UniPC"]) > 1e-5
    assert capsys.readouterr().out.count("\n") == 4


@pytest.mark.filterwarnings("ignore:.*the windows of one series share a part")
def test_forecast(example, tmp_path) -> None:
    """The law that the example states is that of its equation, and an ensemble that saw two frames beats the climate."""
    pytest.importorskip("h5py")
    module = example("forecast", "--out", tmp_path / "out", "--runs", 40, "--steps", 40, "--truths", 8)
    frames = module.runs(400, 3, np.random.default_rng(1))
    assert frames.mean((0, 2, 3, 4)) == pytest.approx(np.zeros(3), abs=1e-6)
    assert frames.var((0, 2, 3, 4)) == pytest.approx(np.ones(3), abs=0.08)
    _, variance, decay = module.spectra()
    modes = np.fft.rfft2(frames[:, :, 0], norm="forward")
    moved = np.abs(modes[:, 1]) ** 2 + decay**2 * np.abs(modes[:, 0]) ** 2
    # With the turn of the wind unknown, the squares still tell: E|u′|² = decay² E|u|² + the variance of the noise.
    noise = (moved - 2 * decay**2 * np.abs(modes[:, 0]) ** 2).mean(0)
    assert noise == pytest.approx(variance * (1 - decay**2), abs=0.05 * variance.max())
    model, climate = module.main()
    assert model.crps + 3 * model.standard_error < climate.crps
