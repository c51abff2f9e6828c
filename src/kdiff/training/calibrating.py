"""Finding a `Calibration` of a trained model: least squares for every direction and time, on training data.

Let c = B (x̂ − m) be the model's data prediction and r = B (x − x̂) its error. The least squares of r against σ h c at a knot t_j
give, for every direction i,

    h_ij = b/a,    a = Σ c_i²,    b = Σ c_i r_i / σ(t_j)        sums over samples, in units of the velocity

For an exact network x̂ = E[x | z], so E b = 0, and h is an error of sampling. So each h_ij is multiplied by the s in [0, 1] that
is best on samples that it was not fitted on. With h₋ₖ from all folds of rows except k, and with sums over a window of
neighbouring knots,

    s_ij = Σ_k h₋ₖ b_k / Σ_k h₋ₖ² a_k,    clipped to [0, 1]

For independent Gaussian errors this is the estimate of James and Stein, 1 − 1/F. The whole procedure is then repeated without
each fold in turn. Unless it lowers the error of every fold that it has not seen, the calibration is the identity. Where a
direction is empty, a = 0, h is 0.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdiff.data import Dataset, Samples
from kdiff.data.directions import moments
from kdiff.data.progress import shown
from kdiff.model import KDiff
from kdiff.run.run import Run
from kdiff.sampling import draw_noise
from kdiff.sampling.noise import mix_seed
from kdiff.targets.bases import MAX_DENSE, Basis, make_basis
from kdiff.targets.calibration import Calibration
from kdiff.training.objective import by_name

KNOTS = 32  # times at which h is found
LATE, LAST = 0.15, 3e-3  # how much denser knots are towards t = 1, and 1 − t where they end
SAMPLES = 1024  # training samples for each of them
FOLDS = 8
WINDOW = (1.0, 2.0, 3.0, 2.0, 1.0)  # weights of neighbouring knots in the shrinkage
EMPTY = 1e-12  # the share of the mean of c² below which a direction counts as empty
FEW = 2048  # rows whose mean is taken, beyond D = 4096
BATCH_BYTES = 2**24  # of float32, for the samples of a batch

Conditions = Mapping[str, Samples] | Tensor | None  # by name, or labels alone


@dataclass(frozen=True)
class Sums:
    """The sums a and b, (knots, folds, *coefficient_shape), and the squared error Σ r² / σ², (knots, folds)."""

    a: Tensor
    b: Tensor
    error: Tensor


@torch.no_grad()
def predictions(
    model: KDiff,
    x: Samples,
    y: Conditions,
    times: Tensor,
    samples: int,
    seed: int = 0,
    folds: int = 1,
    progress: str | None = None,
) -> Iterator[tuple[int, int, Tensor, Tensor]]:
    """Data and their predictions: (number of the time, fold, x, x̂) for `samples` rows at each time, batch by batch.

    The rows are drawn at random without repetition, as far as there are enough, and a row is always in the same fold. The
    noise depends on the number of the sample alone. The prediction has no clamp and, if the model has a calibration, has it.
    """
    device = next(itertools.chain(model.parameters(), model.buffers())).device
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(mix_seed(seed, len(x))))
    size = max(1, BATCH_BYTES // (4 * x[:1].numel()))
    parts = [
        (at, fold, part)
        for at in range(len(times))
        for fold in range(folds)
        for part in torch.arange(at * samples, (at + 1) * samples).split(samples)
        for part in part[(part % len(x)) % folds == fold].split(size)
    ]
    was_training = model.training
    model.eval()
    try:
        for at, fold, numbers in shown(parts, len(times) * samples, progress, lambda p: len(p[2])) if progress else parts:
            rows = order[numbers % len(x)]
            data, t = x[rows].to(device), times[at].to(device)
            conditions = {name: values[rows].to(device) for name, values in by_name(y).items()}
            n = model.noise_scale * draw_noise(numbers.tolist(), x.shape[1:], seed).to(device)
            z = model.path.mix(data, n, t)
            yield at, fold, data, model.path.data(z, model.velocity(z, t, min_denominator=0.0, **conditions), t)
    finally:
        model.train(was_training)


def gather(
    model: KDiff, x: Samples, y: Conditions, calibration: Calibration, samples: int, seed: int, progress: str | None
) -> Sums:
    """The sums of the regression at the knots of a calibration, whose h plays no part."""
    basis, knots = calibration.basis, calibration.knots
    shape = (len(knots), FOLDS, *basis.coefficient_shape)
    a, b, error = torch.zeros(shape), torch.zeros(shape), torch.zeros(shape[:2], dtype=torch.float64)
    shared = (1,) * (len(basis.coordinate_shape) - len(basis.coefficient_shape)) + basis.coefficient_shape
    for at, fold, data, x_hat in predictions(model, x, y, knots, samples, seed, FOLDS, progress):
        sigma = model.path.sigma(knots[at]).item()
        c, r = basis.turn(x_hat) - calibration.centre, basis.turn(data - x_hat) / sigma
        if not r.isfinite().all():
            raise ValueError(f"the data prediction at t = {knots[at].item():.3g} is not finite, so it cannot be calibrated")
        for sums, values in ((a, c * c), (b, c * r)):
            sums[at, fold] += values.sum(0).sum_to_size(shared).reshape(basis.coefficient_shape).cpu()
        error[at, fold] += r.square().sum().item()
    return Sums(a, b, error)


def least_squares(a: Tensor, b: Tensor) -> Tensor:
    """h (knots, *coefficient_shape), shrunk by cross-validation, from sums (knots, folds, *coefficient_shape)."""
    whole_a, whole_b = a.sum(1), b.sum(1)
    kept = whole_a > EMPTY * whole_a.mean()
    top, bottom = torch.zeros_like(whole_a), torch.zeros_like(whole_a)
    for fold in range(a.shape[1]):
        others = torch.where(kept, (whole_b - b[:, fold]) / (whole_a - a[:, fold]).clamp_min(torch.finfo(a.dtype).tiny), 0.0)
        top += others * b[:, fold]
        bottom += others.square() * a[:, fold]
    top, bottom = _smoothed(top), _smoothed(bottom)
    shrunk = torch.where(bottom > 0, top / bottom.clamp_min(torch.finfo(a.dtype).tiny), 0.0).clamp(0, 1)
    return shrunk * torch.where(kept, whole_b / whole_a.clamp_min(torch.finfo(a.dtype).tiny), 0.0)


def _smoothed(values: Tensor) -> Tensor:
    """Sums over the window of neighbouring knots."""
    half, total = len(WINDOW) // 2, torch.zeros_like(values)
    for shift, weight in enumerate(WINDOW, start=-half):
        low, high = max(0, shift), len(values) + min(0, shift)
        if low < high:
            total[low - shift : high - shift] += weight * values[low:high]
    return total


def improvements(sums: Sums) -> Tensor:
    """By which share each fold's squared error of v falls under the h that is found on the other folds: (folds,)."""
    found = []
    for fold in range(sums.a.shape[1]):
        others = [place for place in range(sums.a.shape[1]) if place != fold]
        h = least_squares(sums.a[:, others], sums.b[:, others])
        gained = 2 * h * sums.b[:, fold] - h.square() * sums.a[:, fold]
        found.append(gained.double().sum() / sums.error[:, fold].sum())
    return torch.stack(found)


