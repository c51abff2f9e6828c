"""Write the tables of docs/results/recipes.md from the folder of a study, `kdiff reproduce beyond --full`.

    python tools/recipes_page.py reproductions/beyond docs/results/recipes

Only cells whose runs are all there are in a table. `kdiff.claims.ranks.rank_folder` must have measured the folder before, and
the study must have written its results.json.
"""

from __future__ import annotations

import csv
import json
import math
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kdiff.claims.beyond_analysis import by_seed, chosen, ratios, shown
from kdiff.claims.beyond_cells import CELLS, PAPER, PLAIN, RECIPE, WEIGHTINGS, fixed
from kdiff.claims.beyond_findings import held_out as held_out_cells
from kdiff.claims.beyond_page import spread
from kdiff.claims.beyond_study import CLAIM, judging
from kdiff.claims.claim import Study
from kdiff.config.parts import slug
from kdiff.studies.paired import interval
from kdiff.studies.tables import markdown

RECIPES = {"balanced": RECIPE, "plain": PLAIN, "paper": PAPER}
WAYS = ("clean", "calibrated", "raw", "fast", "euler")  # of the figures of a run
GRID = (0.5, 0.7, 0.8, 0.9, 1.0)


def read(study: Path, cell: str, target: str) -> dict[str, Any] | None:
    """The evaluation of the run with seed 0; None if it is not there."""
    path = study / "runs" / slug(cell) / slug(target) / "seed_0" / "evaluation.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def mean_ratio(ratios: Sequence[float]) -> str:
    """The geometric mean, and of how many."""
    return f"{math.exp(statistics.mean(map(math.log, ratios))):.3f} in geometric mean over {len(ratios)} cells"


def recipes(study: Path, out: Path) -> None:
    """The three recipes on cells of development."""
    rows, lines, against = list[dict[str, Any]](), list[list[str]](), {"plain": list[float](), "paper": list[float]()}
    for cell in CELLS:
        found = {name: run for name, target in RECIPES.items() if (run := read(study, cell, target))}
        if CELLS[cell].part != "development" or len(found) < len(RECIPES):
            continue
        for name, run in found.items():
            for way in WAYS:
                figures = run["figures"][way]
                row = {"cell": cell, "recipe": name, "seed": 0, "k": run["k"], "how": way, "distance": figures["distance"]}
                row |= {"copying": figures["copying"], "adopted": figures.get("adopted", "")}
                rows.append(row | {"floor": run["floor"], "num_samples": run["num_samples"]})
        distance = {name: run["figures"]["clean"]["distance"] for name, run in found.items()}
        for name, logged in against.items():
            logged.append(distance["balanced"] / distance[name])
        calibrated = found["balanced"]["figures"]["calibrated"]
        line = [cell, *(f"{distance[name]:.3g} (k {found[name]['k']:.3f})" for name in RECIPES), f"{against['plain'][-1]:.2f}"]
        line += [f"{calibrated['distance']:.3g}{'' if calibrated['adopted'] else ', not adopted'}"]
        lines.append([*line, f"{found['balanced']['floor']:.3g}"])
    columns = ["cell", *RECIPES, "balanced / plain", "balanced, calibrated", "held-out floor"]
    (out / "development.md").write_text(markdown(columns, lines) + "\n", encoding="utf-8")
    write(out / "development.csv", rows)
    for name, logged in against.items():
        print(f"balanced / {name}: {mean_ratio(logged)}")


def grid(study: Path, out: Path) -> None:
    """The default recipe against the best of a grid of fixed k under three weights."""
    rows, lines, all_ratios = list[dict[str, Any]](), list[list[str]](), list[float]()
    for cell in CELLS:
        runs = {(k, weighting): read(study, cell, fixed(k, weighting)) for weighting in WEIGHTINGS for k in GRID}
        found = {key: run["figures"]["clean"] for key, run in runs.items() if run}
        ours = read(study, cell, RECIPE)
        if CELLS[cell].part != "development" or len(found) < len(runs) or ours is None:
            continue
        rows += [
            {"cell": cell, "k": k, "weighting": weighting, "seed": 0, **found[k, weighting]}
            for weighting in WEIGHTINGS
            for k in GRID
        ]
        best = {weighting: min((found[k, weighting]["distance"], k) for k in GRID) for weighting in WEIGHTINGS}
        recipe = ours["figures"]["clean"]["distance"]
        all_ratios.append(recipe / min(best.values())[0])
        shown = [f"{distance:.3g} (k {k:g})" for distance, k in best.values()]
        lines.append([cell, *shown, f"{recipe:.3g}", f"{all_ratios[-1]:.2f}"])
    columns = ["cell", "best, no weight", "best, `den`", "best, `log`", "balanced", "balanced / best of all"]
    (out / "grid.md").write_text(markdown(columns, lines) + "\n", encoding="utf-8")
    write(out / "grid.csv", rows)
    print(f"balanced / best of the grid: {mean_ratio(all_ratios)}")


