"""Measure how long the training loop waits for data: a folder of images, shards of latents, float fields in HDF5.

    OMP_NUM_THREADS=1 python benchmarks/waiting.py [--images 20000] [--gigabytes 0.5] [--steps 30] [--repeats 3]

Each kind of data is opened by `kdiff.data.load` and trained on by the loop of `kdiff train` with a JiT of 4 × 192, batch 64.
"waits" is the share of the loop's time that it spends on getting a batch (reading what was not yet read ahead, normalising,
stacking), over all steps after the first three: the median and the range over the repeats. The files were written just before,
so they come from the system's memory.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from indexing import write_images
from latents import write_shards
from reading import Timed, write

from kdiff import KDiff
from kdiff.config.training import LoopConfig
from kdiff.data import LatentSamples, Normalisation, load, samples
from kdiff.networks import find_network
from kdiff.training.loop import fit
from kdiff.training.objective import DiffusionObjective

BATCH, WARM_UP = 64, 3
LATENT = (4, 32, 32)  # a row has four arrays of this shape


def images(folder: Path, options: argparse.Namespace) -> samples.Samples:
    """A folder of PNG files of 32 × 32, in classes."""
    write_images(folder, options.images, 32, ".png")
    return opened(folder)


def latents(folder: Path, options: argparse.Namespace) -> samples.Samples:
    """Shards of means and deviations, mirrored half of the time, with the noise of the posterior."""
    count = int(options.gigabytes * 1e9 / (4 * 4 * np.prod(LATENT)))
    array = np.random.default_rng(0).standard_normal((count, *LATENT), np.float32)
    shift, scale = (torch.full((LATENT[0], 1, 1), value) for value in (0.1, 2.0))
    normalisation = Normalisation("channels", shift, scale)
    return LatentSamples(write_shards(folder, array), normalisation, flip=True, posterior=True, augment=True)


def fields(folder: Path, options: argparse.Namespace) -> samples.Samples:
    """Float fields (3, 64, 64) in chunks of one row."""
    write(folder / "fields.h5", options.gigabytes)
    return opened(folder / "fields.h5")


def opened(path: Path) -> samples.Samples:
    began = time.perf_counter()
    data = load(path)
    x = data.part("train")[0]
    print(f"{path.suffix or 'folder'}: opened in {time.perf_counter() - began:.1f} s, {len(x)} samples to train on", flush=True)
    return x


class Counted(Timed):
    """Samples that start to count when the first batches have been read."""

    def __init__(self, inner: samples.Samples) -> None:
        super().__init__(inner)
        self.batches, self.began = 0, 0.0

    def __getitem__(self, rows: int | slice | torch.Tensor) -> torch.Tensor:
        self.batches += 1
        if self.batches == WARM_UP + 1:
            self.waited, self.began = 0.0, time.perf_counter()
        return super().__getitem__(rows)


def waits(x: samples.Samples, steps: int) -> tuple[float, float]:
    """Seconds of a step, and the share of them that the loop waits for data."""
    torch.manual_seed(0)
    shape = tuple(x.shape[1:])
    spec = f"JiT(patch_size={max(2, shape[-1] // 8)}, hidden_size=192, depth=4, num_heads=3)"
    network = find_network(spec, channels=shape[0], image_size=shape[1:], num_classes=0)()
    counted = Counted(x)
    config = LoopConfig(steps=WARM_UP + steps, batch_size=BATCH, log_every=WARM_UP + steps)
    fit(DiffusionObjective(KDiff(network)), counted, None, config)
    spent = time.perf_counter() - counted.began
    return spent / steps, counted.waited / spent


KINDS: dict[str, Callable[[Path, argparse.Namespace], samples.Samples]] = {
    "images": images,
    "latents": latents,
    "fields": fields,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=20000, help="the number of images")
    parser.add_argument("--gigabytes", type=float, default=0.5, help="the size of the latents, and of the fields")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS))
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # remarks on random data
    lines = []
    for kind in options.kinds:
        with tempfile.TemporaryDirectory() as temporary:
            os.environ["KDIFF_CACHE"] = f"{temporary}/cache"
            x = KINDS[kind](Path(temporary), options)
            found = [waits(x, options.steps) for _ in range(options.repeats)]
            shares = [share for _, share in found]
            step = statistics.median(seconds for seconds, _ in found)
            spread = f"{statistics.median(shares):.2%} ({min(shares):.2%} to {max(shares):.2%})"
            size = "×".join(map(str, x.shape[1:]))
            lines.append(f"| {kind} | {len(x)} × {size} | {step:.4f} | {spread} | {options.repeats} × {options.steps} |")
    print("| data | samples | a step, s | waits | steps |\n| --- | --- | --- | --- | --- |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
