"""What every test shares: a fixed seed, no display, a cache apart, and a count of skipped tests that is printed even when 0."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest
import torch

os.environ.setdefault("MPLBACKEND", "Agg")


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reads or fills the cache of whoever runs it; a classifier is trained once per session."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KDIFF_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seed() -> None:
    """A test that draws without a generator of its own must not depend on which tests ran before it."""
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    terminalreporter.write_line(f"skipped: {len(terminalreporter.stats.get('skipped', []))}")
