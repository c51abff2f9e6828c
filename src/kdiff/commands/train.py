"""kdiff train [CONFIG]: train a model and write it to a run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdiff.commands.arguments import RESUME, flag, out_option, read_config
from kdiff.config.parts import data_name
from kdiff.config.training import TrainConfig

ABOUT = """Trains one model and writes it to a run folder, runs/DATA, with its configuration, metrics, checkpoints and
pictures. CONFIG is a YAML file, or the name of a configuration that comes with kdiff (digits, …). Examples: kdiff train
digits; kdiff train --data vectors.npz --network.width 512 --steps 20000; kdiff train my.yaml --seed 1 --out runs/second."""


def command(argv: list[str]) -> None:
    """Train the model, draw the run, and print what to do next."""
    extras: dict[str, dict[str, Any]] = {
        "out": out_option("The run folder. If left out, runs/DATA."),
        "resume": RESUME,
        "dry_run": flag("Take two real steps of the whole model on 2 made-up samples, and stop."),
    }
    config, _, further = read_config("train", TrainConfig, argv, "[CONFIG]", extras, about=ABOUT)
    if further["dry_run"]:
        _dry_run(config)
        return
    from accelerate import PartialState

    from kdiff.report.run_pictures import SampleGrids, draw_run
    from kdiff.training.trainer import train_run

    out = Path(further["out"] or Path("runs") / data_name(config.data))
    run = train_run(config, out, resume=further["resume"], progress="training", on_sample=SampleGrids())
    if not PartialState().is_main_process:
        return
    pictures = draw_run(run)
    loss = "".join(f"loss {row['loss']:.4g}, " for row in run.metrics()[-1:])
    print(f"\n{out}: {run.step} steps, {loss}target {run.model.target}")
    print("".join(f"picture    {path}\n" for path in pictures), end="")
    print(f"Next: kdiff sample {out}, kdiff evaluate {out}, kdiff calibrate {out}")


def _dry_run(config: TrainConfig) -> None:
    from kdiff.training.cost import dry_run, peak_memory

    fitted = dry_run(config)
    found = ", ".join(f"{name} {value:.4g}" for name, value in fitted.headline.items())
    print(f"2 steps of 2 made-up samples: {found}, {fitted.seconds / 2:.3g} s a step, {peak_memory() / 1e9:.3g} GB at most")
