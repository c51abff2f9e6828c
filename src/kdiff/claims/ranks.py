"""Which cheap quantity ranks targets as the quality of their samples does? Rank correlations over the runs of a cell.

The quantities are those of `kdiff.evaluation.criterion`. They are computed once for each finished run, from its averaged
weights, and kept in the run folder in criterion.json. For the targets of one cell and seed, Spearman's ρ is the correlation of
the ranks by a quantity and by the distance of the samples: 1 if the quantity orders the targets as the samples do, −1 if it
orders them backwards. The figure of a cell is the mean of ρ over seeds, with the standard deviation. p is the share of 1,999
random orders of the targets, the same for all seeds, whose mean ρ is at least as far from 0. The regret is what a user loses
who trusts the quantity: the distance of the target with the lowest value over the distance of the best target, the geometric
mean over seeds.
"""

from __future__ import annotations

import csv
import io
import math
import statistics
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from kdiff.claims.claim import Study
from kdiff.claims.quality import plane_dim, quality_rows
from kdiff.config.parts import parse
from kdiff.config.recipes import without_weighting
from kdiff.config.training import TrainConfig
from kdiff.evaluation.criterion import Probe
from kdiff.files.atomic import read_json, write_json, write_text
from kdiff.run.build import load_dataset
from kdiff.run.contents import read_evaluation
from kdiff.run.run import load_run
from kdiff.studies.tables import counted_seeds, deviation, markdown, with_spread

FILE = "criterion.json"
VERSION = 1  # of the quantities; another one is computed again
PERMUTATIONS = 1999
SIGNIFICANT = 0.05
LEAST = 3  # targets of a cell
KEYS = ("cell", "target", "seed", "quality")  # of a row; all other numbers of it are quantities
KEPT = {"stamp": {...: object}, "quantities": {...: (float, None)}, "seconds": float}


@lru_cache(maxsize=1)
def probe_of(data: str) -> Probe:
    """The probe of a data set, given by its name; the last one is kept, so go through the runs cell by cell."""
    return Probe.of(load_dataset(TrainConfig(data=data)))


def measured(folder: Path) -> dict[str, float]:
    """The quantities of a run without its calibration, from its criterion.json, or computed now and written there.

    Raises:
        ValueError: this is no run folder, or one of its files is damaged.
    """
    run, path = load_run(folder), folder / FILE
    stamp = {"version": VERSION, "step": run.step, "weights": run.weights, "data": run.data["fingerprint"]}
    run.model.calibration = None  # the distances of the study are those of samples without one, too
    if path.exists():
        found = read_json(path, KEPT, "remove it, and the quantities are computed again")
        if found["stamp"] == stamp:
            # JSON has no infinity, which stands for samples or errors that are not finite.
            return {name: math.inf if value is None else value for name, value in found["quantities"].items()}
    probe, started = probe_of(str(run.config.data)), time.perf_counter()
    quantities = probe.measure(run.model, run.class_counts)
    run.place.check()
    write_json(path, {"stamp": stamp, "quantities": quantities, "seconds": time.perf_counter() - started})
    return quantities


def criterion_rows(study: Study, cells: Iterable[str], heldout: bool = True) -> list[dict[str, Any]]:
    """A row for each run of the cells: cell, target, seed, quality (the distance of its samples), and all quantities.

    `heldout`: compare labelled images with held-out images, which copies of training images do not resemble more.
    """
    rows = []
    for cell in cells:
        for found in quality_rows(study, cell, heldout):
            if found["sampler"] == "clean":
                quality = math.inf if found["value"] is None else found["value"]
                folder = study.folder(cell, found["target"], found["seed"])
                named = dict(zip(KEYS, (cell, found["target"], found["seed"], quality)))
                rows.append({**named, **measured(folder)})
    return rows


