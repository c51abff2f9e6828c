"""What every test shares: a fixed seed, no display, a cache apart, and a count of skipped tests that is printed even when 0."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from kdiff import KDiff
from kdiff.networks import MLP
from kdiff.training.objective import DiffusionObjective

if os.environ.get("PYTEST_XDIST_WORKER"):  # several workers share the cores: one thread each, in the processes they start too
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
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
def small_kinds(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Tiny autoencoders of several classes in diffusers' format, every weight drawn at random; each is made once.

    Wan 2.2's is called AutoencoderKLWan22.
    """
    import diffusers

    levels = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
    scale = {"latents_mean": [0.1, -2.0, 0.3], "latents_std": [0.5, 2.0, 4.0]}
    wan = {"base_dim": 4, "z_dim": 3, "num_res_blocks": 1, **scale}
    stages = {f"{part}_block_out_channels": (8, 8) for part in ("encoder", "decoder")}
    deep = {f"{part}_block_types": ("ResBlock", "EfficientViTBlock") for part in ("encoder", "decoder")}
    deep |= {f"{part}_layers_per_block": (1, 1) for part in ("encoder", "decoder")}
    deep |= {f"{part}_qkv_multiscales": ((), (5,)) for part in ("encoder", "decoder")}
    patched = {"is_residual": True, "decoder_base_dim": 8, "dim_mult": [1, 1], "temperal_downsample": [False]}

    def options(name: str, channels: int) -> dict[str, Any]:
        images = {"in_channels": channels, "out_channels": channels}
        return {
            "AutoencoderKL": {**images, "block_out_channels": (8, 16), **levels, "norm_num_groups": 4, "shift_factor": 0.5},
            "AutoencoderKLFlux2": {
                **images,
                "block_out_channels": (8, 16),
                **levels,
                "norm_num_groups": 4,
                "latent_channels": 3,
            },
            "AutoencoderDC": {"in_channels": channels, "latent_channels": 4, "attention_head_dim": 4, **stages, **deep}
            | {"scaling_factor": 0.41407},
            "AutoencoderTiny": {**images, **stages, "num_encoder_blocks": (1, 1), "num_decoder_blocks": (1, 1)}
            | {"scaling_factor": 0.7, "shift_factor": 0.1},
            "AutoencoderKLQwenImage": {"input_channels": channels, "dim_mult": [1, 2], "temperal_downsample": [True], **wan},
            "AutoencoderKLQwenImage21": {**dict.fromkeys(images, 4), "dim_mult": [1, 1], "temperal_downsample": [True], **wan},
            "AutoencoderKLWan": {**images, "dim_mult": [1, 2], "temperal_downsample": [True], **wan},
            "AutoencoderKLWan22": dict.fromkeys(images, 4 * channels) | {"patch_size": 2, **wan, **patched},
        }[name]

    made: dict[tuple[str, int], Path] = {}

    def make(name: str, channels: int = 3) -> Path:
        if (name, channels) not in made:
            with torch.random.fork_rng(), torch.no_grad():
                torch.manual_seed(0)
                module = getattr(diffusers, name.removesuffix("22"))(**options(name, channels))
                for key, value in module.state_dict().items():
                    if value.is_floating_point():
                        # Near what the constructor sets, so that signals pass, but no weight is 0 or 1.
                        value.add_(0.1 * (torch.rand_like(value) if "running_var" in key else torch.randn_like(value)))
            made[name, channels] = tmp_path_factory.mktemp("kinds") / name
            module.save_pretrained(made[name, channels])
        return made[name, channels]

    return make


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


class Spy(nn.Module):
    """An MLP with dropout that records its inputs; `before` is called with the number of the call."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.network = MLP((4,), num_classes=3, width=width, depth=2)
        self.dropout = nn.Dropout(0.1)
        self.calls: list[tuple[Tensor, Tensor, Tensor]] = []
        self.before: Callable[[int], None] = lambda call: None

    def forward(self, z: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        self.before(len(self.calls))
        self.calls.append((z.clone(), t.clone(), y.clone()))
        return self.dropout(self.network(z, t, y))


@pytest.fixture
def samples() -> tuple[Tensor, Tensor]:
    """100 samples on a plane in four dimensions, three classes."""
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(3, (100,), generator=generator)
    x = torch.zeros(100, 4)
    x[:, :2] = 0.3 * torch.randn(100, 2, generator=generator) + torch.stack([y - 1.0, (y == 1) * 2.0], dim=1)
    return x, y


@pytest.fixture
def make_objective() -> Callable[..., DiffusionObjective]:
    """Objectives of a `Spy`; the same seed, the same initial weights."""

    def make(target: object = "learned", seed: int = 0, width: int = 16) -> DiffusionObjective:
        torch.manual_seed(seed)
        model = KDiff(Spy(width), target, null={"y": 3}, null_rate=0.2)  # type: ignore[arg-type]
        return DiffusionObjective(model, torch.eye(4)[:, :2])

    return make


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """`kdiff train` ends without its pictures, which take longer to draw than a few steps."""
    monkeypatch.setattr("kdiff.report.run_pictures.draw_run", lambda run: [])


@pytest.fixture
def contents() -> Callable[[Path], dict[str, bytes]]:
    """All files below a folder, hidden ones too, by relative path."""
    return lambda folder: {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A test that draws without a generator of its own must not depend on which tests ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002


# Which tests are slow, for `make test-fast`: measured, and written down in slow.txt by `make test JOBS=0 ARGS=--write-slow`.
SLOW = Path(__file__).with_name("slow.txt")
LONG = 0.3  # seconds of a test, or of a fixture, which then makes every test slow that asks for it
_took: dict[str, float] = {}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-slow", action="store_true", help=f"write the tests and fixtures that take over {LONG} s to slow.txt"
    )


def pytest_configure(config: pytest.Config) -> None:
    chosen = config.option.file_or_dir or config.option.keyword or config.option.markexpr
    if config.getoption("--write-slow") and (chosen or config.getoption("numprocesses", None)):
        raise pytest.UsageError("--write-slow measures all tests in one process: make test JOBS=0 ARGS=--write-slow")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    slow = set(SLOW.read_text(encoding="utf-8").split())
    for item in items:
        file, asked = item.nodeid.partition("::")[0], getattr(item, "fixturenames", ())
        names = {item.nodeid.partition("[")[0], *(f"{where}::{name}" for name in asked for where in (file, "*"))}
        if slow & names:
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_fixture_setup(fixturedef: Any, request: pytest.FixtureRequest) -> Iterator[None]:
    started = time.perf_counter()
    result = yield
    place = f"{request.node.nodeid.partition('::')[0] or '*'}::{fixturedef.argname}"
    if fixturedef.argname not in ("_cache", "_seed"):
        _took[place] = max(_took.get(place, 0.0), time.perf_counter() - started)
    return result


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call":
        name = report.nodeid.partition("[")[0]
        _took[name] = max(_took.get(name, 0.0), report.duration)


def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.config.getoption("--write-slow"):
        SLOW.write_text("\n".join(sorted(name for name, seconds in _took.items() if seconds > LONG)) + "\n", encoding="utf-8")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"skipped: {len(terminalreporter.stats.get('skipped', []))}")
