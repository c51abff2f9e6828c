"""metrics.jsonl: one line of JSON per logging interval, the same bytes for the same run (no clock in it)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdiff.files import finite, write_text


class Averages:
    """Running sums of scalars on their device, read (and waited for) once per logging interval."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add one step's scalars, the same names at every step."""
        new = {name: value.detach().float() for name, value in {**values, "steps": torch.ones(())}.items()}
        # In the order of `values`, also behind a resume: files keep tensors in another, and lines are to repeat byte for byte.
        self.sums = {name: self.sums[name] + value if name in self.sums else value for name, value in new.items()}

    def means(self) -> dict[str, float]:
        """The means since `sums` was last emptied."""
        sums = {name: value.item() for name, value in self.sums.items()}
        steps = sums.pop("steps")
        return {name: value / steps for name, value in sums.items()}


class MetricsFile:
    """Appends lines; after a resume, continues behind `last`, the last line up to the checkpoint's step."""

    def __init__(self, path: Path, resumed_step: int) -> None:
        self.path = path
        kept = [row for row in read_metrics(path) if row["step"] <= resumed_step] if resumed_step else []
        self.last: dict[str, Any] = kept[-1] if kept else {}
        write_text(path, "".join(map(self._line, kept)))

    @staticmethod
    def _line(row: dict[str, Any]) -> str:
        return json.dumps(finite(row)) + "\n"

    def append(self, row: dict[str, Any]) -> None:
        """Add a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(self._line(row))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line cut short by a crash is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
