"""metrics.jsonl: one line of JSON per logging interval, the same bytes for the same run (no clock in it).

For TensorBoard the same numbers are written as events. They are a copy: on resuming, the events are made anew from the lines.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdiff.files import finite, write_text
from kdiff.training.checkpoint import NotSaved


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
    """Appends lines; after a resume, continues behind `last`, the last line up to the checkpoint's step.

    Args:
        path: the file.
        resumed_step: the step of the checkpoint; 0 for a run that begins.
        tensorboard: the folder for TensorBoard's events; None for none. What is there is replaced.
    """

    def __init__(self, path: Path, resumed_step: int, tensorboard: Path | None = None) -> None:
        self.path = path
        kept = [row for row in read_metrics(path) if row["step"] <= resumed_step] if resumed_step else []
        self.last: dict[str, Any] = kept[-1] if kept else {}
        write_text(path, "".join(map(self._line, kept)))
        self._events: Any = None
        if tensorboard:
            check_tensorboard()
            from torch.utils.tensorboard import SummaryWriter

            shutil.rmtree(tensorboard, ignore_errors=True)
            self._events = SummaryWriter(str(tensorboard))
            for row in kept:
                self._add_events(row)
            self._events.flush()

    @staticmethod
    def _line(row: dict[str, Any]) -> str:
        return json.dumps(finite(row)) + "\n"

    def append(self, row: dict[str, Any]) -> None:
        """Add a line, on the disk before this returns: a checkpoint that is there has its lines.

        Raises:
            NotSaved: the disk is full, or the file cannot be written for another reason.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self._line(row))
                file.flush()
                os.fsync(file.fileno())
            if self._events:
                self._add_events(row)
                self._events.flush()
        except OSError as error:
            raise NotSaved(f"{self.path} could not be written: {error}. Make room and go on with --resume") from error

    def _add_events(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and value is not None:
                self._events.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Close the events."""
        if self._events:
            self._events.close()


def check_tensorboard() -> None:
    """Raises ValueError where the package is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError("tensorboard is true, but the package is not installed; pip install 'kdiff[tensorboard]' installs it")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file; a last line cut short by a crash is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