def ranks(study: Path, out: Path) -> None:
    """Spearman's rank correlation of every quantity on the cells with the recipes and the grid."""
    with (study / "criterion.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if int(row["targets"]) >= len(GRID) * len(WEIGHTINGS) + len(RECIPES)]
    cells = list(dict.fromkeys(row["cell"] for row in rows))
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        found.setdefault(row["quantity"], {})[row["cell"]] = float(row["rho"])
    means = {quantity: statistics.mean(each.values()) for quantity, each in found.items()}
    lines = [
        [f"`{quantity}`", *(f"{found[quantity][cell]:.2f}" for cell in cells), f"{mean:.2f}"]
        for quantity, mean in sorted(means.items(), key=lambda item: -item[1])
    ]
    names = [cell.replace("_", " ") for cell in cells]
    (out / "criterion.md").write_text(markdown(["quantity", *names, "mean"], lines) + "\n", encoding="utf-8")
    write(out / "criterion.csv", rows)


def finished(folder: Path) -> Study:
    """The study, with the rows of its finished runs."""
    rows = json.loads((folder / "results.json").read_text(encoding="utf-8"))["rows"]
    return Study(CLAIM.jobs(True, folder), rows, full=True)


def held_out(folder: Path, out: Path) -> None:
    """The default recipe on held-out cells, against the best of the grid and the other recipes; and all runs of these cells."""
    study, settings = finished(folder), judging(True)
    lines, wanted = list[list[str]](), list[dict[str, Any]]()
    for cell in held_out_cells(study):
        best = chosen(study, cell, settings.targets, settings.choosing)
        names = [best or "", *RECIPES.values()]
        found = [by_seed(study, cell, name) for name in names]
        if not all({*settings.judging} <= values.keys() for values in found):
            continue
        judged = [spread([values[seed] for seed in settings.judging]) for values in found]
        factors = [shown(interval(ratios(study, cell, RECIPE, name, settings.judging))) for name in (best or "", PLAIN, PAPER)]
        floor = next(row["heldout"] for row in study.rows if row["cell"] == cell and row.get("heldout") is not None)
        lines.append([cell, f"`{best}`".replace("'", ""), *judged, *factors, f"{floor:.3g}"])
        wanted += [row for row in study.rows if row["cell"] == cell]
    columns = ["cell", "best of the grid", "its distance", *RECIPES]
    columns += ["balanced / best", "balanced / plain", "balanced / paper", "held-out floor"]
    (out / "held_out.md").write_text(markdown(columns, lines) + "\n", encoding="utf-8")
    names = ["cell", "target", "seed", "k", "sampler", "measure", "value", "num_samples"]
    write(out / "held_out.csv", [{name: row[name] for name in names} for row in wanted])


def findings(folder: Path, out: Path) -> None:
    """What the study says of its claim, finding by finding."""
    outcome = CLAIM.examine(finished(folder))
    lines = [[one.statement, one.verdict if one.decides else f"({one.verdict})", one.evidence] for one in outcome.findings]
    (out / "findings.md").write_text(markdown(["statement", "verdict", "evidence"], lines) + "\n", encoding="utf-8")
    print("verdict:", outcome.verdict)


if __name__ == "__main__":
    study, out = map(Path, sys.argv[1:3])
    out.mkdir(parents=True, exist_ok=True)
    for table in (recipes, grid, ranks, held_out, findings):
        table(study, out)
    shutil.copyfile(study / "beyond.png", out / "beyond.png")
