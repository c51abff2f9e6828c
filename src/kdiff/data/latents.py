"""A folder of latents: images that an autoencoder has encoded once (kdiff encode), for training like any other data.

    latents.json               the data and the autoencoder that the latents come from; size and checksum of each shard; and,
                               when all is encoded, statistics of each channel over the training part
    shard_00000.safetensors    see `kdiff.data.shards`

Every latent keeps the part (training, classifier, held out) of its image: an image that is held out, from the autoencoder too,
is held out as a latent. The variance of a latent drawn from its posterior N(mean, std²) is the variance of the means plus the
mean of std².
"""

from __future__ import annotations

import hashlib
import math
import shlex
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kdiff.data.checks import checked_labels
from kdiff.data.dataset import Dataset
from kdiff.data.latent_conditions import PREFIX, read_conditions
from kdiff.data.normalisation import GIVEN, Normalisation
from kdiff.data.progress import shown
from kdiff.data.remarks import LEVEL
from kdiff.data.samples import summarise
from kdiff.data.shards import LatentSamples, Sharded, map_tensors
from kdiff.files import cache
from kdiff.files.atomic import file_digest, read_json
from kdiff.files.schema import Numbers, problem
from kdiff.files.weights import read_weights

MANIFEST = "latents.json"
FORMAT = 1
FIXED = ("y", "split")  # tensors of a shard that do not depend on how it is read
OPTIONS = ("flip", "posterior", "dtype", "shard_size")  # options of kdiff encode, besides paths
SCALE = {"kind": str, "shift": Numbers, "scale": Numbers}
CONTENT = {  # of latents.json
    "source": {"data": str, "fingerprint": str, "shape": [int], "normalisation": SCALE},
    "autoencoder": {
        **dict.fromkeys(("source", "identity"), str),
        **{"scaling": (float, None), "shift": float, "mean?": [float], "std?": [float]},
        **{"class?": str, "factor?": int, "channels?": int, "patch?": int, "posterior?": bool},
    },
    **dict.fromkeys(("num_samples", "num_classes", "shard_size"), int),
    **dict.fromkeys(("flip", "posterior"), bool),
    "shape": [int, int, int],
    "dtype": str,
    "about": {...: object},
    "conditions?": {...: {"kind": str, "shape": [int], "num_classes": int, "normalisation": SCALE}},
    "shards": [{"file": str, "bytes": int, "blake2b": str}],
    "statistics": (None, {"mean": [float], "variance": [float], "posterior_variance": ([float], None)}),
}
NORMALISE = ("channels", GIVEN, "none")
USUAL = 3.0  # the factor by which the root mean square of scaled latents may differ from 1 without a remark


def load_latents(path: str | Path, normalise: str = "channels", posterior: bool = False, flip: bool | None = None) -> Dataset:
    """The latents (C, h, w) in a folder that kdiff encode made.

    `normalise` channels gives every channel mean 0 and variance 1 over the training part, scaling applies the numbers of the
    autoencoder (factor and shift, or mean and std by channel), and none leaves latents unchanged. To continue from weights that
    were trained on other latents of the same autoencoder, give the folder of those latents as `normalise`, or a file with their
    `mean` and `std` by channel (.safetensors or .pt, as published with VA-VAE); their statistics are then used.

    With `posterior`, training draws a new latent from the posterior at every read, mean + std · noise, instead of the mean.
    With `flip` (the default if mirrored images were encoded too), training reads the latent of the mirrored image with
    probability ½. All other code reads the means. The sizes of the shards are checked always, their checksums at the first
    read.

    Raises FileNotFoundError for a missing folder or a folder without latents. Raises ValueError for an unfinished encoding; a
    shard that is missing, cut short or changed; labels beyond the `num_classes` of the manifest; an unknown `normalise` or one
    with other channels; and `posterior` or `flip` if the folder was encoded without it.
    """
    folder = Path(path).expanduser()
    manifest = read_manifest(folder)
    again = f"{encode_command(folder, manifest)} resumes the encoding"
    if manifest["statistics"] is None or len(manifest["shards"]) != number_of_shards(manifest):
        raise ValueError(f"{folder}: only {len(manifest['shards'])} of {number_of_shards(manifest)} shards are there; {again}")
    if normalise not in NORMALISE and not Path(normalise).exists():
        raise ValueError(
            f"normalise must be one of {', '.join(NORMALISE)} for latents, or a folder or file with the statistics of other "
            f"latents; found {normalise!r}"
        )
    for option, wanted, there in (("posterior", posterior, manifest["posterior"]), ("flip", flip, manifest["flip"])):
        if wanted and not there:
            again_with = f", or encode with --{option} true into another folder"
            if option == "posterior" and not manifest["autoencoder"].get("posterior", True):
                again_with = f": an {manifest['autoencoder']['class']} has none"
            raise ValueError(f"{folder} was encoded without {option}; leave {option} out{again_with}")
    paths = [folder / facts["file"] for facts in manifest["shards"]]
    for facts in manifest["shards"]:
        if problem := shard_problem(folder, facts, digest=False):
            raise ValueError(f"{problem}; {again}")
    normalisation = _normalisation(manifest, normalise, posterior)
    if normalise == GIVEN:
        _remark_on_scale(folder, manifest["statistics"], normalisation)
    flip = manifest["flip"] if flip is None else flip

    def mapped() -> list[dict[str, np.ndarray]]:
        return [map_tensors(file) for file in paths]

    def check() -> Mapping[str, float]:
        for facts in shown(manifest["shards"], len(paths), f"checking {folder}", unit="shard"):
            if problem := shard_problem(folder, facts):
                raise ValueError(f"{problem}; {again}")
        x, fixed = _mapped(mapped(), normalisation, flip, posterior)
        return summarise(x.select(fixed["split"] == 0))

    kept = cache.entry("latents", [cache.stamp(file) for file in paths], manifest["shards"], normalisation.describe())
    statistics = cache.json_of(kept.with_suffix(".json"), check)
    tensors = mapped()
    x, fixed = _mapped(tensors, normalisation, flip, posterior)
    y, num_classes = checked_labels(str(folder / MANIFEST), fixed.get("y"), manifest["num_classes"], len(x))
    return Dataset(
        name=folder.resolve().name,
        x=x,
        y=y,
        num_classes=num_classes,
        normalisation=normalisation,
        split=fixed["split"],
        manifold=None,
        fingerprint=_fingerprint(manifest),
        flip=x.flip,
        about={**manifest["about"], "latents": {"folder": str(folder.resolve()), **describe_latents(manifest)}},
        statistics=statistics,
        conditions=read_conditions(manifest.get("conditions", {}), tensors),
    )


