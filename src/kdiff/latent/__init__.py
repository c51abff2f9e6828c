"""Autoencoders from diffusers: images to latents and back; files in the format of diffusers or of latent diffusion.

This room needs the extra `kdiff[latent]`. It imports diffusers only when an autoencoder is loaded or built.
"""

from kdiff.latent.autoencoder import Autoencoder, load_autoencoder, small_autoencoder

__all__ = ["Autoencoder", "load_autoencoder", "small_autoencoder"]
