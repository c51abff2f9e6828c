"""The samples that others are compared with: a limited number of each part, in the class proportions of training."""

from __future__ import annotations

import torch
from torch import Tensor

from kdiff.data import Dataset

# From larger parts, this many samples are drawn at random, because files are often sorted.
MAX_REFERENCE = 5000  # training samples, or held-out samples, to compare with


def drawn(num: int, limit: int, labels: Tensor | None = None) -> Tensor:
    """The rows of up to `limit` of `num` samples: all in order, or a fixed random draw, with labels in their proportions."""
    if num <= limit:
        return torch.arange(num)
    rows = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    return (rows if labels is None else rows[in_turn(labels[rows])])[:limit]


def in_turn(labels: Tensor) -> Tensor:
    """An order of the rows in which every consecutive part has about the class proportions of all."""
    position = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        rows = torch.nonzero(labels == label).flatten()
        position[rows] = (torch.arange(len(rows)) + 0.5).double() / len(rows)
    return position.argsort(stable=True)


def matched_heldout(dataset: Dataset) -> Tensor:
    """The held-out part, at most `MAX_REFERENCE`; with labels, as much of it as has the class proportions of training.

    Proportions that differ by chance would change the Fréchet distance more than any error of the samples.
    """
    x, y = dataset.part("heldout")
    labels = dataset.part("train")[1]
    if y is None or labels is None:
        return x[drawn(len(x), MAX_REFERENCE)]
    share = torch.bincount(labels, minlength=dataset.num_classes).double() / len(labels)
    there = torch.bincount(y, minlength=dataset.num_classes)
    total = min((int(there[c]) / float(share[c]) for c in range(len(share)) if share[c] > 0), default=0.0)
    kept = [torch.nonzero(y == c).flatten()[: round(total * float(share[c]))] for c in range(len(share))]
    if sum(map(len, kept)) < 2 * len(share):
        raise ValueError(
            f"{dataset.name} holds out {there.tolist()} samples per class; training has the shares "
            f"{[round(s, 3) for s in share.tolist()]}: too few to hold out a set of the same proportions"
        )
    rows = torch.cat(kept)
    return x[rows[in_turn(y[rows])][:MAX_REFERENCE]]