def default_basis(shape: tuple[int, ...], latents: bool = False) -> str:
    """The kind of basis for data of this shape: principal up to D = 4096; beyond, dct for images and patch for latents."""
    if math.prod(shape) <= MAX_DENSE:
        return "principal"
    return "patch" if latents else "dct"


def directions_of(x: Samples, kind: str) -> tuple[Basis, Tensor]:
    """A basis of this kind for training samples x (N, *shape), and the coordinates of their mean in it."""
    shape, found = tuple(x.shape[1:]), functools.cache(lambda: moments(x))
    basis = make_basis(kind, shape, moments=found if kind == "principal" else None, samples=lambda: x)
    if math.prod(shape) <= MAX_DENSE:
        mean = found().mean.reshape(1, *shape)
    else:
        rows = torch.linspace(0, len(x) - 1, min(len(x), FEW), dtype=torch.float64).long()
        mean = torch.stack([x[part].double().sum(0) for part in rows.split(64)]).sum(0, keepdim=True).float() / len(rows)
    return basis, basis.turn(mean)[0]


def knot_times(count: int) -> Tensor:
    """Times whose density is proportional to 1 + 0.15/(1 − t) up to t = 0.997: (count,).

    In an empty direction h is −1/σ, which a line between two knots follows only if σ does not change much between them.
    """

    def passed(t: Tensor) -> Tensor:
        return t - LATE * torch.log1p(-t)

    low, high = torch.zeros(count, dtype=torch.float64), torch.full((count,), 1 - LAST, dtype=torch.float64)
    wanted = passed(high) * (torch.arange(count) + 0.5) / count
    for _ in range(50):
        middle = (low + high) / 2
        low, high = torch.where(passed(middle) < wanted, middle, low), torch.where(passed(middle) < wanted, high, middle)
    return high.float()


