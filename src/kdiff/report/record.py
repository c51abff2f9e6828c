"""What a run folder tells about a run without its data: settings, curves, pictures and measured values.

A run that is still training, or whose checkpoint cannot be read, gives the parts that exist.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdiff.config.training import TrainConfig
from kdiff.files.atomic import read_json
from kdiff.report.run_pictures import draw_denoising, draw_samples
from kdiff.run.checkpoint import recorded
from kdiff.run.contents import BACK_OR_RENAME, ENVIRONMENT, STAMP, read_data, read_finished, read_start
from kdiff.run.folder import read_run_config
from kdiff.run.metrics import read_metrics
from kdiff.run.run import Run, load_run, target_at_start
from kdiff.targets import Description

PICTURE = re.compile(r"step_(\d{8,})_seed_(\d+)(?:_guidance_([\d.e+-]+?))?(_other_[0-9a-f]{6})?")


@dataclass(frozen=True)
class Picture:
    """A picture of samples with its step, seed and guidance.

    `other` says whether it was drawn with options other than the run's own. `stamp` is what `kdiff sample` wrote beside it.
    """

    path: Path
    step: int
    seed: int
    guidance: float
    other: bool
    stamp: dict[str, Any]

    @property
    def usual(self) -> bool:
        """Whether the picture is one that training draws, always from the same noise."""
        return self.seed == 0 and self.guidance == 1 and not self.other

    @property
    def how(self) -> str:
        """The end of a caption: the weights and the sampler, as far as the stamp has them."""
        options, weights = self.stamp.get("options", {}), self.stamp.get("weights")
        sampler = f", solver {options['solver']} with {options['steps']} steps" if {"solver", "steps"} <= options.keys() else ""
        calibrated = ", calibrated" if self.stamp.get("calibrated") else ""
        return (f", weights {weights}" if weights else "") + calibrated + sampler


@dataclass(frozen=True)
class Record:
    """A run as its folder describes it.

    If no checkpoint can be read, `run` is None and `problem` says why. `first` describes the target before the first step.
    `other_weights` is the content of start.json about the weights that training began with; it is empty if they were random.
    """

    folder: Path
    config: TrainConfig
    data: dict[str, Any]
    environment: dict[str, Any]
    rows: list[dict[str, Any]]
    first: Description
    other_weights: dict[str, Any]
    seconds: float | None
    run: Run | None
    problem: str | None

    @property
    def name(self) -> str:
        """The name of the run's folder."""
        return self.folder.resolve().name

    @property
    def last(self) -> dict[str, Any]:
        """The last line of metrics."""
        return self.rows[-1] if self.rows else {}

    @property
    def target(self) -> str:
        """The target as it was configured."""
        return str(self.config.target)

    @property
    def start(self) -> dict[str, Any]:
        """The target's numbers before the first step, as a line of metrics."""
        return {"step": 0, **self.first.scalars}

    @property
    def main(self) -> str | None:
        """The name of the target's main number; None if it has none."""
        return next(iter(self.first.scalars), None)

    @property
    def pictures(self) -> list[Picture]:
        """The pictures of samples, in order of their steps."""
        found = []
        for path in sorted((self.folder / "samples").glob("step_*.png")):
            if match := PICTURE.fullmatch(path.stem):
                stamp = read_optional(path.with_suffix(".json"), STAMP)
                found.append(Picture(path, int(match[1]), int(match[2]), float(match[3] or 1), bool(match[4]), stamp))
        return found

    def points(self, name: str) -> list[tuple[float, float | None]]:
        """The logged values of a number, as pairs of step and value. A number of the target begins at step 0."""
        rows = [self.start, *self.rows] if name in self.first.scalars else self.rows
        return [(row["step"], row.get(name)) for row in rows]


def read_optional(path: Path, schema: dict[Any, Any]) -> dict[str, Any]:
    """The content of a JSON file, checked by a schema; empty if there is no such file."""
    return read_json(path, schema, BACK_OR_RENAME) if path.exists() else {}


def read_record(folder: Path) -> Record:
    """Read a run folder. Pictures that `kdiff train` draws from the newest checkpoint are drawn if they are missing.

    Raises:
        ValueError: `folder` is not a run folder, or files other than checkpoints are damaged.
    """
    config = read_run_config(folder, TrainConfig)
    run, problem = None, None
    try:
        run = load_run(folder)
        _complete(run)
    except (ValueError, OSError) as error:
        problem = str(error)
    data, rows, first = read_data(folder, recorded(folder)), read_metrics(folder / "metrics.jsonl"), target_at_start(folder)
    environment, start = read_optional(folder / "environment.json", ENVIRONMENT), read_start(folder)
    seconds = read_finished(folder)["seconds"] if (folder / "finished.json").exists() else None
    return Record(folder, config, data, environment, rows, first, start, seconds, run, problem)


def _complete(run: Run) -> None:
    """Draw missing pictures: the runs of a comparison have none, and unfinished runs have none yet."""
    if not (run.folder / "denoising.png").exists():
        draw_denoising(run)
    if not (run.folder / "samples" / f"step_{run.step:08d}_seed_0.png").exists():
        draw_samples(run)


def names(first: Record, second: Record) -> tuple[str, str]:
    """The names of two runs: the shortest ends of their paths that differ.

    Raises:
        ValueError: both are the same run.
    """
    one, two = first.folder.resolve().parts, second.folder.resolve().parts
    for length in range(1, max(len(one), len(two)) + 1):
        if one[-length:] != two[-length:]:
            return "/".join(one[-length:]), "/".join(two[-length:])
    raise ValueError(f"{first.folder} and {second.folder} are the same run; expected two different runs to compare")
