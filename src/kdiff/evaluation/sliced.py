"""Sliced 2-Wasserstein distance (Rabin et al., 2012; Bonneel et al., 2015).

    SW(A, B)^2 = E_theta W2^2(theta . A, theta . B),    theta uniform on the unit sphere of R^D

In one dimension W2 is the L2 distance of the quantile functions, `W2^2 = int_0^1 (F_a^-1(q) - F_b^-1(q))^2 dq`. For samples,
these functions are steps at multiples of 1/N_a and 1/N_b, so the integral is a finite sum over the merged breakpoints. The sum
is exact for any two counts; for equal counts it is the mean squared difference of the sorted values. Weights of samples are
the widths of the steps.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

ELEMENTS = 2**23  # projected values held at once: 32 MiB in float32
KEPT = 2**25  # projected values of the second set that are kept for further distances: 128 MiB in float32


def sliced_wasserstein(a: Tensor, b: Tensor, projections: int = 512, seed: int = 0, weights: Tensor | None = None) -> float:
    """Sliced 2-Wasserstein distance of the samples `a` and `b`, in units of the data.

    A shift by s gives |s| / sqrt(D) in expectation: this is a distance per dimension. Like every distance between samples it is
    biased upward for few samples; compare only figures of equal counts.

    Args:
        a: (Na, *shape); trailing dimensions are flattened to D.
        b: (Nb, *shape); Nb may differ from Na.
        projections: random directions to average over; the same for the same seed and D, whatever the counts.
        seed: seed of the directions.
        weights: (Na,) with sum 1, of the samples in `a`; all are equal if left out.

    Raises:
        ValueError: different D, sets that are empty or not (N, *shape), values that are not finite, or
            fewer than one projection.
    """
    return SlicedDistance(b, projections, seed)(a, weights)


class SlicedDistance:
    """The sliced distance of any samples to the samples `b`, whose sorted projections are kept, up to 128 MiB of them.

    The arguments, the distance and the errors are those of `sliced_wasserstein`.
    """

    def __init__(self, b: Tensor, projections: int = 512, seed: int = 0) -> None:
        if projections < 1:
            raise ValueError(f"projections must be at least 1, got {projections}")
        _check("second", b)
        self.b, self.projections, self.seed = b.detach().flatten(1), projections, seed
        self._kept: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    def __call__(self, a: Tensor, weights: Tensor | None = None) -> float:
        """The distance of the samples a (N, *shape), which have these weights (N,) with sum 1 if any."""
        _check("first", a)
        dtype = torch.promote_types(torch.promote_types(a.dtype, self.b.dtype), torch.float32)
        device = a.device
        a, b = a.detach().to(dtype).flatten(1), self.b.to(device, dtype)
        if a.shape[1] != b.shape[1]:
            raise ValueError(f"the samples have different dimensions: {a.shape[1]} and {b.shape[1]}")
        index_a, index_b, widths = _merged_quantiles(len(a), len(b))
        index_a, index_b, widths = index_a.to(device), index_b.to(device), widths.to(device, dtype)
        generator = torch.Generator().manual_seed(self.seed)
        chunk = max(1, ELEMENTS // (len(widths) if weights is None else len(a) + len(b)))
        total = 0.0
        for start in range(0, self.projections, chunk):
            count = min(chunk, self.projections - start)
            # One draw per direction, so that the directions do not depend on the chunk and hence not on the counts.
            rows = [torch.randn(a.shape[1], generator=generator) for _ in range(count)]
            theta = torch.nn.functional.normalize(torch.stack(rows).to(a), dim=1)
            sorted_a, sorted_b = (theta @ a.T).sort(dim=1), self._sorted(b, theta, start)
            if weights is None:
                squares = (sorted_a.values[:, index_a] - sorted_b[:, index_b]).square()
                total += float((squares @ widths).cpu().double().sum())
            else:
                total += _weighted_squares(
                    sorted_a.values.cpu(), weights.cpu().double()[sorted_a.indices.cpu()], sorted_b.cpu()
                )
        return math.sqrt(total / self.projections)

    def _sorted(self, b: Tensor, theta: Tensor, start: int) -> Tensor:
        """The sorted projections of b on the directions theta, the first of which has the number `start`."""
        if self.projections * len(b) > KEPT:
            return (theta @ b.T).sort(dim=1).values
        name = b.dtype, b.device
        if name not in self._kept:
            self._kept[name] = b.new_empty(self.projections, len(b)), torch.zeros(self.projections, dtype=torch.bool)
        values, ready = self._kept[name]
        rows = slice(start, start + len(theta))
        if not ready[rows].all():
            values[rows], ready[rows] = (theta @ b.T).sort(dim=1).values, True
        return values[rows]


def _check(name: str, samples: Tensor) -> None:
    if samples.ndim < 2 or samples.numel() == 0:
        raise ValueError(f"the {name} set must be samples of shape (N, *shape), N > 0, got {tuple(samples.shape)}")
    if not samples.isfinite().all():
        raise ValueError(f"the {name} set of samples has values that are not finite (NaN or infinite)")


def _weighted_squares(a: Tensor, weights: Tensor, b: Tensor) -> float:
    """Sum over the rows of W2² of sorted values a (rows, Na) with these weights, float64, and sorted values b (rows, Nb)."""
    steps_a = weights.cumsum(dim=1)
    steps_b = (torch.arange(1, b.shape[1] + 1).double() / b.shape[1]).expand(len(b), -1).contiguous()
    ends = torch.cat([steps_a, steps_b], dim=1).clamp(max=1).sort(dim=1).values
    widths = ends.diff(dim=1, prepend=torch.zeros(len(a), 1, dtype=ends.dtype))
    middles = ends - widths / 2  # inside a piece, where rounding of its ends does not matter
    at_a, at_b = (torch.searchsorted(steps, middles).clamp(max=steps.shape[1] - 1) for steps in (steps_a, steps_b))
    return float(((a.gather(1, at_a) - b.gather(1, at_b)).double().square() * widths).sum())


def _merged_quantiles(count_a: int, count_b: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pieces of [0, 1] on which both quantile functions are constant: index in sorted a, index in sorted b, and width.

    In units of 1 / (count_a count_b) every breakpoint is an integer, so the merge is exact.
    """
    steps = torch.cat([torch.arange(count_a) * count_b, torch.arange(count_b) * count_a])
    starts = steps.unique()
    ends = torch.cat([starts[1:], starts.new_tensor([count_a * count_b])])
    return starts // count_b, starts // count_a, (ends - starts).double() / (count_a * count_b)