def folder_rows(out: Path, cells: Iterable[str] = ()) -> list[dict[str, Any]]:
    """The same rows from the finished runs in the folder of a study, whether the study is finished or not.

    A cell has the name of its folder. If `cells` is given, only cells whose name begins with one of these count.
    """
    rows = []
    for path in sorted(out.glob("runs/*/*/seed_*/evaluation.json")):
        cell = path.parts[-4]
        if cells and not cell.startswith(tuple(cells)):
            continue
        found = read_evaluation(path)
        config = found["job"]["config"]
        named = dict(zip(KEYS, (cell, str(parse(config["target"])), config["seed"], _quality(found))))
        rows.append({**named, **measured(path.parent)})
    return rows


def _quality(evaluation: Mapping[str, Any]) -> float:
    """The distance of the clean samples of one run; infinite if they were not finite."""
    if "figures" in evaluation:  # of a study that judges by one number
        value = evaluation["figures"]["clean"]["distance"]
        return math.inf if value is None else value
    figures = {name: figure["value"] for name, figure in evaluation["samplers"]["clean"]["figures"].items()}
    if "off_manifold" in figures:
        p = plane_dim(str(parse(evaluation["job"]["config"]["data"])))
        return math.sqrt(p * figures["sliced_wasserstein"] ** 2 + figures["off_manifold"] ** 2)
    return figures.get("frechet_heldout", figures["sliced_wasserstein"])


def rank_folder(out: str | Path, cells: Iterable[str] = ()) -> str:
    """Write OUT/criterion.csv and OUT/criterion.md for the finished runs of a study, and return the table as Markdown.

    Quantities that a run folder keeps are not computed again, so this can be called while the study goes on.

        python -c "from kdiff.claims.ranks import rank_folder; print(rank_folder('runs/beyond'))"
    """
    out = Path(out)
    rows = folder_rows(out, cells)
    ranks = rank_table(_several(rows))
    split = rank_table(_several(within_weightings(rows)))
    text = f"All targets of a cell:\n\n{ranks_markdown(ranks)}\n"
    if split:
        text += f"\nThe targets of one weighting:\n\n{ranks_markdown(split)}\n"
    write_text(out / "criterion.csv", ranks_csv([*ranks, *split]))
    write_text(out / "criterion.md", text)
    return text


