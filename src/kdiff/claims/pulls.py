"""What pulls k when the network is perfect: the gradient of w under an exact denoiser, k = sigmoid(w), for either loss."""

from __future__ import annotations

import math
import statistics
from functools import lru_cache
from typing import Literal

import torch

from kdiff.claims.quality import training_samples
from kdiff.evaluation.exact import ExactDenoiser
from kdiff.path import LinearPath
from kdiff.targets import FixedK, LearnedK

Space = Literal["u", "v"]
SPACES: tuple[Space, Space] = ("u", "v")
PROBED = (0.1, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99)
BATCH, POINTS = 256, 2000


@lru_cache
def pulls(data: str, batches: int) -> dict[Space, dict[float, tuple[float, float]]]:
    """The gradient of w by loss and k, for an exact denoiser of up to 2,000 training samples.

    Mean and standard error over batches. Both losses and all k see the same samples, noise and times.
    """
    x, y = training_samples(data)
    x, y = x[:POINTS], None if y is None else y[:POINTS]
    x_hat, minus_n_hat = (ExactDenoiser(x, FixedK(name), LinearPath(), y) for name in ("data", "noise"))
    targets, generator = {k: LearnedK(init=k, rate=1.0) for k in PROBED}, torch.Generator().manual_seed(0)
    found: dict[Space, dict[float, list[float]]] = {space: {k: [] for k in PROBED} for space in SPACES}
    for _ in range(batches):
        rows = torch.randint(len(x), (BATCH,), generator=generator)
        n, t = torch.randn(x[rows].shape, generator=generator), torch.rand(BATCH, generator=generator)
        z, labels = LinearPath().mix(x[rows], n, t), None if y is None else y[rows]
        best = x_hat(z, t, labels), -minus_n_hat(z, t, labels)
        for k, target in targets.items():
            # û is the output of a network: it does not change with k.
            u_hat = target.encode(*best, t).detach()
            for space in SPACES:
                error = target.velocity_error if space == "v" else target.output_error
                (gradient,) = torch.autograd.grad(error(u_hat, x[rows], n, t).square().mean(), target.w)
                found[space][k].append(gradient.item())
    return {
        space: {k: (statistics.mean(v), statistics.stdev(v) / math.sqrt(len(v))) for k, v in by_k.items()}
        for space, by_k in found.items()
    }