def fit_calibration(
    model: KDiff,
    x: Samples,
    y: Conditions = None,
    directions: tuple[Basis, Tensor] | None = None,
    knots: int = KNOTS,
    samples: int = SAMPLES,
    seed: int = 0,
    progress: str | None = None,
) -> tuple[Calibration, Tensor]:
    """A calibration of a model, found on training data, and by which share it lowered the error of v of each unseen fold.

    Args:
        model: the model; a calibration that it has is left out of account.
        x: training samples (N, *shape), normalised; at least 8.
        y: their labels (N,), if the network takes a condition y, or all conditions by name.
        directions: a basis, and the mean of the data in its coordinates; if left out, those of `default_basis`.
        knots: the number of times.
        samples: the number of samples for each of them.
        seed: the seed of rows and noise.
        progress: the name of the progress bar; None for none.

    Raises:
        ValueError: too few rows, or a data prediction that is not finite.
    """
    if len(x) < FOLDS:
        raise ValueError(f"{len(x)} training samples were given; expected at least {FOLDS}")
    basis, centre = directions or directions_of(x, default_basis(tuple(x.shape[1:])))
    found = Calibration(basis, knot_times(knots), centre=centre).to(
        next(itertools.chain(model.parameters(), model.buffers())).device
    )
    used, model.calibration = model.calibration, None
    try:
        sums = gather(model, x, y, found, samples, seed, progress)
    finally:
        model.calibration = used
    gained = improvements(sums)
    if (gained > 0).all():
        found.h = least_squares(sums.a, sums.b).to(found.h)
    return found, gained


@torch.no_grad()
def squared_errors(
    model: KDiff, x: Samples, y: Conditions, times: int = 10, samples: int = 512, seed: int = 0
) -> dict[str, list[float]]:
    """The mean square error of the data prediction, per entry, without and with the model's calibration: t, plain, calibrated.

    The times lie in the middle of equal parts of [0, 1]; at each of them, all is measured on the same rows and noise.
    """
    at = (torch.arange(times) + 0.5) / times
    used, found = model.calibration, dict[str, list[float]](t=at.tolist())
    try:
        for name, each in (("plain", None), ("calibrated", used)):
            model.calibration, sums, counts = each, [0.0] * times, [0] * times
            for place, _, data, x_hat in predictions(model, x, y, at, samples, seed):
                sums[place] += (data - x_hat).square().sum().item()
                counts[place] += data.numel()
            found[name] = [total / count for total, count in zip(sums, counts)]
    finally:
        model.calibration = used
    return found


def calibrate(run: Run, dataset: Dataset | None = None, progress: str | None = None, **options: Any) -> Tensor:
    """Find the calibration of a run on its training data, and let the run's model use it. Nothing is written.

    The result is the second one of `fit_calibration`: by which share the error of each unseen fold fell.

    Args:
        run: the run; a calibration that it has is replaced.
        dataset: the run's data, if they are loaded already.
        progress: the name of the progress bar; None for none.
        options: further options of `fit_calibration`.
    """
    dataset = run.dataset() if dataset is None else dataset
    x, y = dataset.part(run.config.train_on, augment=True)[0], dataset.conditions_of(run.config.train_on)
    kind = default_basis(run.shape, run.latents is not None)
    options.setdefault("directions", directions_of(dataset.part(run.config.train_on)[0], kind))
    with torch.random.fork_rng(devices=[]):  # mirrored images and drawn latents
        torch.manual_seed(mix_seed(options.get("seed", 0)))
        run.model.calibration, gained = fit_calibration(run.model, x, y, progress=progress, **options)
    return gained
