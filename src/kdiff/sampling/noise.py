"""Noise for sampling: every sample draws from its own generator, seeded by (seed, index).

So sample number 17 starts from the same bytes for every batch size, number of processes and order. Results do not change with
the hardware, and a single sample can be drawn again.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

MASK = (1 << 64) - 1


def mix_seed(*numbers: int) -> int:
    """One 63-bit seed from several numbers (SplitMix64 finaliser). Neighbouring inputs give unrelated seeds."""
    state = 0
    for number in numbers:
        state = (state + (number & MASK) + 0x9E3779B97F4A7C15) & MASK
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
        state ^= state >> 31
    return state >> 1


def draw_noise(indices: int | Iterable[int], shape: Sequence[int], seed: int = 0) -> Tensor:
    """Standard normal noise of shape (len(indices), *shape), float32, on the CPU.

    Args:
        indices: the indices of the samples, or their number (then 0, 1, …).
        shape: the shape of one sample.
        seed: another seed gives other samples.
    """
    indices = [int(index) for index in (indices if isinstance(indices, Iterable) else range(operator.index(indices)))]
    noise = torch.empty(len(indices), *shape)
    for row, index in zip(noise, indices):
        row.normal_(generator=torch.Generator().manual_seed(mix_seed(seed, index)))
    return noise
