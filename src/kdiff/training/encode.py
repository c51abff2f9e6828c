"""Encoding images into a folder of latents (see `kdiff.data.latents`), and finding the autoencoder that decodes them.

Shards appear whole or not at all, and latents.json lists one as soon as it is there: an encoding that was interrupted goes on
with the first that is missing, and ends with the same bytes on the same machine. Statistics follow when all are there.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from kdiff.components import parse
from kdiff.data import Dataset
from kdiff.data.cache import file_digest
from kdiff.data.latents import (
    FORMAT,
    MANIFEST,
    is_latent_folder,
    number_of_shards,
    read_manifest,
    shard_name,
    shard_problem,
)
from kdiff.data.shards import map_tensors
from kdiff.files import new_file, write_json
from kdiff.latent import Autoencoder, load_autoencoder
from kdiff.training.autoencoder import check_images
from kdiff.training.build import load_dataset
from kdiff.training.checkpoint import save_tensors
from kdiff.training.folder import locked, warn
from kdiff.training.latent_config import EncodeConfig

BATCH = 256  # images read at a time; the autoencoder takes fewer of large ones


def encode(config: EncodeConfig, folder: Path, progress: str | None = None) -> tuple[dict[str, Any], Dataset]:
    """Encode images into a folder of latents, or go on where an earlier encoding was interrupted.

    Returns what latents.json says, and the images.

    Args:
        config: the configuration.
        folder: made if it is not there. Shards in it that are whole are kept, damaged ones made anew.
        progress: what the progress bar is called; None for no bar.

    Raises:
        ValueError: data that are no images, or that the autoencoder cannot encode; a folder that holds something else, or
            latents of other data (the images have changed), of another autoencoder, or encoded with other options; an
            autoencoder that gives no finite latents.
        OSError: a shard cannot be written; those of before stay.
    """
    dataset = load_dataset(config)
    check_images(dataset)
    autoencoder = load_autoencoder(config.autoencoder)
    manifest = _plan(config, dataset, autoencoder)
    if folder.exists() and not is_latent_folder(folder) and any(file.name != ".lock" for file in folder.iterdir()):
        raise ValueError(f"{folder} holds something else than latents; choose another folder by --out")
    with locked(folder, "encoding"):
        done = _done(folder, manifest) if is_latent_folder(folder) else {}
        manifest["shards"] = [done[name] for name in sorted(done)]
        write_json(folder / MANIFEST, manifest)
        with tqdm(desc=progress, total=manifest["num_samples"], unit="image", disable=not progress) as bar:
            for number in range(number_of_shards(manifest)):
                rows, name = _rows(manifest, number), shard_name(number)
                if name in done:
                    bar.update(len(rows))
                    continue
                done[name] = _write_shard(folder / name, _encoded(manifest, dataset, autoencoder, rows, bar))
                manifest["shards"] = [done[name] for name in sorted(done)]
                write_json(folder / MANIFEST, manifest)
        manifest["statistics"] = channel_statistics(folder, manifest)
        write_json(folder / MANIFEST, manifest)
    return manifest, dataset


def _plan(config: EncodeConfig, dataset: Dataset, autoencoder: Autoencoder) -> dict[str, Any]:
    """What latents.json says before there are any."""
    return {
        "format": FORMAT,
        "source": {
            "data": str(parse(config.data)),
            "fingerprint": dataset.fingerprint,
            "shape": list(dataset.shape),
            "normalisation": dataset.normalisation.describe(),
        },
        "autoencoder": autoencoder.describe(),
        "num_samples": len(dataset.x),
        "num_classes": dataset.num_classes,
        "shape": list(autoencoder.latent_shape(dataset.shape)),
        "flip": dataset.flip if config.flip is None else config.flip,
        "posterior": config.posterior,
        "dtype": config.dtype,
        "shard_size": config.shard_size,
        "about": {key: value for key, value in dataset.about.items() if key == "class_names"},
        "shards": [],
        "statistics": None,
    }


def _done(folder: Path, wanted: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """What an earlier encoding says of its shards that are whole, by name; refuses to go on with another one."""
    there = read_manifest(folder)
    if there["autoencoder"]["identity"] != wanted["autoencoder"]["identity"]:
        raise ValueError(
            f"{folder} was begun with another autoencoder: {there['autoencoder']['source']} of identity "
            f"{there['autoencoder']['identity']}; {wanted['autoencoder']['source']} is {wanted['autoencoder']['identity']}. "
            "Name that one, or choose another folder by --out"
        )
    if there["source"]["fingerprint"] != wanted["source"]["fingerprint"]:
        raise ValueError(
            f"the images {wanted['source']['data']!r} are not those that {folder} was begun with: fingerprint "
            f"{wanted['source']['fingerprint']}, begun with {there['source']['fingerprint']} ({there['source']['data']}). "
            "Encode them into another folder by --out"
        )
    # Where things lie may have changed, and the classes' names: what is encoded is the same.
    free = {"source", "autoencoder", "about", "shards", "statistics"}
    differing = [key for key, value in wanted.items() if key not in free and there[key] != value]
    if differing:
        found = ", ".join(f"{key} {there[key]}" for key in differing)
        raise ValueError(f"{folder} was begun with {found}; go on with that, or choose another folder by --out")
    done = {}
    for facts in there["shards"]:
        if problem := shard_problem(folder, facts):
            warn(folder, f"{problem}; it is made anew")
        else:
            done[facts["file"]] = facts
    return done


def _rows(manifest: Mapping[str, Any], number: int) -> range:
    start = number * manifest["shard_size"]
    return range(start, min(start + manifest["shard_size"], manifest["num_samples"]))


def _encoded(
    manifest: Mapping[str, Any], dataset: Dataset, autoencoder: Autoencoder, rows: range, bar: Any
) -> dict[str, Tensor]:
    """The tensors of a shard."""
    dtype = getattr(torch, manifest["dtype"])
    parts: dict[str, list[Tensor]] = {}
    for start in range(rows.start, rows.stop, BATCH):
        x = dataset.x[start : min(start + BATCH, rows.stop)]
        for suffix, images in (("", x), ("_flipped", x.flip(-1))) if manifest["flip"] else (("", x),):
            mean, std = autoencoder.encode(images)
            for name, value in (("mean", mean), ("std", std)) if manifest["posterior"] else (("mean", mean),):
                parts.setdefault(name + suffix, []).append(value.to(dtype))
        bar.update(len(x))
    tensors = {name: torch.cat(values) for name, values in parts.items()}
    for name, value in tensors.items():
        if not value.isfinite().all():
            first = rows.start + int((~value.flatten(1).isfinite().all(1)).nonzero()[0])
            raise ValueError(
                f"the {name} of image {first} is not finite in {manifest['dtype']}; look at the image, or use float32"
            )
    chosen = slice(rows.start, rows.stop)
    return {**tensors, "split": dataset.split[chosen], **({} if dataset.y is None else {"y": dataset.y[chosen]})}


def _write_shard(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write a shard, whole or not at all; returns its line in latents.json."""
    with new_file(path) as aside:
        save_tensors(aside, tensors)
    return {"file": path.name, "bytes": path.stat().st_size, "blake2b": file_digest(path)}


