"""metrics.jsonl: one line of JSON per logging interval. The same run writes the same bytes, because no line holds a time.

The same numbers can be written as TensorBoard events. The events are a copy: they are written again when a run is resumed.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdiff.files.atomic import Damaged, digest, finite, write_text
from kdiff.files.schema import problem
from kdiff.run.checkpoint import NotSaved, list_checkpoints, read_state, record_again, recorded
from kdiff.run.contents import ROW


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
        write_text(path, "".join(map(self.line, kept)))
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
    def line(row: dict[str, Any]) -> str:
        """The line of the file for a row."""
        return json.dumps(finite(row)) + "\n"

    def append(self, row: dict[str, Any]) -> None:
        """Add a line and wait until it is on the disk, so that every checkpoint has its lines. Raises NotSaved on failure."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(self.line(row))
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
    """The rows of a metrics file. A last line that a crash cut short is left out.

    Raises:
        Damaged: another line is damaged, or the file has changed since the newest checkpoint was written.
    """
    known = recorded(path.parent).get(path.name, {"bytes": 0})  # read first, because a run that trains only adds lines
    content = path.read_bytes() if path.exists() else b""
    back = "restore it from a copy, or resume the run (--resume), which sets the file aside and keeps its whole lines"
    rows, wrong = _rows(content)
    if wrong:
        raise Damaged(f"{path} is damaged in {wrong[0]}", back)
    if len(content) < known["bytes"]:
        found = f"has {len(content)} bytes" if path.exists() else "is missing"
        raise Damaged(f"{path} {found}; expected at least the {known['bytes']} that the newest checkpoint recorded", back)
    if known["bytes"] and digest(content[: known["bytes"]]) != known["blake2b"]:
        raise Damaged(f"{path} is damaged: its lines have changed since the newest checkpoint was written", back)
    return rows


def _rows(content: bytes) -> tuple[list[dict[str, Any]], list[str]]:
    """The rows in the bytes of a metrics file, and what is wrong with each line that is none."""
    rows: list[dict[str, Any]] = []
    wrong: list[str] = []
    *lines, last = content.split(b"\n")
    for number, line in enumerate([*lines, last] if last else lines, 1):
        try:
            row = json.loads(line.decode("utf-8"))
            found = problem(row, ROW)
        except (ValueError, RecursionError) as error:
            if number > len(lines):  # a crash cut it short
                break
            row, found = {}, f"it is not valid JSON ({getattr(error, 'msg', error)})"
        if not found and rows and row["step"] <= rows[-1]["step"]:
            found = f"its step is {row['step']}, after step {rows[-1]['step']}"
        if found:
            wrong.append(f"line {number}: {found}")
        else:
            rows.append(row)
    return rows, wrong


def mend_metrics(path: Path) -> str:
    """If a metrics file is damaged, copy it, and replace it by one with the lines that are whole.

    Returns a message that says what was wrong and what was done; it is empty if nothing was wrong.
    """
    try:
        read_metrics(path)
    except Damaged as error:
        problem_found = error.what
    else:
        return ""
    rows, wrong = _rows(path.read_bytes() if path.exists() else b"")
    names = (path.with_name(f"damaged_{f'{i}_' if i else ''}{path.name}") for i in itertools.count())
    aside = next(name for name in names if not name.exists())
    if path.exists():
        shutil.copyfile(path, aside)  # and not renamed: killed before the next line, the run would have lost its history
    text = [(row["step"], MetricsFile.line(row)) for row in rows]
    write_text(path, "".join(line for _, line in text))
    for checkpoint in list_checkpoints(path.parent / "checkpoints"):
        with contextlib.suppress(ValueError):
            step = read_state(checkpoint)["step"]
            content = "".join(line for at, line in text if at <= step).encode()
            record_again(checkpoint, **{path.name: {"bytes": len(content), "blake2b": digest(content)}})
    also = f", and {len(wrong) - 1} more lines" if len(wrong) > 1 else ""
    kept = f"; copied to {aside.name}" if aside.exists() else ""
    return f"{problem_found}{also}{kept}; the {len(rows)} whole lines are kept in a new {path.name}"
