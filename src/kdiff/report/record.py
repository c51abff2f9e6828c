"""What a run folder tells of a run without its data: settings, curves, pictures, what was measured.

A run that is still training, or whose checkpoint cannot be read, tells what is there.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdiff.components import build, parse
from kdiff.files import read_json
from kdiff.report.run import draw_denoising, draw_samples
from kdiff.training.config import TrainConfig
from kdiff.training.folder import read_run_config
from kdiff.training.metrics import read_metrics
from kdiff.training.run import Run, load_run

PICTURE = re.compile(r"step_(\d{8,})_seed_(\d+)(?:_guidance_([\d.e+-]+?))?(_other_[0-9a-f]{6})?")


@dataclass(frozen=True)
class Picture:
    """A picture of samples: of which step, seed and guidance, and whether other options were given than the run's own; and
    what `kdiff sample` wrote beside it.
    """

    path: Path
    step: int
    seed: int
    guidance: float
    other: bool
    stamp: dict[str, Any]

    @property
    def usual(self) -> bool:
        """Whether it is one of those that training draws, all of the same noise."""
        return self.seed == 0 and self.guidance == 1 and not self.other

    @property
    def how(self) -> str:
        """The weights and the sampler, as far as they were written down, for a caption."""
        options, weights = self.stamp.get("options", {}), self.stamp.get("weights")
        sampler = f", {options['solver']} with {options['steps']} steps" if "solver" in options else ""
        return (f", weights {weights}" if weights else "") + sampler


@dataclass(frozen=True)
class Record:
    """A run as its folder tells it; `run` is None, and `problem` why, if there is no checkpoint that can be read.

    `other_weights` is what start.json says of those that it began with, empty where they were drawn.
    """

    folder: Path
    config: TrainConfig
    data: dict[str, Any]
    environment: dict[str, Any]
    rows: list[dict[str, Any]]
    other_weights: dict[str, Any]
    seconds: float | None
    run: Run | None
    problem: str | None

    @property
    def name(self) -> str:
        """The folder's."""
        return self.folder.resolve().name

    @property
    def last(self) -> dict[str, Any]:
        """The last line of metrics."""
        return self.rows[-1] if self.rows else {}

    @property
    def target(self) -> str:
        """As configured."""
        return str(parse(self.config.target))

    @property
    def start(self) -> dict[str, Any]:
        """What the target was before the first step, as a line of metrics: with other weights to start from, as they had it."""
        drawn = build("target", self.config.target).state()
        return {"step": 0, **{name: self.other_weights.get(name, value) for name, value in drawn.items()}}

    @property
    def pictures(self) -> list[Picture]:
        """Of samples, by step."""
        found = []
        for path in sorted((self.folder / "samples").glob("step_*.png")):
            if match := PICTURE.fullmatch(path.stem):
                stamp = path.with_name(path.stem + ".json")
                facts = read_json(stamp) if stamp.exists() else {}
                found.append(Picture(path, int(match[1]), int(match[2]), float(match[3] or 1), bool(match[4]), facts))
        return found

    def points(self, name: str) -> list[tuple[float, float | None]]:
        """A column of the metrics over the steps."""
        return [(row["step"], row.get(name)) for row in self.rows]


def read_record(folder: Path) -> Record:
    """Read a run folder, and draw what `kdiff train` draws of the newest checkpoint if it is not there.

    Raises:
        ValueError: no run folder, or damaged files other than checkpoints.
    """
    config = read_run_config(folder, TrainConfig)
    finished, environment, start = (folder / f"{name}.json" for name in ("finished", "environment", "start"))
    run, problem = None, None
    try:
        run = load_run(folder)
        _complete(run)
    except (ValueError, OSError) as error:
        problem = str(error)
    return Record(
        folder,
        config,
        read_json(folder / "data.json"),
        read_json(environment) if environment.exists() else {},
        read_metrics(folder / "metrics.jsonl"),
        read_json(start) if start.exists() else {},
        read_json(finished)["seconds"] if finished.exists() else None,
        run,
        problem,
    )


def _complete(run: Run) -> None:
    """Runs of a comparison have no pictures of their own, and unfinished ones not yet."""
    if not (run.folder / "denoising.png").exists():
        draw_denoising(run)
    if not (run.folder / "samples" / f"step_{run.step:08d}_seed_0.png").exists():
        draw_samples(run)


def names(first: Record, second: Record) -> tuple[str, str]:
    """Two runs' names: as much of the end of their folders' paths as tells them apart."""
    one, two = first.folder.resolve().parts, second.folder.resolve().parts
    for length in range(1, max(len(one), len(two)) + 1):
        if one[-length:] != two[-length:]:
            return "/".join(one[-length:]), "/".join(two[-length:])
    raise ValueError(f"{first.folder} and {second.folder} are one run; expected another to compare with")
