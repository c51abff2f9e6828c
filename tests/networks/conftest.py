"""Reference fixtures: what the official implementations computed, kept outside the repository."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from torch import Tensor

BESIDE_THE_REPOSITORY = Path(__file__).resolve().parents[3] / "shared" / "fixtures"


@dataclass
class Reference:
    tensors: dict[str, Tensor]
    metadata: dict[str, str]

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def below(self, prefix: str) -> dict[str, Tensor]:
        """The tensors called `prefix.<key>`, by key."""
        return {name.removeprefix(f"{prefix}."): value for name, value in self.tensors.items() if name.startswith(f"{prefix}.")}

    def read(self, name: str) -> Any:
        return json.loads(self.metadata[name])


@pytest.fixture
def reference() -> Callable[[str], Reference]:
    """Reads a file of reference numbers by name, or skips the test where they are not at hand."""
    folder = Path(os.environ.get("KDIFF_FIXTURES") or BESIDE_THE_REPOSITORY)

    def read(name: str) -> Reference:
        path = folder / f"{name}.safetensors"
        if not path.is_file():
            pytest.skip(f"no reference numbers: {path.name} is not in {folder}; set KDIFF_FIXTURES to their folder")
        with safe_open(path, "pt") as file:
            return Reference({key: file.get_tensor(key) for key in file.keys()}, file.metadata())  # noqa: SIM118

    return read
