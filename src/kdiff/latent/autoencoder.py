"""An autoencoder of images: q(latent | x) = N(mean, diag(std²)), and back; what tells one from another.

diffusers' AutoencoderKL (Kingma and Welling, 2014; Rombach et al., 2022): Stable Diffusion's, FLUX's, VA-VAE's, or a small one
of one's own. Latents here are as the encoder gives them; the factor and shift that came with it are named beside them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdiff.latent.ldm import from_ldm
from kdiff.weights import read_weights

CLASS = "AutoencoderKL"
SUBFOLDERS = ("", "vae", "autoencoder")  # of a diffusers pipeline; of a folder of kdiff train-autoencoder
UNSEEN = ("act_fn", "norm_num_groups")  # entries of the configuration that leave no trace in names and shapes of the weights
AT_ONCE = 2**20  # pixels in a batch


class Autoencoder:
    """An AutoencoderKL in evaluation mode, in float32.

    `source` says where it came from, `identity` is a hash of class, architecture and weights: equal for equal networks, however
    they are stored.
    """

    def __init__(self, module: nn.Module, source: str) -> None:
        self.module: Any = module.float().eval().requires_grad_(False)
        self.source, self.identity = source, _identity(self.module)

    @property
    def channels(self) -> int:
        """Channels of the images."""
        return int(self.module.config.in_channels)

    @property
    def factor(self) -> int:
        """Pixels per entry of a latent, along each side."""
        return int(2 ** (len(self.module.config.block_out_channels) - 1))

    def describe(self) -> dict[str, Any]:
        """A dictionary for JSON; latent · scaling after subtracting the shift is what its makers train on."""
        config = self.module.config
        return {
            "source": self.source,
            "class": CLASS,
            "identity": self.identity,
            "scaling": float(config.scaling_factor),
            "shift": float(config.shift_factor or 0.0),
        }

    def latent_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape (c, h, w) of the latents of images (C, H, W).

        Raises:
            ValueError: images that it cannot encode.
        """
        factor = self.factor
        if len(shape) != 3 or shape[0] != self.channels:
            raise ValueError(
                f"the autoencoder {self.source} encodes images of {self.channels} channels, shaped ({self.channels}, H, W); "
                f"found {shape}; a folder of images is read as grey or in colour by --data.channels L or RGB"
            )
        if any(side % factor for side in shape[1:]):
            near = max(factor, round(min(shape[1:]) / factor) * factor)
            raise ValueError(
                f"the autoencoder {self.source} divides sides by {factor}, so that sides must be multiples of it; found "
                f"{shape[1]}×{shape[2]}; give a size, such as --data.size {near}, or take an autoencoder of fewer levels"
            )
        return int(self.module.config.latent_channels), shape[1] // factor, shape[2] // factor

    @torch.no_grad()
    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the posteriors of images x (N, C, H, W) in [−1, 1]; on x's device."""
        pairs = []
        for batch in x.split(self._at_once(x.shape[-2:])):
            posterior = self.module.encode(batch.to(self.module.device)).latent_dist
            pairs.append((posterior.mean.to(x.device), posterior.std.to(x.device)))
        means, deviations = zip(*pairs)
        return torch.cat(means), torch.cat(deviations)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """Images (N, C, H, W) in [−1, 1], on the CPU, of latents as the encoder gives them."""
        sides = [side * self.factor for side in latents.shape[-2:]]
        batches: Iterator[Tensor] = iter(latents.split(self._at_once(sides)))
        return torch.cat([self.module.decode(batch.to(self.module.device)).sample.cpu() for batch in batches]).clamp_(-1, 1)

    @staticmethod
    def _at_once(sides: Any) -> int:
        """How many images to take at a time, so that a batch of large ones fits into memory."""
        return max(1, min(256, AT_ONCE // math.prod(sides)))


def _identity(module: Any) -> str:
    digest = hashlib.blake2b(repr((CLASS, [module.config[key] for key in UNSEEN])).encode(), digest_size=16)
    for name, value in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().float().contiguous().numpy().data)
    return digest.hexdigest()


def check_diffusers() -> None:
    """Raises ValueError where the package is not installed."""
    if importlib.util.find_spec("diffusers") is None:
        raise ValueError("autoencoders need diffusers, which is not installed; pip install 'kdiff[latent]' installs it")


def load_autoencoder(source: str | Path, identity: str | None = None) -> Autoencoder:
    """The autoencoder that `source` names, on the GPU if there is one.

    Args:
        source: a folder in diffusers' format, or of a pipeline, or of kdiff train-autoencoder; a file with a state dict in the
            layout of latent diffusion (.pt, .pth, .ckpt, .safetensors); or a name on the hub, owner/name or owner/name/folder.
        identity: what it must be.

    Raises:
        ValueError: diffusers is not installed; a file or folder that holds no such autoencoder, or weights that are damaged or
            do not fit; another identity.
        FileNotFoundError: nothing there.
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
            f"expected {identity}; its weights or its architecture differ. Find the right one and name it by --autoencoder"
        )
    return autoencoder


def small_autoencoder(image_channels: int, channels: list[int], latent_channels: int, layers_per_block: int = 1) -> nn.Module:
    """An AutoencoderKL to be trained: a level for each entry of `channels`, sides halved between them.

    Raises:
        ValueError: diffusers is not installed, or numbers that make no network.
    """
    check_diffusers()
    if not channels or min([*channels, latent_channels, layers_per_block]) < 1:
        raise ValueError(
            f"channels is {channels}, latent_channels {latent_channels} and layers_per_block {layers_per_block}; expected "
            "whole numbers from 1 on"
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
        # Groups of four channels where that goes: of one channel each, a norm would erase how strong a channel is.
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
            "one that kdiff train-autoencoder has not finished has none yet"
        )
    return _pretrained(str(folder), local_files_only=True)


def _from_hub(source: str) -> nn.Module:
    owner, name, *folder = source.split("/")
    return _pretrained(f"{owner}/{name}", **({"subfolder": folder[0]} if folder else {}))


def _unreachable(error: BaseException | None) -> bool:
    """Whether what went wrong at first was the way to the hub: diffusers then says that there is no such file."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while error:
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        error = error.__cause__ or error.__context__
    return False


def _pretrained(place: str, **options: Any) -> nn.Module:
    """From diffusers' format; the weights as safetensors only, so that nothing is unpickled."""
    from diffusers import AutoencoderKL
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # what it would say is said by the errors below
    try:
        found = AutoencoderKL.load_config(place, **options).get("_class_name", CLASS)
        if found != CLASS:
            raise ValueError(f"{place} is of class {found}; expected {CLASS}")
        module: nn.Module
        module, info = AutoencoderKL.from_pretrained(
            place, use_safetensors=True, output_loading_info=True, low_cpu_mem_usage=False, **options
        )
    except (OSError, RuntimeError) as error:
        if _unreachable(error):
            raise ValueError(
                f"{place} is not on this machine, and the hub cannot be reached: fetch it where there is a connection (hf "
                f"download {place} --local-dir FOLDER), and give that folder"
            ) from None
        raise ValueError(f"no autoencoder could be read from {place}: {' '.join(str(error).split())}") from None
    finally:
        logging.set_verbosity(level)
    if wrong := [name for kind in ("missing_keys", "unexpected_keys", "mismatched_keys") for name in info[kind]]:
        raise ValueError(f"the weights in {place} do not fit its config.json: {len(wrong)} do not match, e.g. {wrong[0]}")
    return module
