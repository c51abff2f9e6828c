"""An autoencoder of images: q(latent | x) = N(mean, diag(std²)), and back; and a hash that identifies it.

It is an AutoencoderKL of diffusers (Kingma and Welling, 2014; Rombach et al., 2022): that of Stable Diffusion, FLUX or VA-VAE,
or a small one that the user trains. Latents here are the output of the encoder; its published factor and shift are recorded
with them.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiff.files.weights import read_weights
from kdiff.latent.ldm import from_ldm
from kdiff.latent.scale import describe_scale

CLASS = "AutoencoderKL"
SUBFOLDERS = ("", "vae", "autoencoder")  # in a pipeline of diffusers; in a folder of kdiff train-autoencoder
UNSEEN = ("act_fn", "norm_num_groups")  # entries of the configuration that names and shapes of the weights do not show
AT_ONCE = 2**20  # pixels in a batch


class Autoencoder:
    """An AutoencoderKL in evaluation mode, in float32.

    `source` is the folder, file or name that it was loaded from. `identity` is a hash of class, architecture and weights; it
    does not depend on how they are stored.
    """

    def __init__(self, module: nn.Module, source: str) -> None:
        self.module: Any = module.float().eval().requires_grad_(False)
        self.source, self.identity = source, _identity(self.module)
        self.describe()  # it refuses numbers that cannot be used

    @property
    def channels(self) -> int:
        """The number of channels of the images."""
        return int(self.module.config.in_channels)

    @property
    def factor(self) -> int:
        """The number of pixels per entry of a latent along each side."""
        return int(2 ** (len(self.module.config.block_out_channels) - 1))

    def describe(self) -> dict[str, Any]:
        """A dictionary for JSON. Its last entries say how the authors scale the latents (`kdiff.latent.scale`)."""
        scale = describe_scale(self.module.config, self.source)
        return {"source": self.source, "class": CLASS, "identity": self.identity, **scale}

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
            raise ValueError(
                f"the autoencoder {self.source} divides sides by {factor}, so sides must be multiples of {factor}; found "
                f"{shape[1]}×{shape[2]}; give a size, such as --data.size {near}, or use an autoencoder with fewer levels"
            )
        return int(self.module.config.latent_channels), shape[1] // factor, shape[2] // factor

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posteriors of images x (N, C, H, W) in [−1, 1], on the device of x."""
        pairs = []
        for batch in x.split(self._at_once(x.shape[-2:])):
            posterior = self.module.encode(batch.to(self.module.device)).latent_dist
            pairs.append((posterior.mean.to(x.device), posterior.std.to(x.device)))
        means, deviations = zip(*pairs)
        return torch.cat(means), torch.cat(deviations)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (N, C, H, W) in [−1, 1], on the CPU, from latents as the encoder returns them."""
        sides = [side * self.factor for side in latents.shape[-2:]]
        batches: Iterator[Tensor] = iter(latents.split(self._at_once(sides)))
        return torch.cat([self.module.decode(batch.to(self.module.device)).sample.cpu() for batch in batches]).clamp_(-1, 1)

    @staticmethod
    def _at_once(sides: Any) -> int:
        """The number of images in a batch, so that a batch of large images fits into memory."""
        return max(1, min(256, AT_ONCE // math.prod(sides)))


def _identity(module: Any) -> str:
    digest = hashlib.blake2b(repr((CLASS, [module.config[key] for key in UNSEEN])).encode(), digest_size=16)
    for name, value in sorted(module.state_dict().items()):
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
    return _pretrained(str(folder), local_files_only=True)


def _from_hub(source: str) -> nn.Module:
    owner, name, *folder = source.split("/")
    return _pretrained(f"{owner}/{name}", **({"subfolder": folder[0]} if folder else {}))


def _unreachable(error: BaseException | None) -> bool:
    """Whether the first error was that the hub cannot be reached; diffusers then reports a missing file."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while error:
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        error = error.__cause__ or error.__context__
    return False


def _pretrained(place: str, **options: Any) -> nn.Module:
    """Read the format of diffusers; the weights must be safetensors, so that nothing is unpickled."""
    from diffusers import AutoencoderKL
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # the errors below say what diffusers would log
    try:
        config = AutoencoderKL.load_config(place, **options)
        found = config.get("_class_name", CLASS)
        if found != CLASS:
            raise ValueError(f"{place} is of class {found}; expected {CLASS}")
        known = inspect.signature(AutoencoderKL.__init__).parameters
        unknown = [name for name, value in config.items() if name not in known and name[0] != "_" and value is not None]
        if unknown:
            said = ", ".join(f"{name}={config[name]!r}" for name in unknown)
            warnings.warn(f"the config.json of {place} says {said}, which {CLASS} does not know and does not use", stacklevel=2)
        module: nn.Module
        module, info = AutoencoderKL.from_pretrained(
            place, use_safetensors=True, output_loading_info=True, low_cpu_mem_usage=False, **options
        )
    except Exception as error:  # a damaged config.json makes diffusers raise errors of many kinds
        if isinstance(error, ValueError) and str(error).startswith(place):
            raise
        if _unreachable(error):
            raise ValueError(
                f"{place} is not on this machine, and the hub cannot be reached: download it where there is a connection (hf "
                f"download {place} --local-dir FOLDER), and give that folder"
            ) from None
        raise ValueError(f"no autoencoder could be read from {place}: {' '.join(str(error).split())}") from None
    finally:
        logging.set_verbosity(level)
    if wrong := [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[kind]]:
        raise ValueError(f"the weights in {place} do not fit its config.json: {len(wrong)} do not match, e.g. {wrong[0]}")
    return module


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
