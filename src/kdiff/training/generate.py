"""Samples of a model in any number: sample i has the same noise and label whatever the batch size and the process."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from kdiff.model import KDiff
from kdiff.sampling import draw_noise


def balanced_labels(indices: range, counts: list[int]) -> Tensor:
    """Labels for the samples with these indices, in the proportions of `counts`, evenly spread over any run of indices.

    Sample i takes the class at the quantile frac(i · golden ratio): like the noise, it does not depend on the batch.
    """
    share = torch.tensor(counts, dtype=torch.float64)
    quantiles = (torch.tensor([index + 0.5 for index in indices], dtype=torch.float64) * (5**0.5 - 1) / 2) % 1
    return torch.searchsorted((share / share.sum()).cumsum(0), quantiles, right=True).clamp(max=len(counts) - 1)


@torch.no_grad()
def generate(
    model: KDiff,
    num: int,
    shape: tuple[int, ...],
    class_counts: list[int] | None = None,
    seed: int = 0,
    batch_size: int = 500,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Samples number 0 … num − 1 of a model (normalised) and their labels, on the CPU; `options` as for `KDiff.sample`."""
    device = next(itertools.chain(model.parameters(), model.buffers())).device
    samples, labels = [], []
    for start in range(0, num, batch_size):
        indices = range(start, min(start + batch_size, num))
        conditions: dict[str, Any] = {}
        if class_counts:
            labels.append(balanced_labels(indices, class_counts))
            conditions["y"] = labels[-1].to(device)
        noise = draw_noise(indices, shape, seed).to(device)
        samples.append(model.sample(noise, **conditions, **options).cpu())
    return torch.cat(samples), torch.cat(labels) if labels else None
