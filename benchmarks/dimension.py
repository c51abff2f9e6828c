"""Measure time, processor time and peak memory of estimating the intrinsic dimension of N points in D dimensions.

    python benchmarks/dimension.py [--points 50000] [--dimension 3072] [--intrinsic 30]

The points are Gaussian on a subspace of the intrinsic dimension, plus 1 % of noise in all dimensions, in float32. All points
are used: TwoNN and MLE search all pairs. Peak memory is that of the process; it includes the data and the imports.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
import torch

from kdiff.theory.intrinsic_dimension import estimate_dimensions


def noisy_subspace(points: int, dimension: int, intrinsic: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((dimension, intrinsic)))[0].T.astype(np.float32)
    x = rng.standard_normal((points, dimension), dtype=np.float32)
    x *= np.float32(0.01)
    for start in range(0, points, 1000):
        x[start : start + 1000] += rng.standard_normal((len(x[start : start + 1000]), intrinsic), dtype=np.float32) @ basis
    return x


def peak_gigabytes() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--points", type=int, default=50000)
    parser.add_argument("--dimension", type=int, default=3072)
    parser.add_argument("--intrinsic", type=int, default=30)
    arguments = parser.parse_args()
    x = noisy_subspace(arguments.points, arguments.dimension, arguments.intrinsic)
    before = peak_gigabytes()
    began, worked = time.perf_counter(), time.process_time()
    estimates = estimate_dimensions(x, max_points=arguments.points)
    seconds, processor = time.perf_counter() - began, time.process_time() - worked
    print(f"{arguments.points:,} × {arguments.dimension:,}, {torch.get_num_threads()} threads")
    print(f"{seconds:.1f} s, processor time {processor:.1f} s")
    print(f"peak memory {peak_gigabytes():.2f} GB, {before:.2f} GB with the data alone")
    for estimate in estimates:
        print(f"    {estimate}")


if __name__ == "__main__":
    main()
