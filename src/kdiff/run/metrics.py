"""metrics.jsonl: one line of JSON per logging interval. The same run writes the same bytes, because no line holds a time.

The same numbers can be written as TensorBoard events. The events are a copy: they are written again when a run is resumed.
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

from kdiff.files.atomic import finite, write_text
from kdiff.run.checkpoint import NotSaved


class Averages:
    """Running sums of scalars. They stay on their device and are read once per logging interval, which waits for the device."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add the scalars of one step. Their names must be the same at every step."""
        new = {name: value.detach().float() for name, value in {**values, "steps": torch.ones(())}.items()}
        # Keep the order of `values` after a resume too. Files store tensors in another order, but lines must repeat exactly.
        self.sums = {name: self.sums[name] + value if name in self.sums else value for name, value in new.items()}

    def means(self) -> dict[str, float]:
        """The means of the scalars since `sums` was last emptied."""
        sums = {name: value.item() for name, value in self.sums.items()}
        steps = sums.pop("steps")
        return {name: value / steps for name, value in sums.items()}


class MetricsFile:
    """The metrics file of a run, to which lines are appended. `last` is the last line that was kept when the run resumed.

    Args:
        path: the file.
        resumed_step: the step of the checkpoint that the run resumes from; later lines are removed. 0 for a run that begins.
        tensorboard: the folder for TensorBoard events, whose content is replaced; None writes no events.
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
        """Add a line and wait until it is on the disk, so that every checkpoint has its lines. Raises NotSaved on failure."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self._line(row))
                file.flush()
                os.fsync(file.fileno())
            if self._events:
                self._add_events(row)
                self._events.flush()
        except OSError as error:
            raise NotSaved(f"{self.path} could not be written: {error}. Make room and continue with --resume") from error

    def _add_events(self, row: dict[str, Any]) -> None:
        for name, value in row.items():
            if name != "step" and value is not None:
                self._events.add_scalar(name, value, row["step"])

    def close(self) -> None:
        """Close the file of TensorBoard events."""
        if self._events:
            self._events.close()


def check_tensorboard() -> None:
    """Raise ValueError if the package tensorboard is not installed."""
    if importlib.util.find_spec("tensorboard") is None:
        raise ValueError("tensorboard is true, but the package is not installed; type pip install 'kdiff[tensorboard]'")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file. A last line that a crash cut short is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows
