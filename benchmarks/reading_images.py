"""Compare reading batches of images by `ImageSamples` (uint8 in a mapped file, normalised to float32) with NumPy's indexing.

    python benchmarks/reading_images.py [--folder FOLDER] [--batches 30]

The output is samples per second at the median time of a batch of 128 random rows. The ways of reading take turns. The file was
written just before, so it is read from the system's memory, not from the disk. So the figures show the cost of normalising.
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

from kdiff.data import ImageSamples, Normalisation

BATCH = 128
SAMPLES = {28: 60000, 64: 20000, 256: 2000}


def median_seconds(ways: dict[str, Callable[[torch.Tensor], object]], num_samples: int, batches: int) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for batch in range(batches + 3):
        rows = torch.randint(num_samples, (BATCH,), generator=generator)
        for name, read in ways.items():
            began = time.perf_counter()
            read(rows)
            if batch >= 3:  # the first few warm up
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(values) for name, values in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, help="where the arrays are written (400 MB); a temporary folder by default")
    parser.add_argument("--batches", type=int, default=30)
    arguments = parser.parse_args()
    normalisation = Normalisation("range", torch.tensor(127.5), torch.tensor(127.5))
    print(f"batches of {BATCH}, {torch.get_num_threads()} threads, samples/s")
    print(f"{'image':>12} {'NumPy, uint8':>14} {'NumPy, float32':>15} {'ImageSamples':>14} {'with flip':>12}")
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for size, count in SAMPLES.items():
            path, channels = Path(folder) / f"{size}.npy", 1 if size == 28 else 3
            np.save(path, np.random.default_rng(0).integers(0, 256, (count, channels, size, size), dtype=np.uint8))
            raw = np.load(path, mmap_mode="r")
            samples = ImageSamples(np.asarray(raw), normalisation, np.arange(count))
            flipped = ImageSamples(np.asarray(raw), normalisation, np.arange(count), flip=True)

            def as_float(rows: torch.Tensor, raw: np.ndarray = raw) -> np.ndarray:
                return (raw[rows.numpy()].astype(np.float32) - np.float32(127.5)) / np.float32(127.5)

            ways: dict[str, Callable[[torch.Tensor], object]] = {
                "numpy": lambda rows, raw=raw: raw[rows.numpy()],
                "float": as_float,
                "samples": samples.__getitem__,
                "flip": flipped.__getitem__,
            }
            seconds = median_seconds(ways, count, arguments.batches)
            rates = {name: BATCH / value for name, value in seconds.items()}
            print(
                f"{f'{channels}×{size}×{size}':>12} {rates['numpy']:>14,.0f} {rates['float']:>15,.0f} "
                f"{rates['samples']:>14,.0f} {rates['flip']:>12,.0f}"
            )


if __name__ == "__main__":
    main()
