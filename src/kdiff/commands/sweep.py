"""kdiff sweep RUN: find out which way of sampling gives the best samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdiff.commands.arguments import needed_run, out_option, own_sampling, read_config
from kdiff.config.studies import SweepConfig

ABOUT = """Samples from a run with every combination of the given values, always from the same noise. Says which combination
is best, which ones are not significantly different from it, and which is the cheapest that is as good. Writes a table, a
picture, CSV and JSON to RUN/sweeps. Options that are left out are as the run's configuration says under `sampling`. The same
command continues a sweep that was interrupted, and does not sample finished combinations again. Examples: kdiff sweep
runs/digits --guidance 1 1.5 2 3 --guidance-interval '[[0, 1], [0.2, 0.9]]'; kdiff sweep runs/digits --solver heun ab3 --steps
5 10 20; kdiff sweep runs/photos --features inception --reference photos64.npz --guidance 1 1.5 2 --num-samples 5000."""


def command(argv: list[str]) -> None:
    """Run the sweep, draw its result, and print its table and verdict."""
    extras = {"out": out_option("The folder for the sweep. If left out, a folder in RUN/sweeps.")}

    def own(run: str) -> dict[str, Any]:
        return {name: [value] for name, value in own_sampling(run).items() if name in SweepConfig.__dataclass_fields__}

    config, folder, further = read_config("sweep", SweepConfig, argv, "RUN", extras, own, about=ABOUT)
    run = Path(needed_run(folder, "sweep"))
    from kdiff.report.sweep_picture import draw_sweep
    from kdiff.studies.sweep_result import table, verdict
    from kdiff.studies.sweeps import sweep

    found, out = sweep(run, config, Path(further["out"]) if further["out"] else None, progress="sweep")
    draw_sweep(out / "sweep.png", found)
    print(f"\n{table(found)}\n\n{verdict(found)}\n")
    print(f"picture    {out / 'sweep.png'}\nfigures    {out / 'sweep.csv'}, {out / 'sweep.json'}")