def _several(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of the first seed of each cell, of cells with at least three targets."""
    first = {cell: min(row["seed"] for row in rows if row["cell"] == cell) for cell in {row["cell"] for row in rows}}
    chosen = [row for row in rows if row["seed"] == first[row["cell"]]]
    return [row for row in chosen if sum(row["cell"] == other["cell"] for other in chosen) >= LEAST]


def within_weightings(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same rows with a cell for each weighting that targets name, as in `0.8(weighting=log)`."""
    found = []
    for row in rows:
        part, weighting = without_weighting(row["target"])
        cell = f"{row['cell']}, weighting {weighting}" if weighting else row["cell"]
        found.append({**row, "cell": cell, "target": str(part)})
    return found


@dataclass(frozen=True)
class Rank:
    """How a quantity ranks the targets of a cell.

    `rho` is the mean over seeds of Spearman's ρ, `spread` its standard deviation (NaN for one seed), `p` the share of random
    orders that are as far from 0. `picked` is the target with the lowest value by the mean rank over seeds; `regret` the
    geometric mean over seeds of the distance of each seed's own pick over that of the best target.
    """

    cell: str
    quantity: str
    targets: int
    seeds: int
    rho: float
    spread: float
    p: float
    picked: str
    regret: float


def rank_table(rows: Sequence[Mapping[str, Any]]) -> list[Rank]:
    """The ranks of every quantity in every cell.

    Args:
        rows: one for each run: cell, target, seed, quality (lower is better), and any quantities by name. Targets that are
            missing for some seed of a cell, and quantities that are missing in some run of a cell, are left out there.

    Raises:
        ValueError: fewer than three targets in a cell.
    """
    found = []
    for cell in dict.fromkeys(row["cell"] for row in rows):
        of_run = {(row["target"], row["seed"]): row for row in rows if row["cell"] == cell}
        seeds = sorted({seed for _, seed in of_run})
        targets = [t for t in dict.fromkeys(t for t, _ in of_run) if all((t, seed) in of_run for seed in seeds)]
        if len(targets) < LEAST:
            raise ValueError(f"{cell} has the runs {sorted(of_run)}; expected at least three targets with all seeds")
        grid = [[of_run[target, seed] for target in targets] for seed in seeds]
        names = [name for name in grid[0][0] if name not in KEYS and all(name in row for line in grid for row in line)]
        quality = np.array([[row["quality"] for row in line] for line in grid], dtype=float)
        for name in names:
            values = np.array([[row[name] for row in line] for line in grid], dtype=float)
            found.append(_rank(cell, name, targets, values, quality))
    return found


def _rank(cell: str, quantity: str, targets: list[str], values: np.ndarray, quality: np.ndarray) -> Rank:
    """Both arrays are (seeds, targets)."""
    ours, theirs = _standard(values), _standard(quality)
    by_seed = (ours * theirs).sum(1)
    generator = np.random.default_rng(0)
    orders = generator.permuted(np.tile(np.arange(len(targets)), (PERMUTATIONS, 1)), axis=1)
    by_chance = np.einsum("spt,st->p", ours[:, orders], theirs) / len(values)
    rho = float(by_seed.mean())
    as_far = int((np.abs(by_chance) >= abs(rho) - 1e-12).sum())
    losses = [
        math.log(line[pick] / line.min()) if math.isfinite(line[pick]) else math.inf
        for line, pick in zip(quality, values.argmin(1))
    ]
    return Rank(
        cell,
        quantity,
        len(targets),
        len(values),
        rho,
        deviation(by_seed.tolist()),
        (1 + as_far) / (1 + PERMUTATIONS),
        targets[int(ours.mean(0).argmin())],
        math.exp(statistics.mean(losses)),
    )


def _standard(values: np.ndarray) -> np.ndarray:
    """The ranks of each line (ties share the mean rank), centred and of length 1; 0 if all values are equal."""
    ranks = rankdata(values, axis=1)
    ranks -= ranks.mean(1, keepdims=True)
    return ranks / np.maximum(np.linalg.norm(ranks, axis=1, keepdims=True), 1e-12)


def ranks_markdown(ranks: Sequence[Rank]) -> str:
    """A table with a line for each quantity, the best first: ρ and the regret in every cell, and the means over cells.

    An asterisk marks ρ that few random orders reach (p < 0.05).
    """
    cells = list(dict.fromkeys(rank.cell for rank in ranks))
    lines = []
    for quantity in dict.fromkeys(rank.quantity for rank in ranks):
        of_cell = {rank.cell: rank for rank in ranks if rank.quantity == quantity}
        mean = statistics.mean(rank.rho for rank in of_cell.values())
        regret = math.exp(statistics.mean(math.log(rank.regret) for rank in of_cell.values()))
        lowest = min(rank.rho for rank in of_cell.values())
        said = [_said(of_cell[cell]) if cell in of_cell else "" for cell in cells]
        lines.append((mean, [quantity, *said, f"{mean:+.2f}", f"{lowest:+.2f}", f"{regret:.3g}"]))
    counted = {rank.cell: f"{rank.cell} ({rank.targets} targets, {counted_seeds(rank.seeds)})" for rank in ranks}
    header = ["quantity", *(counted[cell] for cell in cells), "mean ρ", "lowest ρ", "mean regret"]
    return markdown(header, [line for _, line in sorted(lines, key=lambda pair: -pair[0])])


def _said(rank: Rank) -> str:
    spread = with_spread(rank.rho, rank.spread)
    return f"{spread}{'*' * (rank.p < SIGNIFICANT)}, regret {rank.regret:.3g}"


def ranks_csv(ranks: Sequence[Rank]) -> str:
    """The ranks as CSV, one line each."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Rank)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(rank) for rank in ranks)
    return text.getvalue()
