"""What every test shares: a fixed seed, no display, a cache apart, and a count of skipped tests that is printed even when 0."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # a test that would ask the hub fails at once


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the cache of whoever runs it; a classifier is trained once per session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def autoencoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny autoencoder of colour images in diffusers' format: latents (4, H/2, W/2)."""
    from diffusers import AutoencoderKL

    torch.manual_seed(0)
    module = AutoencoderKL(
        block_out_channels=(8, 16),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=4,
        scaling_factor=0.25,
        shift_factor=0.5,
    )
    folder = tmp_path_factory.mktemp("autoencoder")
    module.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def dino_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny DINOv2 as transformers saves it: 16 features."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.Dinov2Config(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14)
    path = tmp_path_factory.mktemp("dino")
    transformers.Dinov2Model(config).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def code_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Where diffusers copies the code of a folder that it loads: not into the cache of whoever runs the tests."""
    from diffusers.utils import dynamic_modules_utils

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dynamic_modules_utils, "HF_MODULES_CACHE", str(tmp_path_factory.mktemp("modules")))
        yield


@pytest.fixture
def stirred() -> Callable[[nn.Module], nn.Module]:
    """Draws what starts at zero, for it hides the rest of a network."""

    def draw(network: nn.Module) -> nn.Module:
        for module in network.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.1)
                nn.init.normal_(module.bias, std=0.1)
        return network

    return draw


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A test that draws without a generator of its own must not depend on which tests ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"skipped: {len(terminalreporter.stats.get('skipped', []))}")
