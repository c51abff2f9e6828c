"""kdiff encode DATA --autoencoder A: encode images into a folder of latents."""

from __future__ import annotations

from pathlib import Path

from kdiff.commands.arguments import check_data_given, out_option, read_config
from kdiff.config.autoencoding import EncodeConfig
from kdiff.config.parts import data_name

ABOUT = """Encodes images once into a folder of latents, latents/DATA: files of latents (shards), and a record of the images
and the autoencoder. The same command continues an encoding that was interrupted. Afterwards, kdiff train --data latents/DATA
trains on the latents, and kdiff sample decodes what it draws. Examples: kdiff encode fashion --autoencoder
runs/fashion_autoencoder; kdiff encode photos/ --data.size 256 --data.flip true --autoencoder stabilityai/sd-vae-ft-mse."""

JUDGED = 32  # held-out images that the printed PSNR is measured on


def command(argv: list[str]) -> None:
    """Encode the images, draw reconstructions, and print what to do next."""
    extras = {"out": out_option("The folder for the latents. If left out, latents/DATA.")}
    config, data, further = read_config("encode", EncodeConfig, argv, "DATA", extras, about=ABOUT)
    check_data_given(data, argv, "kdiff encode DATA --autoencoder FOLDER, for example: kdiff encode fashion --autoencoder …")
    from accelerate import PartialState

    from kdiff.latent.autoencoder import decoder
    from kdiff.report.reconstructions import draw_reconstructions
    from kdiff.training.encoding import encode
    from kdiff.training.small_autoencoder import reconstruction_quality

    out = Path(further["out"] or Path("latents") / data_name(config.data))
    manifest, dataset = encode(config, out, progress="encoding")
    if not PartialState().is_main_process:
        return
    autoencoder = decoder(manifest["autoencoder"]["source"], manifest["autoencoder"]["identity"])
    picture, quality = (
        draw_reconstructions(out, autoencoder, dataset),
        reconstruction_quality(autoencoder, dataset.part("heldout")[0][:JUDGED]),
    )
    shapes = f"{tuple(manifest['shape'])} of images {tuple(manifest['source']['shape'])}"
    print(f"\n{out}: {manifest['num_samples']} latents {shapes}, in {len(manifest['shards'])} shards")
    print(f"held-out images are reconstructed with a PSNR of {quality['psnr']:.4g} dB")
    print(f"picture    {picture}\nNext: kdiff train --data {out}")
