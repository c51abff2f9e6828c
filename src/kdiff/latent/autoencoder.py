"""An autoencoder of images: q(latent | x) = N(mean, diag(std²)), and back; and a hash that identifies it.

It is an autoencoder of diffusers, of a class in `kdiff.latent.kinds`: that of Stable Diffusion, FLUX, VA-VAE, Sana, Qwen-Image
or Wan, or a small AutoencoderKL that the user trains (Kingma and Welling, 2014; Rombach et al., 2022). Latents here are the
output of the encoder, in patches where the authors' pipeline works on patches. The numbers by which that pipeline scales them
are recorded with them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiff.files.weights import read_weights
from kdiff.latent.kinds import Kind, kind_of
from kdiff.latent.ldm import from_ldm
from kdiff.latent.pretrained import pretrained
from kdiff.latent.scale import describe_scale

SUBFOLDERS = ("", "vae", "autoencoder")  # in a pipeline of diffusers; in a folder of kdiff train-autoencoder
STATISTICS = "bn."  # buffers that only scale latents, as numbers in the configuration of other classes do
AT_ONCE = 2**20  # pixels in a batch


class Autoencoder:
    """An autoencoder of diffusers in evaluation mode, in float32.

    `source` is the folder, file or name that it was loaded from. `kind` is its class. `identity` is a hash of class,
    architecture and weights; it does not depend on how they are stored.

    Raises ValueError for another class, or for a configuration with numbers that cannot be used.
    """

    def __init__(self, module: nn.Module, source: str) -> None:
        self.kind: Kind = kind_of(module)
        self.module: Any = module.float().eval().requires_grad_(False)
        self.source, self.identity = source, _identity(self.module, self.kind)
        self.describe()  # it refuses numbers that cannot be used

    @property
    def channels(self) -> int:
        """The number of channels of the images."""
        return self.kind.image_channels(self.module.config)

    @property
    def patch(self) -> int:
        """The side of the patches of the network's latents that are the channels of a latent; 1 if there are no patches."""
        return self.kind.patch(self.module.config)

    @property
    def factor(self) -> int:
        """The number of pixels per entry of a latent along each side."""
        return self.kind.side(self.module.config) * self.patch

    @property
    def latent_channels(self) -> int:
        """The number of channels of a latent."""
        return self.kind.latent_channels(self.module.config) * self.patch**2

    def describe(self) -> dict[str, Any]:
        """A dictionary for JSON. Its last entries say how the authors scale the latents (`kdiff.latent.scale`)."""
        config = self.module.config
        try:
            if config.get("out_channels", None) not in (None, taken := config.get("in_channels")):
                raise ValueError(
                    f"it encodes images of {taken} channels and decodes to {config['out_channels']}; expected as many"
                )
            shape = {"factor": self.factor, "channels": self.latent_channels, "patch": self.patch}
        except (ValueError, TypeError) as error:
            raise ValueError(f"the autoencoder {self.source} cannot be used: {error}") from None
        scale = describe_scale(self.kind.scale(self.module), self.latent_channels, self.source)
        facts = {"source": self.source, "class": self.kind.name, "identity": self.identity}
        return {**facts, **shape, "posterior": self.kind.posterior, **scale}

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape (c, h, w) of the latents of images (C, H, W).

        Raises:
            ValueError: the autoencoder cannot encode images of this shape.
        """
        factor = self.factor
        if len(shape) != 3 or shape[0] != self.channels:
            raise ValueError(
                f"the autoencoder {self.source} encodes images of {self.channels} channels, shaped ({self.channels}, H, W); "
                f"found {shape}; --data.channels L or RGB reads a folder of images as grey or in colour"
            )
        if any(side % factor for side in shape[1:]):
            near = max(factor, round(min(shape[1:]) / factor) * factor)
            patched = f" (in patches of {self.patch}×{self.patch} latents)" if self.patch > 1 else ""
            raise ValueError(
                f"the autoencoder {self.source} divides sides by {factor}{patched}, so sides must be multiples of {factor}; "
                f"found {shape[1]}×{shape[2]}; resize the images (for a folder of images: --data.size {near}), or use an "
                "autoencoder with fewer levels"
            )
        return self.latent_channels, shape[1] // factor, shape[2] // factor

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posteriors of images x (N, C, H, W) in [−1, 1], on the device of x.

        The standard deviations are 0 if the class of the autoencoder has no posterior.
        """
        pairs = []
        for batch in x.split(self._at_once(x.shape[-2:])):
            mean, std = self.kind.encode(self.module, batch.to(self.module.device))
            pairs.append((mean.to(x.device), std.to(x.device)))
        means, deviations = zip(*pairs)
        return torch.cat(means), torch.cat(deviations)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (N, C, H, W) in [−1, 1], on the CPU, from latents as the encoder returns them."""
        sides = [side * self.factor for side in latents.shape[-2:]]
        batches: Iterator[Tensor] = iter(latents.split(self._at_once(sides)))
        return torch.cat([self.kind.decode(self.module, batch.to(self.module.device)).cpu() for batch in batches]).clamp_(-1, 1)

    @staticmethod
    def _at_once(sides: Any) -> int:
        """The number of images in a batch, so that a batch of large images fits into memory."""
        return max(1, min(256, AT_ONCE // math.prod(sides)))


def _identity(module: Any, kind: Kind) -> str:
    unseen = json.loads(
        json.dumps([module.config.get(key, default) for key, default in kind.unseen.items()])
    )  # lists, no tuples
    digest = hashlib.blake2b(repr((kind.name, unseen)).encode(), digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        if name.startswith(STATISTICS):
            continue
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


def check_diffusers() -> None:
    """Raise ValueError if diffusers is not installed."""
    if importlib.util.find_spec("diffusers") is None:
        raise ValueError("autoencoders need diffusers, which is not installed; pip install 'kdiff[latent]' installs it")


def load_autoencoder(source: str | Path, identity: str | None = None) -> Autoencoder:
    """The autoencoder that `source` names, on the GPU if there is one.

    Args:
        source: a folder in the format of diffusers, of a pipeline or of kdiff train-autoencoder; a file with a state dict in
            the layout of latent diffusion (.pt, .pth, .ckpt, .safetensors); or a name on the hub, owner/name or
            owner/name/folder.
        identity: the identity that the autoencoder must have; any if left out.

    Raises:
        ValueError: diffusers is not installed; the file or folder holds no such autoencoder; the weights are damaged or do not
            fit; or the identity is another one.
        FileNotFoundError: there is no such file, folder or name.
    """
    check_diffusers()
    path = Path(source).expanduser()
    if path.is_file():
        module, name = _from_file(path), str(path.resolve())
    elif path.is_dir():
        module, name = _from_folder(path), str(path.resolve())
    elif _is_hub_name(str(source)):
        module, name = _from_hub(str(source)), str(source)
    else:
        raise FileNotFoundError(f"no autoencoder at {source}: no file, no folder, and no name like owner/name on the hub")
    autoencoder = Autoencoder(module.to("cuda" if torch.cuda.is_available() else "cpu"), name)
    if identity is not None and autoencoder.identity != identity:
        raise ValueError(
            f"the autoencoder {source} is not the one that the latents were made with: its identity is {autoencoder.identity}, "
            f"expected {identity}; its weights or its architecture differ. Find the right one and give it with --autoencoder"
        )
    return autoencoder


def small_autoencoder(image_channels: int, channels: list[int], latent_channels: int, layers_per_block: int = 1) -> nn.Module:
    """A new AutoencoderKL for training, with one level for each entry of `channels`; sides are halved between levels.

    Raises:
        ValueError: diffusers is not installed, or a number is below 1.
    """
    check_diffusers()
    if not channels or min([*channels, latent_channels, layers_per_block]) < 1:
        raise ValueError(
            f"channels is {channels}, latent_channels {latent_channels} and layers_per_block {layers_per_block}; expected "
            "whole numbers of at least 1"
        )
    from diffusers import AutoencoderKL

    common = math.gcd(*channels)
    module: nn.Module = AutoencoderKL(
        in_channels=image_channels,
        out_channels=image_channels,
        down_block_types=["DownEncoderBlock2D"] * len(channels),
        up_block_types=["UpDecoderBlock2D"] * len(channels),
        block_out_channels=channels,
        layers_per_block=layers_per_block,
        latent_channels=latent_channels,
        # Groups of four channels where possible: with one channel per group, a norm would erase the strength of a channel.
        norm_num_groups=min(32, common // 4 if common % 4 == 0 else 1),
    )
    return module


def _is_hub_name(source: str) -> bool:
    parts = source.split("/")
    return len(parts) in (2, 3) and all(parts) and not source.startswith((".", "~"))


def _from_file(path: Path) -> nn.Module:
    state = read_weights(path)
    try:
        return from_ldm(state)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _from_folder(path: Path) -> nn.Module:
    folder = next((path / name for name in SUBFOLDERS if (path / name / "config.json").is_file()), None)
    if folder is None:
        raise FileNotFoundError(
            f"no autoencoder in {path}: expected a config.json of diffusers there, or in its folder vae or autoencoder; "
            "kdiff train-autoencoder writes it at the end"
        )
    return pretrained(str(folder), local_files_only=True)


def _from_hub(source: str) -> nn.Module:
    owner, name, *folder = source.split("/")
    return pretrained(f"{owner}/{name}", **({"subfolder": folder[0]} if folder else {}))


@functools.lru_cache(maxsize=1)
def decoder(source: str, identity: str) -> Autoencoder:
    """The autoencoder with this source and identity; the last one is kept for the next call.

    Raises:
        ValueError, FileNotFoundError: as for `load_autoencoder`; the message says how to give another place.
    """
    try:
        return load_autoencoder(source, identity)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}. The autoencoder of these latents was there when they were encoded; if it has moved, run kdiff encode "
            "again with its new place, which records the place with the latents (kdiff sample and evaluate take --autoencoder "
            "too)"
        ) from None
