"""kdiff export RUN: write a run as a pipeline of diffusers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdiff.commands.arguments import needed_run, read_config

ABOUT = """Writes a run as a folder that diffusers loads offline. The folder holds a model of the run's velocity, a
flow-matching scheduler, the autoencoder of a run on latents, and a model card. Examples: kdiff export runs/digits; kdiff
export runs/digits --ema none --out digits_diffusers; kdiff export runs/digits --push-to-hub me/digits."""


@dataclass
class ExportConfig:
    """Settings for exporting a run.

    Args:
        to: The format. diffusers is a folder that DiffusionPipeline.from_pretrained(folder, trust_remote_code=True) loads.
        out: The folder to write. If left out, RUN/diffusers. An earlier export in this folder is replaced.
        ema: The decay of the averaged weights to use, or none for the raw weights. If left out, the first decay of the run.
        checkpoint: The step of the checkpoint to use. If left out, the newest checkpoint.
        calibrated: Use the calibration that the run has adopted for these weights (kdiff calibrate). false leaves it out.
        autoencoder: For a run on latents: the place of their autoencoder, if it has moved since the latents were encoded.
        push_to_hub: A name on the Hugging Face hub, owner/name, to which the folder is uploaded as well. A repository that does
            not exist yet is created as a private one. If left out, nothing is uploaded.
    """

    to: Literal["diffusers"] = "diffusers"
    out: str | None = None
    ema: float | str | None = None
    checkpoint: int | None = None
    calibrated: bool = True
    autoencoder: str | None = None
    push_to_hub: str | None = None


def command(argv: list[str]) -> None:
    """Export the run, and print how to load the folder."""
    config, given, _ = read_config("export", ExportConfig, argv, "RUN", about=ABOUT)
    folder = needed_run(given, "export")
    from kdiff.export.diffusers_folder import export, push
    from kdiff.run.run import load_run

    run = load_run(folder, config.checkpoint, config.ema, calibrated=config.calibrated)
    run.autoencoder = config.autoencoder
    out = Path(config.out or Path(folder) / "diffusers")
    export(run, out, **({"place": config.push_to_hub} if config.push_to_hub else {}))
    print(f"{out}: step {run.step}, {run.weights}, target {run.model.target}")
    print(f"Load it by DiffusionPipeline.from_pretrained({str(out)!r}, trust_remote_code=True). Name a licence in README.md.")
    if config.push_to_hub:
        print(push(out, config.push_to_hub))
