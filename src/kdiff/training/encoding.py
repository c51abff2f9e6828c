"""Encode images into a folder of latents (see `kdiff.data.latents`).

A shard is written whole or not at all, and latents.json lists it once it is written. An interrupted encoding resumes with the
first missing shard and ends with the same bytes on the same machine. Statistics are computed when all shards exist.

Several processes (torchrun) take the missing shards in turn, each one shard at a time; the first process updates latents.json.
On CPUs the bytes depend on the number of threads of each process, not on the number of processes.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor
from tqdm import tqdm

from kdiff.config.autoencoding import EncodeConfig
from kdiff.config.parts import Part
from kdiff.config.plain import Precision
from kdiff.data import SOURCES, Dataset
from kdiff.data.latent_conditions import condition_tensors, describe_conditions
from kdiff.data.latents import FORMAT, MANIFEST, is_latent_folder, number_of_shards, read_manifest, shard_name, shard_problem
from kdiff.data.progress import shown
from kdiff.data.shards import map_tensors
from kdiff.files.atomic import file_digest, is_leftover, new_file, write_json
from kdiff.files.tensors import save_tensors
from kdiff.latent import Autoencoder, load_autoencoder
from kdiff.model import autocast_to
from kdiff.run.build import load_dataset
from kdiff.run.folder import warn
from kdiff.run.lock import check_held, locked
from kdiff.run.precision_choice import choose_precision
from kdiff.run.processes import join_processes
from kdiff.training.small_autoencoder import check_images

ABOUT = ("class_names", "unreadable")  # facts about the images that latents.json repeats
BATCH = 256  # images read at a time; the autoencoder takes large images in smaller batches


def encode(config: EncodeConfig, folder: Path, progress: str | None = None) -> tuple[dict[str, Any], Dataset]:
    """Encode images into a folder of latents, or resume an interrupted encoding.

    Every process returns the content of latents.json and the images once all shards exist.

    Args:
        config: what to encode, and how.
        folder: where to write; created if it does not exist. Its whole shards are kept; its damaged shards are encoded again.
        progress: the title of the progress bar; None for no bar.

    Raises:
        ValueError: the data are not images, or the autoencoder cannot encode them; `posterior` with an autoencoder that has
            no posterior; the folder holds other files, or latents of other images, of another autoencoder or with other
            options; the latents are not finite.
        OSError: a shard cannot be written; earlier shards stay.
    """
    processes = join_processes()
    autoencoder = load_autoencoder(config.autoencoder)
    if config.posterior and not autoencoder.kind.posterior:
        raise ValueError(
            f"posterior is true, but the autoencoder {autoencoder.source} is an {autoencoder.kind.name}, which gives a latent "
            "and no posterior; leave --posterior out"
        )
    dataset = load_dataset(config)
    check_images(dataset)
    config = replace(config, precision=_precision(config, folder, dataset, autoencoder, progress is not None))
    manifest = _plan(config, dataset, autoencoder)
    fields = [name for name, condition in dataset.conditions.items() if condition.spec.kind == "field"]
    if manifest["flip"] and fields:
        raise ValueError(
            f"flip is true, and the images have the field {fields[0]} as a condition, which is not mirrored with them; leave "
            "--flip out, or set it to false"
        )
    main = processes.is_main_process
    if main and folder.exists() and not is_latent_folder(folder) and not all(map(_is_ours, folder.iterdir())):
        raise ValueError(f"{folder} holds files that are not latents; choose another folder with --out")
    with locked(folder, "encoding") if main else nullcontext():
        if main:
            there = _done(folder, manifest, dataset) if is_latent_folder(folder) else {}
            if len(there) == number_of_shards(manifest):  # the latents are complete and stay usable
                manifest["statistics"] = read_manifest(folder)["statistics"]
            _list(folder, manifest, there)
        processes.wait_for_everyone()
        _encode_missing(folder, manifest, dataset, autoencoder, processes, progress if main else None)
        if main and manifest["statistics"] is None:
            manifest["statistics"] = channel_statistics(folder, manifest)
            write_json(folder / MANIFEST, manifest)
        processes.wait_for_everyone()
    return read_manifest(folder), dataset


def _precision(config: EncodeConfig, folder: Path, dataset: Dataset, autoencoder: Autoencoder, say: bool) -> Precision:
    """The precision of the configuration; if it is to be chosen, that of the latents in the folder, or else the faster one."""
    if config.precision != "auto":
        return config.precision
    if is_latent_folder(folder):
        found: Precision = read_manifest(folder).get("precision", "no")
        return found

    def work(count: int) -> Tensor:
        return autoencoder.encode(dataset.x[torch.arange(count) % len(dataset.x)])[0]

    device, facts = autoencoder.module.device, (autoencoder.identity, dataset.shape)
    choice = choose_precision("an encoding", work, BATCH, device, *facts)
    if say and join_processes().is_main_process:
        print(choice, file=sys.stderr)
    return choice.precision


def _is_ours(file: Path) -> bool:
    """Whether an encoding that was killed before it wrote latents.json can have left this file."""
    return file.name == ".lock" or is_leftover(file)


def _encode_missing(
    folder: Path,
    manifest: dict[str, Any],
    dataset: Dataset,
    autoencoder: Autoencoder,
    processes: PartialState,
    progress: str | None,
) -> None:
    """Encode the shards that latents.json does not list, and list them; each process takes one shard at a time."""
    shards = {facts["file"]: facts for facts in read_manifest(folder)["shards"]}
    missing = [number for number in range(number_of_shards(manifest)) if shard_name(number) not in shards]
    size, count = manifest["num_samples"], processes.num_processes
    done = size - sum(len(_rows(manifest, number)) for number in missing)
    with tqdm(desc=progress, total=size, initial=done, unit="image", disable=not progress) as bar:
        for start in range(0, len(missing), count):
            together, written = missing[start : start + count], []
            if processes.process_index < len(together):
                number = together[processes.process_index]
                tensors = _encoded(manifest, dataset, autoencoder, _rows(manifest, number), bar)
                written = [_write_shard(folder / shard_name(number), tensors)]
            shards |= {facts["file"]: facts for facts in gather_object(written)}
            if processes.is_main_process:
                _list(folder, manifest, shards)
            bar.update(sum(len(_rows(manifest, number)) for number in together[1:]))


def _list(folder: Path, manifest: dict[str, Any], shards: Mapping[str, dict[str, Any]]) -> None:
    check_held(folder)
    manifest["shards"] = [shards[name] for name in sorted(shards)]
    write_json(folder / MANIFEST, manifest)


def _plan(config: EncodeConfig, dataset: Dataset, autoencoder: Autoencoder) -> dict[str, Any]:
    """The content of latents.json before any shard is written."""
    data = config.data
    if data.name not in SOURCES and Path(data.name).exists():  # absolute, so that any working folder can resume
        data = Part(str(Path(data.name).absolute()), data.options, data.values)
    return {
        "format": FORMAT,
        "source": {
            "data": str(data),
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
        **({} if config.precision == "no" else {"precision": config.precision}),
        "about": {key: value for key, value in dataset.about.items() if key in ABOUT},
        **({"conditions": describe_conditions(dataset.conditions)} if dataset.conditions else {}),
        "shards": [],
        "statistics": None,
    }


def unlike(there: Mapping[str, Any], images: Dataset) -> str:
    """The differences between images and a description of images, such as data.json, as text; empty if there are none.

    The fingerprint covers raw values and labels only, so normalisation and the number of classes are compared too.
    """
    found = {
        "fingerprint": images.fingerprint,
        "normalisation": images.normalisation.describe(),
        "num_classes": images.num_classes,
    }
    return ", ".join(f"{key} is {value}, was {there[key]}" for key, value in found.items() if there[key] != value)


def _done(folder: Path, wanted: Mapping[str, Any], images: Dataset) -> dict[str, dict[str, Any]]:
    """The entries of latents.json for the whole shards of an earlier encoding, by name; refuses a different encoding."""
    there = read_manifest(folder)
    if there["autoencoder"]["identity"] != wanted["autoencoder"]["identity"]:
        raise ValueError(
            f"{folder} was begun with another autoencoder, {there['autoencoder']['source']} (identity "
            f"{there['autoencoder']['identity']}); found {wanted['autoencoder']['source']} (identity "
            f"{wanted['autoencoder']['identity']}). Use the first one, or choose another folder with --out"
        )
    if difference := unlike({**there, **there["source"]}, images):
        raise ValueError(
            f"the images {wanted['source']['data']!r} differ from the images that {folder} was begun with "
            f"({there['source']['data']}): {difference}. Choose another folder for them with --out"
        )
    # Locations and the names of classes may differ; they do not change the latents.
    free = {"source", "autoencoder", "about", "shards", "statistics"}
    names = [key for key in {**wanted, "conditions": {}, "precision": ""} if key not in free]
    if found := ", ".join(f"{key} {there.get(key, 'no')}" for key in names if there.get(key) != wanted.get(key)):
        raise ValueError(f"{folder} was begun with {found}; use the same, or choose another folder with --out")
    done = {}
    for facts in shown(there["shards"], len(there["shards"]), f"checking {folder}", unit="shard"):
        if problem := shard_problem(folder, facts):
            warn(folder, f"{problem}; the shard is encoded again")
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
            with autocast_to(manifest.get("precision", "no"), autoencoder.module.device):
                mean, std = (each.float() for each in autoencoder.encode(images))
            for name, value in (("mean", mean), ("std", std)) if manifest["posterior"] else (("mean", mean),):
                parts.setdefault(name + suffix, []).append(value.to(dtype))
        bar.update(len(x))
    tensors = {name: torch.cat(values) for name, values in parts.items()}
    for name, value in tensors.items():
        if not value.isfinite().all():
            first = rows.start + int((~value.flatten(1).isfinite().all(1)).nonzero()[0])
            raise ValueError(
                f"the {name} of image {first} is not finite in {manifest['dtype']}; check the image, or use float32"
            )
    chosen = slice(rows.start, rows.stop)
    labels = {} if dataset.y is None else {"y": dataset.y[chosen]}
    return {**tensors, "split": dataset.split[chosen], **labels, **condition_tensors(dataset.conditions, chosen)}


def _write_shard(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Write a shard, whole or not at all; returns its entry in latents.json."""
    with new_file(path) as aside:
        save_tensors(aside, tensors)
    return {"file": path.name, "bytes": path.stat().st_size, "blake2b": file_digest(path)}


def channel_statistics(folder: Path, manifest: Mapping[str, Any]) -> dict[str, list[float] | None]:
    """Mean and variance of each channel of the posterior means, and the mean of std², over the training part, in float64."""
    count, sums, squares = 0, np.zeros(manifest["shape"][0]), np.zeros(manifest["shape"][0])
    noise = np.zeros_like(sums)
    origin: np.ndarray | None = None
    for facts in shown(manifest["shards"], len(manifest["shards"]), "statistics of channels", unit="shard"):
        shard = map_tensors(folder / facts["file"])
        train = shard["split"] == 0
        mean = shard["mean"][train].astype(np.float64)
        # Sums relative to a point near the mean keep precision where the mean is much larger than the deviation.
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
