"""Training from a float32 HDF5 file against training from memory: time of a step, resident memory, and waiting for data.

    OMP_NUM_THREADS=1 python benchmarks/reading.py [--gigabytes 0.5] [--steps 30] [--repeats 3] [--folder /tmp]

It writes a file of samples (3, 64, 64) in chunks of one row, opens it by `kdiff.data.load` and trains one small model from the
file and from memory in turn. Memory holds at most 256 MB of the same samples, so that large files can be compared. Resident
memory is what the streamed training holds beyond the libraries, without pages of the file that the system may drop. The file is
removed at the end.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import h5py
import numpy as np
import torch

from kdiff import KDiff
from kdiff.config.training import LoopConfig
from kdiff.data import load, samples
from kdiff.networks import find_network
from kdiff.training.loop import fit
from kdiff.training.objective import DiffusionObjective

SHAPE, BATCH = (3, 64, 64), 64


def write(path: Path, gigabytes: float) -> int:
    """Write random fields; returns their number."""
    row = 4 * int(np.prod(SHAPE))
    count, rng = int(gigabytes * 1e9 // row), np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        fields = file.create_dataset("fields", (count, *SHAPE), "f4", chunks=(1, *SHAPE))
        for start in range(0, count, 1024):
            stop = min(start + 1024, count)
            fields[start:stop] = rng.standard_normal((stop - start, *SHAPE), np.float32)
    return count


def resident(what: str = "VmHWM") -> float:
    """Resident memory of this process in GB: VmHWM is the most so far, VmRSS that of now. Linux only."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[what].split()[0]) * 1024 / 1e9


class Timed(samples.LazySamples):
    """Samples that count how long the loop waits for them."""

    def __init__(self, inner: samples.Samples) -> None:
        self.inner, self.waited = inner, 0.0

    def __len__(self) -> int:
        return len(self.inner)

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *shape of a sample)."""
        return tuple(self.inner.shape)

    def __getitem__(self, rows: int | slice | torch.Tensor) -> torch.Tensor:
        began = time.perf_counter()
        batch = self.inner[rows]
        self.waited += time.perf_counter() - began
        return batch

    def select(self, rows: torch.Tensor) -> samples.LazySamples:
        """Not used here."""
        raise NotImplementedError

    def ahead(self, rows: torch.Tensor) -> None:
        """Pass on."""
        if isinstance(self.inner, samples.LazySamples):
            self.inner.ahead(rows)


def train(x: samples.Samples, steps: int) -> tuple[float, float]:
    """Seconds of a step, and the share of them that the loop waits for data."""
    torch.manual_seed(0)
    spec = "JiT(patch_size=8, hidden_size=192, depth=4, num_heads=3)"
    network = find_network(spec, channels=SHAPE[0], image_size=SHAPE[1:], num_classes=0)()
    timed = Timed(x)
    fitted = fit(DiffusionObjective(KDiff(network)), timed, None, LoopConfig(steps=steps, batch_size=BATCH, log_every=steps))
    return fitted.seconds / steps, timed.waited / fitted.seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=0.5)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        path = Path(folder) / "fields.h5"
        count = write(path, args.gigabytes)
        libraries, began = resident("VmRSS"), time.perf_counter()
        dataset = load(path)
        x = dataset.part("train")[0]
        print(f"{path.stat().st_size / 1e9:.2f} GB, {count} samples; opened in {time.perf_counter() - began:.1f} s")
        train(x, 3)
        from_disk = [train(x, args.steps)]
        print(f"resident after training from disk: {resident():.2f} GB at most ({libraries:.2f} GB before opening)")
        rows = torch.arange(min(len(x), 2**28 // (4 * int(np.prod(SHAPE)))))
        memory, in_memory = x[rows], []
        for _ in range(args.repeats):
            in_memory.append(train(memory, args.steps))
            from_disk.append(train(x, args.steps))
        ratios = [disk[0] / mem[0] for disk, mem in zip(from_disk[1:], in_memory)]
        listed = ", ".join(f"{ratio:.3f}" for ratio in ratios)
        print(f"step from disk over step from memory: {listed}; median {statistics.median(ratios):.3f}")
        print(f"step: {statistics.median(s for s, _ in in_memory):.4f} s in memory")
        for name, found in (("disk", from_disk), ("memory", in_memory)):
            print(f"waiting for data, {name}: {statistics.median(share for _, share in found):.2%} of the loop")


if __name__ == "__main__":
    main()
