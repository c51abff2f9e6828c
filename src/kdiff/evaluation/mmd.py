"""Maximum mean discrepancy (Gretton et al., 2012): how far apart two distributions are, as seen by a kernel.

    MMD²(P, Q) = E k(x, x') + E k(y, y') − 2 E k(x, y),        x, x' from P, y, y' from Q, all independent

If k is Gaussian, MMD² is 0 only for equal distributions. Here k is the mean of three Gaussians, exp(−|x − y|² / 2σ²), with σ
half, once and twice the median distance of different samples of the reference, so no scale has to be chosen. Means over pairs
of different samples are unbiased: their expectation is MMD² for any number of samples, and for equal distributions the result
is as often below 0 as above.
"""

from __future__ import annotations

import torch
from torch import Tensor

ELEMENTS = 2**22  # float64 values at once: 32 MiB
PAIRS = 2000  # samples of the reference whose distances give the median


class KernelDistance:
    """MMD² between samples and a reference.

    Args:
        reference: (M, *shape); trailing dimensions are flattened.

    Raises:
        ValueError: fewer than two samples, values that are not finite, or samples that are all the same.
    """

    def __init__(self, reference: Tensor) -> None:
        self.reference = _rows(reference, "the reference")
        some = self.reference[torch.linspace(0, len(reference) - 1, min(PAIRS, len(reference))).long()]
        distances = torch.pdist(some)
        apart = distances[distances > 0]  # in data with few values, most may be equal
        if not len(apart):
            raise ValueError("all samples of the reference are the same; expected some that differ")
        self.median = apart.median().item()
        self._within = self._mean(self.reference, self.reference, same=True)

    def __call__(self, x: Tensor, weights: Tensor | None = None) -> float:
        """Unbiased MMD² between samples x (N, *shape) and the reference: at most 2; for equal distributions about 0, or below.

        With `weights` w (N,) of sum 1, the pair i ≠ j of samples counts w_i w_j / (1 − Σ w²).

        Raises:
            ValueError: fewer than two samples, samples of another dimension, or values that are not finite.
        """
        rows = _rows(x, "the set of samples").to(self.reference.device)
        if rows.shape[1] != self.reference.shape[1]:
            raise ValueError(f"samples have dimension {rows.shape[1]}; the reference has {self.reference.shape[1]}")
        if weights is not None:
            w, v = weights.to(rows), torch.full((len(self.reference),), 1 / len(self.reference)).to(rows)
            own = w.square().sum().item()
            within = (self._weighted(rows, rows, w, w) - own) / (1 - own)
            return within + self._within - 2 * self._weighted(rows, self.reference, w, v)
        return self._mean(rows, rows, same=True) + self._within - 2 * self._mean(rows, self.reference)

    def _mean(self, a: Tensor, b: Tensor, same: bool = False) -> float:
        """The kernel's mean over pairs; for a set and itself, over pairs of different samples."""
        total, size = 0.0, max(1, ELEMENTS // len(b))
        for part in a.split(size):
            # The other kernels are the 4th and 16th power of the widest, with σ = 2 m.
            wide = torch.cdist(part, b).square_().mul_(-1 / (8 * self.median**2)).exp_()
            middle = wide.square().square_()
            total += (wide.sum() + middle.sum() + middle.square_().square_().sum()).item() / 3
        return (total - len(a)) / (len(a) * (len(a) - 1)) if same else total / (len(a) * len(b))

    def _weighted(self, a: Tensor, b: Tensor, weights_a: Tensor, weights_b: Tensor) -> float:
        """The kernel's sum over all pairs, each times both its weights."""
        total, size = 0.0, max(1, ELEMENTS // len(b))
        for part, weights in zip(a.split(size), weights_a.split(size)):
            wide = torch.cdist(part, b).square_().mul_(-1 / (8 * self.median**2)).exp_()
            middle = wide.square().square_()
            total += (weights @ (wide + middle + middle.square().square_()) @ weights_b).item() / 3
        return total


def _rows(x: Tensor, name: str) -> Tensor:
    if x.ndim < 2 or len(x) < 2:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; expected at least two samples, (N, *shape)")
    if not x.isfinite().all():
        raise ValueError(f"{name} has values that are not finite (NaN or infinite)")
    return x.detach().flatten(1).double()