def channel_statistics(folder: Path, manifest: Mapping[str, Any]) -> dict[str, list[float] | None]:
    """Mean and variance of each channel of the posteriors' means over the training part, and the mean of std²; in float64."""
    count, sums, squares = 0, np.zeros(manifest["shape"][0]), np.zeros(manifest["shape"][0])
    noise = np.zeros_like(sums)
    origin: np.ndarray | None = None
    for facts in manifest["shards"]:
        shard = map_tensors(folder / facts["file"])
        train = shard["split"] == 0
        mean = shard["mean"][train].astype(np.float64)
        # Against a point near the mean, so that little is lost where it is large beside the deviation.
        origin = mean.mean((0, 2, 3), keepdims=True) if origin is None and len(mean) else origin
        if origin is None:
            continue
        sums += (mean - origin).sum((0, 2, 3))
        squares += ((mean - origin) ** 2).sum((0, 2, 3))
        count += mean[:, 0].size
        if "std" in shard:
            noise += (shard["std"][train].astype(np.float64) ** 2).sum((0, 2, 3))
    assert origin is not None  # the training part of no data set is empty
    return {
        "mean": (origin[0, :, 0, 0] + sums / count).tolist(),
        "variance": np.maximum(squares / count - (sums / count) ** 2, 0).tolist(),
        "posterior_variance": (noise / count).tolist() if manifest["posterior"] else None,
    }


@functools.lru_cache(maxsize=1)
def decoder(source: str, identity: str) -> Autoencoder:
    """The autoencoder of some latents; the last one is kept for the next call.

    Raises:
        ValueError, FileNotFoundError: as `load_autoencoder`, saying how to name another place.
    """
    try:
        return load_autoencoder(source, identity)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"{error}. That is where the autoencoder of these latents lay when they were encoded; if it has moved, run kdiff "
            "encode again with its new place, which writes that down, or name it by --autoencoder"
        ) from None
