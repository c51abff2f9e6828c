"""kdiff train-autoencoder DATA: train a small autoencoder of images."""

from __future__ import annotations

import shlex
from pathlib import Path

from kdiff.commands.arguments import RESUME, check_data_given, out_option, read_config
from kdiff.config.autoencoding import AutoencoderConfig
from kdiff.config.parts import data_name

ABOUT = """Trains a small autoencoder of images (diffusers' AutoencoderKL) and writes it to a run folder,
runs/DATA_autoencoder. With the default channels, the side of a latent is a quarter of the side of its image. Examples: kdiff
train-autoencoder fashion; kdiff train-autoencoder photos/ --data.size 64 --channels 32 64 128 128."""


def command(argv: list[str]) -> None:
    """Train the autoencoder, draw reconstructions, and print what to do next."""
    extras = {"out": out_option("The run folder. If left out, runs/DATA_autoencoder."), "resume": RESUME}
    config, data, further = read_config("train-autoencoder", AutoencoderConfig, argv, "DATA", extras, about=ABOUT)
    check_data_given(data, argv, "kdiff train-autoencoder DATA, for example: kdiff train-autoencoder fashion")
    from accelerate import PartialState

    from kdiff.report.reconstructions import draw_reconstructions
    from kdiff.training.small_autoencoder import train_autoencoder

    out = Path(further["out"] or Path("runs") / f"{data_name(config.data)}_autoencoder")
    trained = train_autoencoder(config, out, resume=further["resume"], progress="training")
    if not PartialState().is_main_process:
        return
    picture, quality = draw_reconstructions(out, trained.autoencoder, trained.dataset), trained.facts["heldout"]
    shape = trained.autoencoder.latent_shape(trained.dataset.shape)
    print(f"\n{out}: latents {shape} of images {trained.dataset.shape}")
    print(f"held-out images are reconstructed with a PSNR of {quality['psnr']:.4g} dB")
    print(f"picture    {picture}\nNext: {shlex.join(['kdiff', 'encode', str(config.data), '--autoencoder', str(out)])}")
