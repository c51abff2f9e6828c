"""Train a small autoencoder into a run folder, with the same loop as every model.

    config.yaml, metrics.jsonl, checkpoints/, …    as in every run folder
    autoencoder/                                   the averaged weights in diffusers' format, once training is done
    finished.json                                  seconds, and how well held-out images are reconstructed

A factor and a shift, saved with the autoencoder, bring its latents to mean 0 and variance 1 over the training part. The quality
of reconstruction is the peak signal-to-noise ratio, PSNR = 10 log₁₀(2² / mean square error) in dB for values in [−1, 1].
"""

from __future__ import annotations

import math
import sys
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdiff.config.autoencoding import AutoencoderConfig
from kdiff.data import Dataset, Samples
from kdiff.files.atomic import new_folder, write_json
from kdiff.latent import Autoencoder, load_autoencoder, small_autoencoder
from kdiff.run.build import load_dataset
from kdiff.run.contents import read_finished
from kdiff.run.folder import check_place, nothing_to_resume, precision_of, prepare_folder
from kdiff.run.lock import locked
from kdiff.run.metrics import check_tensorboard
from kdiff.run.processes import join_processes
from kdiff.sampling.noise import mix_seed
from kdiff.training.choosing import faster_precision
from kdiff.training.loop import fit
from kdiff.training.objective import AutoencoderObjective

MAX_JUDGED = 2048  # images on which the scale of latents and the quality are measured


@dataclass
class TrainedAutoencoder:
    """A finished autoencoder, its run folder, its data, and the content of finished.json."""

    autoencoder: Autoencoder
    folder: Path
    dataset: Dataset
    facts: dict[str, Any]


def train_autoencoder(
    config: AutoencoderConfig, folder: Path, resume: bool = False, progress: str | None = None
) -> TrainedAutoencoder:
    """Train an autoencoder on the training part of image data, and load it.

    Args:
        config: the settings of autoencoder and training.
        folder: the run folder; created if it does not exist.
        resume: continue from the newest whole checkpoint in `folder`; a finished run is only loaded.
        progress: the title of the progress bar; None for no bar.

    Raises:
        ValueError: the data are not images in [−1, 1], or their sides cannot be halved often enough; diffusers is not
            installed; or `train_run` would refuse the folder.
        Stopped: SIGTERM or Ctrl-C arrived while training, and the current step is saved. See `fit` for other failures.
    """
    check_place(folder)
    processes = join_processes()
    if processes.is_main_process and resume and progress and (nothing := nothing_to_resume(folder)):
        print(nothing, file=sys.stderr)
    if config.tensorboard:
        check_tensorboard()
    dataset = load_dataset(config)
    check_images(dataset)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(mix_seed(config.seed))
        module: Any = small_autoencoder(dataset.shape[0], config.channels, config.latent_channels, config.layers_per_block)
    factor = 2 ** (len(config.channels) - 1)
    if any(side % factor for side in dataset.shape[1:]):
        raise ValueError(
            f"channels has {len(config.channels)} levels, which divide the sides of images by {factor}; found images of "
            f"{dataset.shape[1]}×{dataset.shape[2]}. Use fewer levels, or resize the images (--data.size)"
        )
    objective, faster = AutoencoderObjective(module, config.kl_weight, config.reconstruction), None
    config = replace(config, precision=precision_of(config, folder, resume))
    if config.precision == "auto":
        facts = config.channels, config.latent_channels, config.layers_per_block, dataset.shape
        faster = faster_precision(objective, dataset.part("train")[0], {}, config, "autoencoder", *facts)
        config = replace(config, precision=faster.precision)
        if progress and processes.is_main_process:
            print(faster, file=sys.stderr)
    with locked(folder) if processes.is_main_process else nullcontext():
        if processes.is_main_process:
            chose = asdict(faster) if faster else None
            prepare_folder(config, dataset, folder, resume, processes.num_processes, chose)
        processes.wait_for_everyone()
        if not (resume and (folder / "finished.json").exists()):
            x, _ = dataset.part("train", augment=True)
            fitted = fit(objective, x, None, config, folder=folder, resume=resume, progress=progress)
            if processes.is_main_process:
                module.load_state_dict({**module.state_dict(), **fitted.ema.averages[config.ema[0]]})
                heldout = _finish(module, dataset, folder)
                write_json(folder / "finished.json", {"seconds": fitted.seconds, "last": fitted.metrics, "heldout": heldout})
            processes.wait_for_everyone()
    return TrainedAutoencoder(load_autoencoder(folder), folder, dataset, read_finished(folder))


def check_images(dataset: Dataset) -> None:
    """Raises ValueError unless the samples are images with values scaled to [−1, 1], as autoencoders need them."""
    if len(dataset.shape) != 3 or dataset.normalisation.kind != "range":
        raise ValueError(
            f"{dataset.name} has samples of shape {dataset.shape}, normalised by {dataset.normalisation.kind!r}; autoencoders "
            "take images (C, H, W) with a known range of values: a folder of images, a named data set of images, or an array "
            "of images with normalise='range' and a value_range"
        )


def _finish(module: Any, dataset: Dataset, folder: Path) -> dict[str, float]:
    """Save the autoencoder with the scale of its latents; returns its quality on held-out images."""
    autoencoder = Autoencoder(module, str(folder))
    latents, _ = autoencoder.encode(_some(dataset.part("train")[0]))
    deviation, shift = (float(value) for value in torch.std_mean(latents.double(), correction=0))
    module.register_to_config(scaling_factor=1 / deviation if deviation > 0 else 1.0, shift_factor=shift)
    with new_folder(folder / "autoencoder") as aside:
        module.save_pretrained(aside)
    return reconstruction_quality(autoencoder, _some(dataset.part("heldout")[0]))


def _some(x: Samples) -> Tensor:
    """Up to `MAX_JUDGED` evenly spaced samples."""
    return x[torch.linspace(0, len(x) - 1, min(len(x), MAX_JUDGED), dtype=torch.float64).long()]


def reconstruction_quality(autoencoder: Autoencoder, x: Tensor) -> dict[str, float]:
    """Mean square error and PSNR (dB) of images x (N, C, H, W) in [−1, 1], reconstructed from the means of their posteriors."""
    error = (autoencoder.decode(autoencoder.encode(x)[0]) - x).double().square().mean().item()
    return {"mse": error, "psnr": 10 * math.log10(4 / error) if error > 0 else math.inf}
