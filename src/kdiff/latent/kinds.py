"""The classes of diffusers' autoencoders that kdiff reads: their shapes, how they encode and decode, and how they are scaled.

    class                     latents z that are stored, and their scaling             the pipeline that scales so
    AutoencoderKL             (z − shift_factor) · scaling_factor                      StableDiffusion3Pipeline
    AutoencoderKLFlux2        patches of 2×2 as channels; (z − mean) / std of `bn`     Flux2Pipeline
    AutoencoderDC             z · scaling_factor; no posterior                         SanaPipeline
    AutoencoderTiny           (z − shift_factor) · scaling_factor; no posterior        DreamLitePipeline
    AutoencoderKLQwenImage    one frame; (z − latents_mean) / latents_std              QwenImagePipeline
    AutoencoderKLQwenImage21  one frame; (z − latents_mean) / latents_std              QwenImage21Pipeline
    AutoencoderKLWan          one frame; (z − latents_mean) / latents_std              WanPipeline

This follows the source of diffusers 0.42.1: decoding in these pipelines, encoding in their variants that start from an image.
AutoencoderTiny also has `scale_latents` and `unscale_latents`, which prepare latents for eight bits; no pipeline calls them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class Kind:
    """AutoencoderKL, of Stable Diffusion, FLUX.1, VA-VAE and kdiff train-autoencoder; the base of the other kinds.

    `name` is the class in diffusers. `unseen` holds the entries of the configuration that names and shapes of the weights do
    not show, with their defaults. `written` holds the entries that diffusers writes into config.json and does not read.
    `posterior` says whether the encoder gives a distribution; otherwise it gives a latent alone.
    """

    name = "AutoencoderKL"
    unseen: Mapping[str, Any] = {"act_fn": "silu", "norm_num_groups": 32}
    written: tuple[str, ...] = ()
    posterior = True

    def image_channels(self, config: Mapping[str, Any]) -> int:
        """The number of channels of the images."""
        return int(config["in_channels"])

    def latent_channels(self, config: Mapping[str, Any]) -> int:
        """The number of channels of the network's own latents."""
        return int(config["latent_channels"])

    def side(self, config: Mapping[str, Any]) -> int:
        """The number of pixels per entry of the network's own latents along each side."""
        return int(2 ** (len(config["block_out_channels"]) - 1))

    def patch(self, config: Mapping[str, Any]) -> int:
        """The side of the patches of the network's own latents that become the channels of stored latents; 1 for none."""
        return 1

    def scale(self, module: Any) -> dict[str, Any]:
        """scaling_factor, shift_factor, latents_mean and latents_std, or None where there is no such number."""
        names = ("scaling_factor", "shift_factor", "latents_mean", "latents_std")
        return {name: module.config.get(name) for name in names}

    def encode(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (0 without a posterior) of stored latents, for images (N, C, H, W) in [−1, 1]."""
        posterior = module.encode(x).latent_dist
        return posterior.mean, posterior.std

    def decode(self, module: Any, z: Tensor) -> Tensor:
        """Images (N, C, H, W) from stored latents."""
        images: Tensor = module.decode(z).sample
        return images


class Flux2Kind(Kind):
    """AutoencoderKLFlux2, of FLUX.2. Its transformer sees patches of 2×2 latents as channels, ordered channel, row, column."""

    name = "AutoencoderKLFlux2"
    unseen: Mapping[str, Any] = {**Kind.unseen, "patch_size": (2, 2)}

    def patch(self, config: Mapping[str, Any]) -> int:
        """The side of `patch_size`; ValueError if its sides differ."""
        rows, columns = config["patch_size"]
        if rows != columns:
            raise ValueError(f"patch_size is {list(config['patch_size'])}; expected two equal numbers")
        return int(rows)

    def scale(self, module: Any) -> dict[str, Any]:
        """Mean and deviation of `bn`, as Flux2Pipeline takes them."""
        deviations = (module.bn.running_var.double() + module.config["batch_norm_eps"]).sqrt()
        scale = {"latents_mean": module.bn.running_mean.tolist(), "latents_std": deviations.tolist()}
        return {"scaling_factor": 1.0, "shift_factor": None, **scale}

    def encode(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """As for every class, in patches."""
        mean, std = super().encode(module, x)
        return into_patches(mean, self.patch(module.config)), into_patches(std, self.patch(module.config))

    def decode(self, module: Any, z: Tensor) -> Tensor:
        """As for every class, from patches."""
        return super().decode(module, from_patches(z, self.patch(module.config)))


class DeepKind(Kind):
    """AutoencoderDC, the deep compression autoencoder of Sana (Chen et al., 2025, arXiv 2410.10733)."""

    name = "AutoencoderDC"
    unseen: Mapping[str, Any] = {
        "attention_head_dim": 32,
        "upsample_block_type": "pixel_shuffle",
        "downsample_block_type": "pixel_unshuffle",
        "decoder_norm_types": "rms_norm",
        "decoder_act_fns": "silu",
        "encoder_out_shortcut": True,
        "decoder_in_shortcut": True,
        "decoder_conv_act_fn": "relu",
    }
    posterior = False

    def side(self, config: Mapping[str, Any]) -> int:
        """See `Kind.side`."""
        return int(2 ** (len(config["encoder_block_out_channels"]) - 1))

    def encode(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """The latents, with deviations of 0."""
        latents = module.encode(x).latent
        return latents, latents.new_zeros(latents.shape)


class TinyKind(Kind):
    """AutoencoderTiny, of TAESD and its successors: small networks with the latents of a large autoencoder, already scaled."""

    name = "AutoencoderTiny"
    unseen: Mapping[str, Any] = {"act_fn": "relu", "upsample_fn": "nearest", "upsampling_scaling_factor": 2}
    written = ("block_out_channels",)
    posterior = False

    def side(self, config: Mapping[str, Any]) -> int:
        """See `Kind.side`; ValueError if the decoder does not undo what the encoder does."""
        down = 2 ** (len(config["encoder_block_out_channels"]) - 1)
        up = config["upsampling_scaling_factor"] ** (len(config["decoder_block_out_channels"]) - 1)
        if up != down:
            raise ValueError(
                f"its encoder divides sides by {down} and its decoder multiplies them by {up}; expected one number"
            )
        return int(down)

    def encode(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """The latents, with deviations of 0."""
        latents = module.encode(x).latents
        return latents, latents.new_zeros(latents.shape)


class WanKind(Kind):
    """AutoencoderKLWan, of Wan, for videos; here every image is a video of one frame.

    Wan 2.2's takes patches of 2×2 pixels as channels within `encode` and `decode`. The entry scale_factor_spatial of the
    configuration does not follow from the architecture, and is not used.
    """

    name = "AutoencoderKLWan"
    unseen: Mapping[str, Any] = {"temperal_downsample": (False, True, True), "patch_size": None, "is_residual": False}

    def image_channels(self, config: Mapping[str, Any]) -> int:
        """See `Kind.image_channels`."""
        return int(config["in_channels"]) // (config["patch_size"] or 1) ** 2

    def latent_channels(self, config: Mapping[str, Any]) -> int:
        """See `Kind.latent_channels`."""
        return int(config["z_dim"])

    def side(self, config: Mapping[str, Any]) -> int:
        """See `Kind.side`."""
        return int(2 ** (len(config["dim_mult"]) - 1)) * int(config.get("patch_size") or 1)

    def scale(self, module: Any) -> dict[str, Any]:
        """latents_mean and latents_std alone, and the factor 1; scaling_factor is None without them."""
        numbers = {name: module.config[name] for name in ("latents_mean", "latents_std")}
        return {"scaling_factor": 1.0 if all(numbers.values()) else None, "shift_factor": None, **numbers}

    def encode(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """As for every class, with one frame."""
        mean, std = super().encode(module, x[:, :, None])
        return mean[:, :, 0], std[:, :, 0]

    def decode(self, module: Any, z: Tensor) -> Tensor:
        """As for every class, with one frame."""
        return super().decode(module, z[:, :, None])[:, :, 0]


class QwenKind(WanKind):
    """AutoencoderKLQwenImage, of Qwen-Image, which has the architecture of Wan 2.1."""

    name = "AutoencoderKLQwenImage"
    unseen: Mapping[str, Any] = {"temperal_downsample": (False, True, True)}

    def image_channels(self, config: Mapping[str, Any]) -> int:
        """See `Kind.image_channels`."""
        return int(config["input_channels"])


class Qwen21Kind(WanKind):
    """AutoencoderKLQwenImage21, of Qwen-Image 2.1, with the entries of Wan 2.2, for images with transparency (RGBA).

    Its pipeline makes images opaque if they have no transparency; so does this kind, and decodes without transparency.
    """

    name = "AutoencoderKLQwenImage21"

    def image_channels(self, config: Mapping[str, Any]) -> int:
        """See `Kind.image_channels`."""
        channels = super().image_channels(config)
        return 3 if channels == 4 else channels

    def encode(self, module: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """As for every class, with images that are opaque."""
        opaque = x.new_ones(len(x), super().image_channels(module.config) - x.shape[1], *x.shape[2:])
        return super().encode(module, torch.cat([x, opaque], 1))

    def decode(self, module: Any, z: Tensor) -> Tensor:
        """As for every class, without transparency."""
        return super().decode(module, z)[:, : self.image_channels(module.config)]


ALL = (Kind(), Flux2Kind(), DeepKind(), TinyKind(), QwenKind(), Qwen21Kind(), WanKind())
KINDS: dict[str, Kind] = {kind.name: kind for kind in ALL}


def kind_of(module: Any) -> Kind:
    """The kind of an autoencoder of diffusers; ValueError for another class."""
    name = type(module).__name__
    if name not in KINDS:
        raise ValueError(f"the autoencoder is of class {name}; expected one of {', '.join(KINDS)}")
    return KINDS[name]


def into_patches(z: Tensor, side: int) -> Tensor:
    """(N, C, side · h, side · w) → (N, C · side², h, w), channels in the order (channel, row, column)."""
    n, c, h, w = z.shape
    z = z.reshape(n, c, h // side, side, w // side, side).permute(0, 1, 3, 5, 2, 4)
    return z.reshape(n, c * side * side, h // side, w // side)


def from_patches(z: Tensor, side: int) -> Tensor:
    """The inverse of `into_patches`."""
    n, c, h, w = z.shape
    z = z.reshape(n, c // side**2, side, side, h, w).permute(0, 1, 4, 2, 5, 3)
    return z.reshape(n, c // side**2, side * h, side * w)