def _mapped(
    mapped: Sequence[Mapping[str, np.ndarray]], normalisation: Normalisation, flip: bool, posterior: bool
) -> tuple[LatentSamples, dict[str, torch.Tensor]]:
    """The samples in these shards, mapped into memory; and the tensors that are read now: split and, if present, y."""
    own = [name for name in mapped[0] if name not in FIXED and not name.startswith(PREFIX)]
    tensors = {name: Sharded([shard[name] for shard in mapped]) for name in own}
    fixed = {name: torch.from_numpy(np.concatenate([shard[name] for shard in mapped])) for name in FIXED if name in mapped[0]}
    return LatentSamples(tensors, normalisation, flip=flip, posterior=posterior), fixed


def is_latent_folder(path: Path) -> bool:
    """Whether this folder holds latents."""
    return (path / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """The content of latents.json.

    Raises FileNotFoundError if the file is missing, and ValueError if it is damaged or has another format.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(f"no latents in {folder}: it has no {MANIFEST}; kdiff encode makes such a folder")
    back = "restore it from a copy, or encode again into another folder"
    manifest: dict[str, Any] = read_json(path, {"format": int}, back)
    if manifest["format"] != FORMAT:
        raise ValueError(f"{path} has format {manifest['format']}; this version of kdiff reads format {FORMAT}")
    if found := problem(manifest, CONTENT) or _inconsistent(manifest):
        raise ValueError(f"{path} is damaged: {found}; {back}")
    return manifest


def _inconsistent(manifest: Mapping[str, Any]) -> str:
    """What does not fit together in a manifest whose entries have the right types; an empty text if all fits."""
    if min(manifest["num_samples"], manifest["shard_size"], *manifest["shape"]) < 1 or manifest["num_classes"] < 0:
        return "num_samples, shard_size or the shape is below 1, or num_classes below 0"
    statistics, channels = manifest["statistics"], manifest["shape"][0]
    if any(len(manifest["autoencoder"].get(name, range(channels))) != channels for name in ("mean", "std")):
        return f"the mean and std of its autoencoder are not those of {channels} channels"
    if statistics is None:
        return ""
    lists = [statistics["mean"], statistics["variance"], *([statistics["posterior_variance"]] if manifest["posterior"] else [])]
    if any(each is None or len(each) != channels for each in lists):
        return f"the statistics are not those of {channels} channels"
    return ""


def number_of_shards(manifest: Mapping[str, Any]) -> int:
    """The number of shards when all is encoded."""
    return math.ceil(manifest["num_samples"] / manifest["shard_size"])


def shard_name(number: int) -> str:
    """The file name of a shard."""
    return f"shard_{number:05d}.safetensors"


def describe_latents(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What decoding needs: the autoencoder, and the shape and normalisation of the images."""
    source = manifest["source"]
    return {
        "autoencoder": manifest["autoencoder"],
        "images": {"shape": source["shape"], "normalisation": source["normalisation"]},
    }


def encode_command(folder: Path, manifest: Mapping[str, Any]) -> str:
    """The command that made the folder."""
    places = [manifest["source"]["data"], "--autoencoder", manifest["autoencoder"]["source"], "--out", str(folder)]
    options = [word for name in OPTIONS for word in (f"--{name}", str(manifest[name]).lower())]
    return shlex.join(["kdiff", "encode", *places, *options])


def shard_problem(folder: Path, facts: Mapping[str, Any], digest: bool = True) -> str:
    """What is wrong with a shard, by its size and, with `digest`, its checksum; an empty text if nothing is wrong."""
    path = folder / facts["file"]
    if not path.is_file():
        return f"{path} is missing"
    size = path.stat().st_size
    if size != facts["bytes"]:
        return (
            f"{path} is {'cut short' if size < facts['bytes'] else 'too long'}: it has {size} bytes; expected {facts['bytes']}"
        )
    if digest and file_digest(path) != facts["blake2b"]:
        return f"{path} is damaged: its checksum differs from the one in {MANIFEST}"
    return ""


def _normalisation(manifest: Mapping[str, Any], normalise: str, posterior: bool) -> Normalisation:
    if normalise == "none":
        return Normalisation.none()
    if normalise == GIVEN:
        return _given(manifest["autoencoder"])
    if normalise != "channels":
        return _of_others(Path(normalise), manifest, posterior)
    statistics = manifest["statistics"]
    mean, variance = (torch.tensor(statistics[name], dtype=torch.float64) for name in ("mean", "variance"))
    if posterior:
        variance = variance + torch.tensor(statistics["posterior_variance"], dtype=torch.float64)
    scale = torch.where(variance > 0, variance.sqrt(), 1.0)
    return Normalisation("channels", mean.float()[:, None, None], scale.float()[:, None, None])


def _given(autoencoder: Mapping[str, Any]) -> Normalisation:
    """The normalisation with the numbers of an autoencoder, as `kdiff.latent.Autoencoder.describe` records them."""
    scaling, source = autoencoder["scaling"], autoencoder["source"]
    if scaling is None:
        raise ValueError(
            f"normalise is {GIVEN}, but {source} holds no factor for its latents; take normalise=channels, or a file with "
            "their mean and std, such as the latents_stats.pt that is published with VA-VAE"
        )
    if "mean" not in autoencoder:
        return Normalisation(GIVEN, torch.tensor(autoencoder["shift"]), torch.tensor(1 / scaling))
    mean, std = (torch.tensor(autoencoder[name], dtype=torch.float64)[:, None, None] for name in ("mean", "std"))
    return Normalisation(GIVEN, mean.float(), (std / scaling).float())


def _remark_on_scale(folder: Path, statistics: Mapping[str, Any], normalisation: Normalisation) -> None:
    """Remark on latents that the numbers of their autoencoder do not bring near the variance 1 that they are made for."""
    mean, variance = (torch.tensor(statistics[name], dtype=torch.float64) for name in ("mean", "variance"))
    shift, scale = (value.double().flatten() for value in (normalisation.shift, normalisation.scale))
    found = float((((mean - shift) ** 2 + variance) / scale**2).mean().sqrt())
    if not 1 / USUAL <= found <= USUAL:
        warnings.warn(
            f"{folder}: with normalise={GIVEN} the root mean square of the latents is {found:.2g}, and the numbers of an "
            "autoencoder usually bring it near 1; if these images or numbers do not suit it, take normalise=channels",
            stacklevel=LEVEL + 1,
        )


def _of_others(path: Path, manifest: Mapping[str, Any], posterior: bool) -> Normalisation:
    """The normalisation with the statistics of other latents: their folder, or a file with mean and std."""
    channels = manifest["shape"][0]
    if path.is_dir():
        other = read_manifest(path)
        if other["statistics"] is None or other["autoencoder"]["identity"] != manifest["autoencoder"]["identity"]:
            raise ValueError(
                f"normalise is {path}: latents of another autoencoder, or not all encoded; expected the same autoencoder"
            )
        found = _normalisation(other, "channels", posterior and other["posterior"])
        return Normalisation(GIVEN, found.shift, found.scale)
    tensors = read_weights(path)
    shift, scale = (tensors[name].float().flatten() if name in tensors else torch.empty(0) for name in ("mean", "std"))
    if len(shift) != channels or len(scale) != channels:
        raise ValueError(
            f"normalise is {path}: it holds {', '.join(f'{name} {tuple(value.shape)}' for name, value in tensors.items())}; "
            f"expected mean and std of {channels} channels"
        )
    return Normalisation(GIVEN, shift[:, None, None], scale[:, None, None])


def _fingerprint(manifest: Mapping[str, Any]) -> str:
    """A hash of the latents alone; it does not depend on their path or on that of the autoencoder."""
    facts = repr((manifest["num_samples"], manifest["shape"], [facts["blake2b"] for facts in manifest["shards"]]))
    return hashlib.blake2b(facts.encode(), digest_size=8).hexdigest()
