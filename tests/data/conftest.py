"""Tests of data keep what they cache to themselves."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("KDIFF_CACHE", str(folder))
    monkeypatch.delenv("KDIFF_DATA", raising=False)
    return folder
