"""Compare reading batches of latents by `LatentSamples` from shards with NumPy's indexing of one mapped array.

    python benchmarks/latents.py [--folder FOLDER] [--batches 50]

The output is samples per second at the median time of a batch of 128 random rows. The ways of reading take turns:

    NumPy       rows of one mapped .npy in float32, without further work: the speed of memory
    normalised  the same rows, brought to mean 0 and variance 1 per channel, which every reader must do
    shards      the means, from shards of 4096 latents
    flip        with the latents of mirrored images half of the time
    posterior   also with noise, seeded per sample: twice as much to read, and a normal random number for every entry

The files were written and read once before, so they are read from the system's memory, not from the disk.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file

from kdiff.data import LatentSamples, Normalisation
from kdiff.data.shards import Sharded, map_tensors

BATCH, SHARD = 128, 4096
# Shape: number of latents. The shapes are of Fashion-MNIST, of Stable Diffusion at 256 pixels, and of VA-VAE.
SHAPES = {(4, 7, 7): 65536, (4, 32, 32): 16384, (32, 16, 16): 8192}


def median_seconds(ways: dict[str, Callable[[torch.Tensor], object]], num_samples: int, batches: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for batch in range(batches + 3):
        for name, read in ways.items():
            # Each way of reading draws its own rows, because the rows of the previous one are in the processor's cache.
            rows = torch.randint(num_samples, (BATCH,), generator=generator)
            began = time.perf_counter()
            read(rows)
            if batch >= 3:  # the first few warm up
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def write_shards(folder: Path, array: np.ndarray) -> dict[str, Sharded]:
    parts = []
    for start in range(0, len(array), SHARD):
        cut = array[start : start + SHARD]
        path = folder / f"{start}.safetensors"
        save_file({"mean": cut, "std": np.abs(cut), "mean_flipped": cut[..., ::-1].copy(), "std_flipped": np.abs(cut)}, path)
        parts.append(map_tensors(path))
    return {name: Sharded([part[name] for part in parts]) for name in parts[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the files are written (up to 1.4 GB); a temporary folder by default")
    parser.add_argument("--batches", type=int, default=50)
    arguments = parser.parse_args()
    print(f"batches of {BATCH}, shards of {SHARD}, {torch.get_num_threads()} threads, samples/s")
    names = ("NumPy", "normalised", "shards", "flip", "posterior")
    print(f"{'latent':>12}" + "".join(f"{name:>12}" for name in names))
    for shape, count in SHAPES.items():
        with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
            array = np.random.default_rng(0).standard_normal((count, *shape), np.float32)
            np.save(Path(folder) / "all.npy", array)
            tensors = write_shards(Path(folder), array)
            del array
            plain = np.load(Path(folder) / "all.npy", mmap_mode="r")
            for part in (plain, *(part for sharded in tensors.values() for part in sharded.parts)):
                part.max()
            shift, scale = (np.full((shape[0], 1, 1), value, np.float32) for value in (0.1, 2.0))
            normalisation = Normalisation("channels", torch.from_numpy(shift), torch.from_numpy(scale))

            def normalised(rows: torch.Tensor, plain: np.ndarray = plain, shift=shift, scale=scale) -> np.ndarray:
                x = np.asarray(plain[rows.numpy()])
                x -= shift
                x /= scale
                return x

            ways: dict[str, Callable[[torch.Tensor], object]] = {
                "NumPy": lambda rows, plain=plain: np.asarray(plain[rows.numpy()]),
                "normalised": normalised,
                "shards": LatentSamples(tensors, normalisation).__getitem__,
                "flip": LatentSamples(tensors, normalisation, flip=True, augment=True).__getitem__,
                "posterior": LatentSamples(tensors, normalisation, flip=True, posterior=True, augment=True).__getitem__,
            }
            seconds = median_seconds(ways, count, arguments.batches)
            print(f"{'×'.join(map(str, shape)):>12}" + "".join(f"{BATCH / seconds[name]:>12,.0f}" for name in names))


if __name__ == "__main__":
    main()
