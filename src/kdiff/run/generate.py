"""Any number of samples of a model. Sample i has the same conditions and noise (a stochastic solver's too) in any batch."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from kdiff.data.progress import shown
from kdiff.model import KDiff
from kdiff.run.given import Given
from kdiff.sampling import draw_noise
from kdiff.sampling.finite import FiniteWatch
from kdiff.sampling.times import uniform_times

Batch = tuple[range, Tensor, dict[str, Any]]  # indices, noise and conditions


def balanced_labels(indices: range, counts: list[int]) -> Tensor:
    """Labels for the samples with these indices, in the proportions of `counts`, evenly spread over any range of indices.

    Sample i takes the class at the quantile frac(i · golden ratio). Like its noise, its class does not depend on the batch.
    """
    share = torch.tensor(counts, dtype=torch.float64)
    quantiles = (torch.tensor([index + 0.5 for index in indices], dtype=torch.float64) * (5**0.5 - 1) / 2) % 1
    return torch.searchsorted((share / share.sum()).cumsum(0), quantiles, right=True).clamp(max=len(counts) - 1)


@torch.no_grad()
def generate(
    model: KDiff,
    num: int,
    shape: tuple[int, ...],
    class_counts: list[int] | Given | None = None,
    seed: int = 0,
    batch_size: int = 500,
    start: int = 0,
    progress: str | None = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """The samples number start … start + num − 1 of a model (normalised), and their labels, on the CPU.

    `class_counts` is the number of training samples of each class, for labels in these proportions, or says in full under which
    conditions samples are drawn.
    `options` are those of `KDiff.sample`. `progress` is the name of the progress bar; None shows no bar. Sample i is the same
    for every start and num. If the batches are the same too, it is the same to the last bit. A warning says how many samples
    are not finite, and since which step, unless the `callback` is a `FiniteWatch`.
    """
    callback = options.pop("callback", None)
    options["callback"] = watch = callback if isinstance(callback, FiniteWatch) else FiniteWatch(callback)
    samples, labels = [], []
    batches = _batches(model, range(start, start + num), shape, class_counts, seed, batch_size)
    for indices, noise, conditions in _shown(batches, num, progress):
        samples.append(model.sample(noise, indices=indices, seed=seed, **conditions, **options).cpu())
        labels.append(conditions["y"].cpu() if "y" in conditions else torch.empty(0))
    if watch.wrong and watch is not callback:
        warnings.warn(str(watch), stacklevel=3)  # beyond torch.no_grad
    return torch.cat(samples), torch.cat(labels) if "y" in conditions else None


@torch.no_grad()
def generate_ends(
    model: KDiff,
    last_steps: Sequence[Literal["euler", "data"]],
    num: int,
    shape: tuple[int, ...],
    class_counts: list[int] | Given | None = None,
    seed: int = 0,
    batch_size: int = 500,
    steps: int = 50,
    progress: str | None = None,
    **options: Any,
) -> list[Tensor]:
    """The samples of `generate` for each of these last steps. The steps before the last (at least one) are shared.

    A warning says how many samples are not finite.
    """
    grid = uniform_times(steps)
    samples: list[list[Tensor]] = [[] for _ in last_steps]
    start, finish = FiniteWatch(after=1), FiniteWatch(before=steps - 1)
    for indices, noise, conditions in _shown(_batches(model, range(num), shape, class_counts, seed, batch_size), num, progress):
        options = {**options, "indices": indices, "seed": seed}
        z = model.sample(noise, times=grid[:-1], last_step="euler", callback=start, **conditions, **options)
        for ends, last_step in zip(samples, last_steps):
            end = model.sample(z, times=grid[-2:], last_step=last_step, callback=finish, **conditions, **options)
            ends.append(end.cpu())
    if start.wrong or finish.wrong:
        warnings.warn(str(start if start.wrong else finish), stacklevel=3)
    return [torch.cat(ends) for ends in samples]


def evaluation_of(model: KDiff, shape: tuple[int, ...], given: Given) -> Callable[[int], Tensor]:
    """A function of n that evaluates the network once for n samples at t = ½; n may be up to the number it was first given."""
    drawn: list[Batch] = []

    @torch.no_grad()
    def evaluate(count: int) -> Tensor:
        if not drawn or len(drawn[0][0]) < count:
            drawn[:] = _batches(model, range(count), shape, given, 0, count)
        _, noise, conditions = drawn[0]
        return model.predict(noise[:count], 0.5, **{name: values[:count] for name, values in conditions.items()})

    return evaluate


def _shown(batches: Iterator[Batch], num: int, progress: str | None) -> Iterator[Batch]:
    return shown(batches, num, progress, lambda batch: len(batch[0]), "sample") if progress else batches


def _batches(
    model: KDiff, samples: range, shape: tuple[int, ...], class_counts: list[int] | Given | None, seed: int, batch_size: int
) -> Iterator[Batch]:
    """The indices, the noise and the conditions of these samples, batch by batch, on the device of the model."""
    given = class_counts if isinstance(class_counts, Given) else Given(class_counts)
    device = next(itertools.chain(model.parameters(), model.buffers())).device
    for start in range(samples.start, samples.stop, batch_size):
        indices = range(start, min(start + batch_size, samples.stop))
        conditions: dict[str, Any] = {name: rows.to(device) for name, rows in given.chosen(indices).items()}
        if given.counts and "y" not in conditions:
            conditions["y"] = balanced_labels(indices, given.counts).to(device)
        yield indices, model.noise_scale * draw_noise(indices, shape, seed).to(device), conditions
