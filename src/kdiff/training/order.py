"""The samples in the batch of step s depend only on (seed, s), so resuming needs no saved position.

Epoch e is a permutation seeded by (seed, e). Batches are cut from the endless sequence of permutations; no sample is dropped.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from kdiff.sampling.noise import mix_seed


class DataOrder:
    """The order of `num_samples` samples in batches of `batch_size`."""

    def __init__(self, num_samples: int, batch_size: int, seed: int) -> None:
        self.num_samples, self.batch_size, self.seed = num_samples, batch_size, seed
        self._permutation = functools.lru_cache(maxsize=2)(self._make_permutation)

    def _make_permutation(self, epoch: int) -> Tensor:
        generator = torch.Generator().manual_seed(mix_seed(self.seed, epoch))
        return torch.randperm(self.num_samples, generator=generator)

    def batch(self, step: int) -> Tensor:
        """The indices of the samples of batch number `step`: shape (batch_size,), int64."""
        start, parts = step * self.batch_size, []
        stop = start + self.batch_size
        while start < stop:
            epoch, offset = divmod(start, self.num_samples)
            part = self._permutation(epoch)[offset : offset + stop - start]
            parts.append(part)
            start += len(part)
        return torch.cat(parts)
