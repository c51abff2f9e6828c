"""The samples that others are compared with: a limited number of each part, in the class proportions of training."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from kdiff.data import Dataset, ImageSamples, LatentSamples, Samples

# From larger parts, this many samples are drawn at random, because files are often sorted.
MAX_REFERENCE = 5000  # training samples, or held-out samples, to compare with
ENTRIES = 2**27  # of fields that are read from disk: of large ones, fewer rows are compared with, but at least 50
LEAST_KEPT = 1 / 2  # of the held-out samples; if fewer can be kept in the class proportions, all are used with weights
FEW = 2  # classes of which fewer samples than this are expected in a set count as one class
NAMED = 5  # classes that a note names


@dataclass(frozen=True)
class HeldOut:
    """Held-out samples in the class proportions of training.

    Attributes:
        x: (N, *shape).
        weights: (N,) float64 with sum 1, if only weights give the samples these proportions; else None.
        facts: for the record of a result: the number of samples, of all held-out samples, and the note if there is one; for
            weighted samples also `equal_count` and the numbers of the classes that are unusual.
        note: one line on what is unusual; empty if nothing is.
    """

    x: Tensor
    weights: Tensor | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    note: str = ""

    @property
    def equal_count(self) -> int:
        """The number of samples of equal weight whose mean is as exact: 1 / Σ w², at least 2."""
        return len(self.x) if self.weights is None else max(2, round(1 / self.weights.square().sum().item()))


def most_rows(samples: Samples, limit: int) -> int:
    """How many rows of these samples to compare with: `limit`, or fewer of large fields that are read from disk."""
    if isinstance(samples, Tensor | ImageSamples | LatentSamples):
        return limit
    return min(limit, max(50, ENTRIES // max(1, math.prod(samples.shape[1:]))))


def drawn(num: int, limit: int, labels: Tensor | None = None) -> Tensor:
    """The rows of up to `limit` of `num` samples: all in order, or a fixed random draw, with labels in their proportions."""
    if num <= limit:
        return torch.arange(num)
    rows = torch.randperm(num, generator=torch.Generator().manual_seed(0))
    if labels is None:
        return rows[:limit]
    return rows[in_turn(strata(torch.bincount(labels), limit)[labels[rows]])][:limit]


def strata(counts: Tensor, size: int) -> Tensor:
    """For classes with these numbers of samples, the group of each class in a set of `size` samples.

    The group of a class is the class itself. Classes of which fewer than `FEW` samples are expected share the last group:
    their single proportions cannot be kept, because a class with half a sample in the set would be missing or be doubled.
    """
    return torch.where(counts * size < FEW * counts.sum(), len(counts), torch.arange(len(counts)))


def in_turn(labels: Tensor) -> Tensor:
    """An order of the rows in which every consecutive part has about the class proportions of all."""
    position = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        rows = torch.nonzero(labels == label).flatten()
        position[rows] = (torch.arange(len(rows)) + 0.5).double() / len(rows)
    return position.argsort(stable=True)


def matched_heldout(dataset: Dataset) -> HeldOut:
    """The held-out part, at most `MAX_REFERENCE` samples; with labels, in the class proportions of training.

    Proportions that differ by chance would change the Fréchet distance more than any error of the samples. So samples of
    classes that are too frequent are left out. If this would leave out more than half, because some class is small, all
    samples are used, each with the weight

        share of its class in training / number of held-out samples of its class

    Small classes count as one class here. A class without a held-out sample is missing; samples of a class that is not trained
    on are left out.

    Raises:
        ValueError: fewer than two held-out samples of the classes in training.
    """
    x, y = dataset.part("heldout")
    labels = dataset.part("train")[1]
    if y is None or labels is None:
        rows = drawn(len(x), most_rows(x, MAX_REFERENCE))
        return HeldOut(x[rows], facts={"samples": len(rows), "held_out": len(x)})
    counts = torch.bincount(labels, minlength=dataset.num_classes)
    there = torch.bincount(y, minlength=dataset.num_classes)
    share = counts.double() / len(labels)
    total = min((int(there[c]) / float(share[c]) for c in range(len(share)) if share[c] > 0), default=0.0)
    kept = torch.cat([torch.nonzero(y == c).flatten()[: round(total * float(share[c]))] for c in range(len(share))])
    trained = int(there[counts > 0].sum())
    if len(kept) < 2 or min(len(kept), MAX_REFERENCE) < LEAST_KEPT * min(trained, MAX_REFERENCE):
        return _weighted(dataset, y, counts)
    rows = kept[in_turn(y[kept])][:MAX_REFERENCE]
    return _told(dataset, HeldOut(x[rows]), y, counts, torch.zeros_like(counts, dtype=torch.bool))


def _weighted(dataset: Dataset, y: Tensor, counts: Tensor) -> HeldOut:
    """The held-out samples, with labels y, weighted to the proportions of the numbers of training samples per class."""
    group_of = strata(counts, min(len(y), MAX_REFERENCE))
    wanted = torch.zeros(len(counts) + 1, dtype=torch.float64).index_add_(0, group_of, counts.double())
    known = torch.nonzero(wanted[group_of[y]] > 0).flatten()  # rare classes that training has not are like those that it has
    if len(known) < 2:
        here, trained = (numbers[: 2 * NAMED].tolist() for numbers in (y.bincount(minlength=len(counts)), counts))
        more = ", …" if len(counts) > 2 * NAMED else ""
        raise ValueError(
            f"{dataset.name} holds out {here}{more} samples per class and trains on {trained}{more}; expected at least 2 "
            "held-out samples of the classes in training: give more samples, or load the data without labels"
        )
    known = known[in_turn(group_of[y[known]])]
    rows = known[drawn(len(known), MAX_REFERENCE, group_of[y[known]])]
    groups = group_of[y[rows]]
    there = torch.bincount(groups, minlength=len(wanted))
    weights = (wanted / there)[groups]
    held = HeldOut(dataset.part("heldout")[0][rows], weights / weights.sum())
    missing = (there[group_of] == 0) & (counts > 0)
    return _told(dataset, held, y, counts, missing, (group_of == len(counts)) & (counts > 0) & ~missing)


def _told(
    dataset: Dataset, held: HeldOut, y: Tensor, counts: Tensor, missing: Tensor, together: Tensor | None = None
) -> HeldOut:
    """The held-out samples with the facts and the note on them; the classes are given as masks."""
    facts: dict[str, Any] = {"samples": len(held.x), "held_out": len(y)}
    said = []
    if held.weights is not None:
        facts |= {"equal_count": held.equal_count, "as_one_class": _numbers(together), "missing": _numbers(missing)}
        said.append(
            f"few samples of some classes are held out, so {facts['samples']} of {facts['held_out']} held-out samples are used "
            f"with weights, in the class proportions of training (as exact as {facts['equal_count']} of equal weight)"
        )
        if len(facts["as_one_class"]) > 1:
            said.append(f"{len(facts['as_one_class'])} small classes are weighted as one")
        if facts["missing"]:
            share = float(counts[missing].sum() / counts.sum())
            said.append(f"none of {_named(dataset, facts['missing'])} is held out ({share:.2g} of training)")
    unknown = (
        [] if together is not None and together.any() else _numbers((counts == 0) & (y.bincount(minlength=len(counts)) > 0))
    )
    if unknown:
        facts["not_trained"] = unknown
        said.append(f"held-out samples of {_named(dataset, unknown)} are left out, because training has none")
    if not said:
        return replace(held, facts=facts)
    note = f"{dataset.name}: {'; '.join(said)}"
    return replace(held, facts={**facts, "note": note}, note=note)


def _numbers(classes: Tensor | None) -> list[int]:
    """The numbers of the classes of a mask."""
    return [] if classes is None else torch.nonzero(classes).flatten().tolist()


def _named(dataset: Dataset, classes: list[int]) -> str:
    """The first few of these classes, by number and name."""
    names = dataset.about.get("class_names") or []
    listed = ", ".join(f"{c} ({names[c]})" if c < len(names) else str(c) for c in classes[:NAMED])
    more = f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
    return f"{'class' if len(classes) == 1 else 'classes'} {listed}{more}"
