"""The command export. Nothing here imports torch before there is work to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kdiff.arguments import read_config


@dataclass
class ExportConfig:
    """How to export a run.

    Args:
        to: diffusers, a folder for DiffusionPipeline.from_pretrained(folder, trust_remote_code=True).
        out: the folder; RUN/diffusers if left out. An earlier export there is replaced.
        ema: decay of the averaged weights; the first configured if left out; none for the raw weights.
        checkpoint: step of the checkpoint; the newest if left out.
        autoencoder: of a run on latents, where their autoencoder lies now, if it has moved since they were encoded.
        push_to_hub: owner/name, to upload the folder to the Hugging Face hub as well, privately if it is new there.
    """

    to: Literal["diffusers"] = "diffusers"
    out: str | None = None
    ema: float | str | None = None
    checkpoint: int | None = None
    autoencoder: str | None = None
    push_to_hub: str | None = None


def export_command(argv: list[str]) -> None:
    """kdiff export RUN."""
    config, folder, _ = read_config("export", ExportConfig, argv, "RUN")
    if folder is None:
        raise ValueError("which run? kdiff export RUN, with the folder that kdiff train made (runs/…)")
    from kdiff.interop.export import export, push
    from kdiff.training.run import load_run

    run = load_run(folder, config.checkpoint, config.ema)
    run.autoencoder = config.autoencoder
    out = Path(config.out or Path(folder) / "diffusers")
    export(run, out, **({"place": config.push_to_hub} if config.push_to_hub else {}))
    print(f"{out}: step {run.step}, {run.weights}, target {run.model.target}")
    print(f"Load it by DiffusionPipeline.from_pretrained({str(out)!r}, trust_remote_code=True); name a licence in README.md")
    if config.push_to_hub:
        print(push(out, config.push_to_hub))
