"""The commands for latents: train-autoencoder and encode. Nothing here imports torch before there is work to do."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from kdiff.arguments import check_data_given, data_name, read_config
from kdiff.components import parse
from kdiff.training.latent_config import AutoencoderConfig, EncodeConfig


def train_autoencoder_command(argv: list[str]) -> None:
    """kdiff train-autoencoder DATA."""
    extras: dict[str, dict[str, Any]] = {
        "out": {"type": str, "default": None, "help": "the run folder; runs/DATA_autoencoder if left out"},
        "resume": {"action": "store_true", "help": "go on from the newest checkpoint of the run folder"},
    }
    config, data, further = read_config("train-autoencoder", AutoencoderConfig, argv, "DATA", extras)
    check_data_given(data, argv, "kdiff train-autoencoder DATA, for example: kdiff train-autoencoder fashion")
    from accelerate import PartialState

    from kdiff.report.latents import draw_reconstructions
    from kdiff.training.autoencoder import train_autoencoder

    out = Path(further["out"] or Path("runs") / f"{data_name(config.data)}_autoencoder")
    trained = train_autoencoder(config, out, resume=further["resume"], progress="training")
    if not PartialState().is_main_process:
        return
    picture, quality = draw_reconstructions(out, trained.autoencoder, trained.dataset), trained.facts["heldout"]
    shape = trained.autoencoder.latent_shape(trained.dataset.shape)
    print(f"\n{out}: latents {shape} of images {trained.dataset.shape}; held-out images come back at {quality['psnr']:.4g} dB")
    print(f"picture    {picture}\nNext: {shlex.join(['kdiff', 'encode', str(parse(config.data)), '--autoencoder', str(out)])}")


def encode_command(argv: list[str]) -> None:
    """kdiff encode DATA --autoencoder A."""
    extras = {"out": {"type": str, "default": None, "help": "folder for the latents; latents/DATA if left out"}}
    config, data, further = read_config("encode", EncodeConfig, argv, "DATA", extras)
    check_data_given(data, argv, "kdiff encode DATA --autoencoder FOLDER, for example: kdiff encode fashion --autoencoder …")
    from accelerate import PartialState

    from kdiff.report.latents import draw_reconstructions
    from kdiff.training.encode import decoder, encode

    out = Path(further["out"] or Path("latents") / data_name(config.data))
    manifest, dataset = encode(config, out, progress="encoding")
    if not PartialState().is_main_process:
        return
    autoencoder = manifest["autoencoder"]
    picture = draw_reconstructions(out, decoder(autoencoder["source"], autoencoder["identity"]), dataset)
    shapes = f"{tuple(manifest['shape'])} of images {tuple(manifest['source']['shape'])}"
    print(f"\n{out}: {manifest['num_samples']} latents {shapes}, in {len(manifest['shards'])} shards")
    print(f"picture    {picture}\nNext: kdiff train --data {out}")
