"""Autoencoders in the format of diffusers: a folder with config.json and safetensors, or a name on the hub."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

from torch import nn

from kdiff.latent.kinds import KINDS, Kind


def pretrained(place: str, **options: Any) -> nn.Module:
    """An autoencoder from a folder or a name on the hub, of a class in `kdiff.latent.kinds`.

    The weights must be safetensors, so that nothing is unpickled; every weight is used, or refused by name.

    Args:
        place: the folder or the name.
        options: further arguments of `from_pretrained`.

    Raises:
        ValueError: there is no such autoencoder, it is damaged, or its weights do not fit its configuration.
    """
    import diffusers
    from diffusers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)  # the errors below say what diffusers would log
    try:
        config = diffusers.AutoencoderKL.load_config(place, **options)
        found = config.get("_class_name", Kind.name)
        if found not in KINDS:
            raise ValueError(f"{place} is of class {found}; expected one of {', '.join(KINDS)}")
        if not hasattr(diffusers, found):
            version = diffusers.__version__
            raise ValueError(f"{place} is of class {found}, which diffusers {version} does not have; pip install -U diffusers")
        kind = getattr(diffusers, found)
        known = {*inspect.signature(kind.__init__).parameters, *KINDS[found].written}
        unknown = [name for name, value in config.items() if name not in known and name[0] != "_" and value is not None]
        if unknown:
            said = ", ".join(f"{name}={config[name]!r}" for name in unknown)
            warnings.warn(f"the config.json of {place} says {said}, which {found} does not know and does not use", stacklevel=2)
        module: nn.Module
        module, info = kind.from_pretrained(
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


def _unreachable(error: BaseException | None) -> bool:
    """Whether the first error was that the hub cannot be reached; diffusers then reports a missing file."""
    from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled

    while error:
        if isinstance(error, LocalEntryNotFoundError | OfflineModeIsEnabled):
            return True
        error = error.__cause__ or error.__context__
    return False
