"""Autoencoders: images to latents and back. They come from diffusers, in its own format or in that of latent diffusion.

Needs the extra `kdiff[latent]`; nothing here imports diffusers before an autoencoder is wanted.
"""

from kdiff.latent.autoencoder import Autoencoder, load_autoencoder, small_autoencoder

__all__ = ["Autoencoder", "load_autoencoder", "small_autoencoder"]
