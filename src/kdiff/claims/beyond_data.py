"""Data of the study `beyond` that no name of `kdiff.data` stands for. All are given by their path, as a user's own data are.

kdiff.claims.beyond_data.unlabelled(of='spiral(ambient_dim=256)')
kdiff.claims.beyond_data.table(of=breast_cancer)
kdiff.claims.beyond_data.tokens
kdiff.claims.beyond_data.own_latents_of(of='glyphs(size=32)', channels=[16, 32])
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdiff.config.autoencoding import AutoencoderConfig
from kdiff.config.parts import parse
from kdiff.data import Dataset, load, load_array, load_latents, make_dataset
from kdiff.data.latents import is_latent_folder, read_manifest
from kdiff.files.cache import cache_folder
from kdiff.training.own_latents import make_latents

TABLES = ("breast_cancer", "diabetes", "wine", "iris")
TOKENS = "vavae_f16d32_vfdinov2_tokens.safetensors"  # 10,000 × 32
TOKEN_PLACES = (Path("shared/latents"), Path("../shared/latents"))  # as seen from the folder where the command is typed
AUTOENCODER_STEPS = 500


def unlabelled(of: str) -> Dataset:
    """A source of data without its labels."""
    return replace(load(of), y=None, num_classes=0)


def table(of: str = "breast_cancer") -> Dataset:
    """The rows of a table that comes with scikit-learn, each column with mean 0 and variance 1; without labels.

    Raises:
        ValueError: scikit-learn brings no such table.
    """
    import sklearn.datasets

    if of not in TABLES:
        raise ValueError(f"table is {of!r}; expected one of {', '.join(TABLES)}")
    raw = getattr(sklearn.datasets, f"load_{of}")(return_X_y=True)[0]
    return make_dataset(of, np.asarray(raw, np.float64), normalise="features")


def find_tokens() -> Path | None:
    """The file of VA-VAE tokens: in $KDIFF_DATA, in shared/latents or in ../shared/latents; None if it is in none of them."""
    own = os.environ.get("KDIFF_DATA")
    places = [*([Path(own)] if own else []), *TOKEN_PLACES]
    return next((place / TOKENS for place in places if (place / TOKENS).is_file()), None)


def tokens() -> Dataset:
    """Single positions (N, 32) of VA-VAE's latents of ImageNet, as their makers have standardised them; without labels.

    Raises:
        FileNotFoundError: the file is not on this machine.
    """
    path = find_tokens()
    if path is None:
        raise FileNotFoundError(
            f"{TOKENS} was not found in $KDIFF_DATA, {' or '.join(map(str, TOKEN_PLACES))}; put the file into one of these"
        )
    return replace(load_array(path, normalise="none"), name="vavae_tokens")


def own_latents_of(of: str, channels: Sequence[int] = (16, 32, 64), steps: int = AUTOENCODER_STEPS) -> Dataset:
    """Images as latents (4, h, w), normalised by channel, of a small autoencoder that is trained on them at the first call.

    Autoencoder and latents are kept in the cache folder, under their settings.
    """
    autoencoder, latents = latent_folder(of, channels, steps)
    if not is_latent_folder(latents) or read_manifest(latents)["statistics"] is None:
        config = AutoencoderConfig(data=parse(of), channels=list(channels), steps=steps)
        make_latents(config, autoencoder, latents, parse(of).name)
    return load_latents(latents)


def latent_folder(of: str, channels: Sequence[int], steps: int) -> tuple[Path, Path]:
    """The folders of the autoencoder and of the latents in the cache."""
    name = hashlib.blake2b(repr((of, list(channels), steps)).encode(), digest_size=8).hexdigest()
    base = cache_folder() / "autoencoders" / f"{parse(of).name}_{name}"
    return base / "autoencoder", base / "latents"
