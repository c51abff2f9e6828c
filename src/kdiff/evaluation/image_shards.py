"""A run's samples for evaluation, in shards: an interrupted evaluation continues, and n processes share the work.

    FOLDER/settings.json               all that the samples depend on
    FOLDER/samples_00000.safetensors   images uint8 (n, C, H, W), and y int64 (n,) with labels

Sample i has its own noise and its own label, and is always drawn in a batch with the same samples: a shard is a whole number
of batches, drawn in full and cut only when read. So its bytes depend neither on the number of samples nor on the number of
processes. Process r of n draws the shards r, r + n, …. A shard is written whole or not at all. Shards also serve other
features.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from kdiff.config.evaluation import EvaluateConfig
from kdiff.config.sampling import sampler_options
from kdiff.evaluation.images import Images, check_image_shape, quantise, value_range
from kdiff.files.atomic import new_file, read_json, write_json
from kdiff.files.tensors import load_tensors, save_tensors
from kdiff.model import KDiff
from kdiff.run.generate import generate
from kdiff.run.lock import check_held
from kdiff.run.processes import join_processes
from kdiff.run.run import Run
from kdiff.sampling.finite import check_finite

SHARD = 512  # the approximate number of samples in a shard
SETTINGS = "settings.json"


def sample_settings(run: Run, config: EvaluateConfig) -> dict[str, Any]:
    """All that the samples of a run depend on, except their number."""
    return {
        "step": run.step,
        "weights": run.weights,
        "weights_digest": weights_digest(run.model),
        "seed": config.seed,
        "labels": None if run.class_counts is None else "in the proportions of the training data",
        "sampler": {name: list(v) if isinstance(v, tuple) else v for name, v in sampler_options(config).items()},
        "precision": str(next(iter(run.model.parameters())).dtype).removeprefix("torch.") + _half(run.model),
        "device": next(iter(run.model.parameters())).device.type,
        "batch_size": config.batch_size,
        "autoencoder": run.latents and run.latents["autoencoder"]["identity"],
        "value_range": list(image_range(run)),
        **({"calibrated": True} if run.calibrated else {}),
        **({"conditions": f"the {len(run.given)} examples of the run, in turn"} if run.given.rows else {}),
    }


def _half(model: KDiff) -> str:
    """What a record adds to the precision of the weights where the network computes in another."""
    return "" if model.precision == "no" else f", network in {model.precision}"


def settings_digest(settings: dict[str, Any]) -> str:
    """8 hex digits that identify settings."""
    return hashlib.blake2b(repr(sorted(settings.items())).encode(), digest_size=4).hexdigest()


def weights_digest(model: KDiff) -> str:
    """16 hex digits of a hash of a model's weights, including k."""
    digest = hashlib.blake2b(digest_size=8)
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def image_shape(run: Run) -> tuple[int, int, int]:
    """The shape of the images that a run samples; samples that are not images raise ValueError."""
    return check_image_shape(str(run.folder), tuple(run.latents["images"]["shape"]) if run.latents else run.shape)


def image_range(run: Run) -> tuple[float, float]:
    """The values of black and white in the images of `decoded`."""
    return (-1.0, 1.0) if run.latents else value_range(run.data)


def decoded(run: Run, x: Tensor) -> Tensor:
    """The images (N, C, H, W), as floats, of normalised samples x of a run; latents are decoded by their autoencoder.

    Raises:
        ValueError, FileNotFoundError: the autoencoder cannot be found, or is another one.
    """
    return run.decode(run.normalisation.undo(x)) if run.latents else x


def prepare_samples(run: Run, config: EvaluateConfig, folder: Path) -> None:
    """Begin a folder of samples, or continue an existing one; only one process may call this.

    Raises:
        ValueError: the folder holds samples with other settings, or the run's samples are not images.
        FileNotFoundError: the autoencoder of a run on latents cannot be found.
    """
    image_shape(run)
    decoded(run, torch.zeros(1, *run.shape))  # fails without the right autoencoder
    settings = sample_settings(run, config)
    if (folder / SETTINGS).exists():
        there = read_json(folder / SETTINGS, {...: object}, "remove the folder, and its samples are drawn again")
        differing = [name for name, value in settings.items() if there.get(name) != value]
        if differing:
            found = ", ".join(f"{name} {there.get(name)}" for name in differing)
            raise ValueError(f"{folder} holds samples with {found}; choose another folder with --out, or omit --out")
        return
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SETTINGS, settings)


def draw_samples(run: Run, config: EvaluateConfig, folder: Path, progress: str | None = None) -> Images:
    """Draw the missing samples of a prepared folder, each process its share; returns when all samples exist.

    Args:
        run: the run to sample from.
        config: how to sample, and num_samples.
        folder: as `prepare_samples` left it.
        progress: label of the progress bar; None for no bar.

    Raises:
        RuntimeError: samples that are not finite.
        OSError: a shard cannot be written; earlier shards stay.
        FolderReplaced: the folder, or that of the run around it, was removed or replaced.
    """
    processes, shape = join_processes(), image_shape(run)
    size = config.batch_size * max(1, SHARD // config.batch_size)
    own = range(processes.process_index, math.ceil(config.num_samples / size), processes.num_processes)
    with tqdm(desc=progress, total=len(own) * size, unit="sample", disable=not progress) as bar:
        for number in own:
            path, first = _path(folder, number), number * size
            # The last shard is drawn only as far as needed, in whole batches; for more samples it is drawn again.
            needed = min(size, math.ceil((config.num_samples - first) / config.batch_size) * config.batch_size)
            if not _whole(path, needed, shape):
                _draw_shard(run, config, path, range(first, first + needed), bar)
            else:
                bar.update(needed)
    processes.wait_for_everyone()
    return Images(config.num_samples, shape, lambda batch: _read(folder, size, config.num_samples, batch), {})


def _draw_shard(run: Run, config: EvaluateConfig, path: Path, rows: range, bar: Any) -> None:
    images, labels = [], []
    options: dict[str, Any] = {"batch_size": config.batch_size, **sampler_options(config)}
    for first in range(rows.start, rows.stop, config.batch_size):
        x, y = generate(run.model, config.batch_size, run.shape, run.given, config.seed, start=first, **options)
        pictures = decoded(run, x)
        check_finite(pictures, f"samples of {run.folder}")
        images.append(quantise(pictures, *image_range(run)).cpu())
        labels.append(y)
        bar.update(len(x))
    tensors = {"images": torch.cat(images)}
    if any(y is not None for y in labels):
        tensors["y"] = torch.cat([y for y in labels if y is not None])
    run.place.check(path)
    check_held(path.parent)
    with new_file(path) as aside:
        save_tensors(aside, tensors)


def _path(folder: Path, number: int) -> Path:
    return folder / f"samples_{number:05d}.safetensors"


def _whole(path: Path, needed: int, shape: tuple[int, ...]) -> bool:
    """Whether a shard exists, undamaged and with enough samples."""
    if not path.exists():
        return False
    try:
        images = load_tensors(path)["images"]
    except (ValueError, KeyError):
        return False
    return len(images) >= needed and tuple(images.shape[1:]) == shape


def _read(folder: Path, size: int, num: int, batch: int) -> Iterator[Tensor]:
    for number in range(math.ceil(num / size)):
        check_held(folder)
        yield from load_tensors(_path(folder, number))["images"][: min(size, num - number * size)].split(batch)
