"""Cheap quantities of a trained model that may rank targets as the quality of their samples does; lower is better for all.

Every quantity but the last comes from the errors at held-out rows x. Each row is mixed with noise at each of 18 times, the
middles of equal intervals of [0.05, 0.95], where the paper's clamp acts on no target of the line. Rows, times and noise are the
same for all models of one data set. With v̂ the velocity of the model (without a clamp, with its calibration), x̂ and n̂ the data
and the noise that belong to v̂, e = x̂ − x, D the dimension and v(t) = E‖v̂ − v‖²/D:

    v_error            E_t v(t): the held-out v-loss
    u_error            E_t E‖(v̂ − v)/q‖²/D, the error of û in its own units: the v-loss weighed by den²
    x_error            E_t E‖e‖²/D: the v-loss weighed by den² of data prediction
    log_error          E_t log v(t)
    snr_error          E_t α/(σ det) v(t), det = α'σ − σ'α: the error of n̂ integrated over half the log-SNR, dλ = 2 det/(ασ) dt
    v_error_leading    the part of v_error within the leading principal directions, which hold 95 % of the variance
    v_error_weak       the part of v_error outside of them
    band_error         E_t of the mean over bands of directions of log E‖e_band‖²: each band counts by the ratio of its errors,
                       and no error counts as less than a millionth of the variance of the data
    x_error_late       x_error over the times above 0.7 alone
    noise_left         E_t ⟨e, n⟩/⟨n, n⟩ in the weak directions: the share of the noise that is left in x̂
    noise_left_late    the same over the times above 0.7 alone
    noise_excess       the root of E_t (⟨e, n̂⟩/⟨n̂, n̂⟩)² in the weak directions; an exact network has none, see below
    gain_left          the share of v_error that one gain on x̂ for each band and time would remove; an exact network has none
    sliced             sliced 2-Wasserstein distance of 1,000 samples to held-out rows, in the features of the data's
                       classifier; for data without labels, in the units of the data

⟨a, b⟩ is the sum over rows and directions. An exact x̂ = E[x | z] leaves noise too, because its error is not independent of n:
E⟨e, n⟩ = (α/σ) E‖e‖². But e is orthogonal to every function of z, such as n̂ = (z − α x̂)/σ, and

    ⟨e, n⟩ = ⟨e, n̂⟩ + (α/σ) ‖e‖²,

so ⟨e, n̂⟩ is the noise in x̂ that a better network would have taken out. For the same reason ⟨e, x̂⟩ is 0, and the best gain is
1. Bands are the principal directions 1, 2, 3–4, 5–8, …, and one band for the directions in which the training rows do not vary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kdiff.data import Dataset
from kdiff.data.samples import Samples
from kdiff.evaluation.classifier import dataset_classifier
from kdiff.evaluation.sliced import sliced_wasserstein
from kdiff.evaluation.subsets import drawn, matched_heldout
from kdiff.model import KDiff
from kdiff.run.generate import generate
from kdiff.sampling import draw_noise
from kdiff.sampling.noise import mix_seed

FIRST, LAST, INTERVALS = 0.05, 0.95, 18
LATE = 0.7
ENERGY = 0.95  # the share of the variance that the leading directions hold
ROWS, SAMPLES = 256, 1000
SAMPLER: dict[str, Any] = {"solver": "ab3", "steps": 10, "last_step": "data"}  # 12 evaluations of the network a sample
SPECTRUM_ROWS = 2000  # training rows that give the principal directions; fewer if these would be more numbers than:
SPECTRUM_NUMBERS = 2**21
LEAST = 1e-6  # errors below this share of the data's variance count as if they were as large
PAIRS = ("ee", "en", "nn", "em", "mm", "ex", "xx")
NOISE = 21  # tells this noise from that of samples with the same seed


def criterion_times() -> Tensor:
    """The 18 times, (18,) float64: the middles of equal intervals."""
    return FIRST + (LAST - FIRST) * (torch.arange(INTERVALS, dtype=torch.float64) + 0.5) / INTERVALS


def criterion_noise(rows: int, time: int, shape: tuple[int, ...], seed: int = 0) -> Tensor:
    """Standard normal noise (rows, *shape) of the rows at time number `time`: other noise for each row, time and seed."""
    return draw_noise(range(time * rows, (time + 1) * rows), shape, mix_seed(seed, NOISE))


@dataclass(frozen=True)
class Spectrum:
    """Mean (D,), principal directions (D, m) of falling variance, and their variances (m,); m is the rank of the rows."""

    mean: Tensor
    directions: Tensor
    variances: Tensor

    @property
    def leading(self) -> int:
        """The number of directions that hold 95 % of the variance."""
        held = self.variances.double().cumsum(0)
        return int((held < (ENERGY - 1e-9) * held[-1]).sum()) + 1

    @property
    def bands(self) -> Tensor:
        """The number of the band of each direction, (m,): 0, 1, 2, 2, 3, 3, 3, 3, 4, …"""
        return torch.arange(len(self.variances)).double().add(0.5).log2().ceil().clamp(min=0).long()


def spectrum(x: Samples) -> Spectrum:
    """The principal directions of samples x (N, *shape), from at most 2,000 of them, and fewer if D is large."""
    limit = min(SPECTRUM_ROWS, max(256, SPECTRUM_NUMBERS // math.prod(x.shape[1:])))
    flat = x[drawn(len(x), limit)].double().flatten(1)
    mean = flat.mean(0)
    centred = (flat - mean) / math.sqrt(len(flat))
    wide = centred.shape[1] > len(centred)
    values, vectors = torch.linalg.eigh(centred @ centred.T if wide else centred.T @ centred)
    order = torch.nonzero(values > 1e-9 * values[-1]).flatten().flip(0)
    values, vectors = values[order], vectors[:, order]
    if wide:
        vectors = centred.T @ vectors / values.sqrt()
    return Spectrum(mean.float(), vectors.float(), values.float())


class Probe:
    """Measures the quantities of models of one data set.

    Args:
        x: held-out rows, (N, *shape), normalised.
        y: their labels, (N,), or None.
        spectrum: the principal directions of the training rows.
        distance: the sliced distance of samples (M, *shape), or None to leave it out.
        seed: the seed of the noise, of the rows and of the samples.
    """

    def __init__(
        self,
        x: Tensor,
        y: Tensor | None,
        spectrum: Spectrum,
        distance: Callable[[Tensor], float] | None = None,
        seed: int = 0,
    ) -> None:
        self.x, self.y, self.spectrum, self.distance, self.seed = x, y, spectrum, distance, seed

    @classmethod
    def of(cls, dataset: Dataset, rows: int = ROWS, seed: int = 0) -> Probe:
        """The probe of a data set: up to `rows` of its held-out rows, and the features of its classifier if it has labels."""
        x, y = dataset.part("heldout")
        chosen = drawn(len(x), rows, y)
        held = matched_heldout(dataset)
        features: Callable[[Tensor], Tensor] = lambda x: x.flatten(1)  # noqa: E731
        if dataset.y is not None:
            features = dataset_classifier(dataset).network.features
        there = features(held.x)

        def distance(samples: Tensor) -> float:
            return sliced_wasserstein(there, features(samples), weights=held.weights)

        return cls(x[chosen], None if y is None else y[chosen], spectrum(dataset.part("train")[0]), distance, seed)

    def measure(self, model: KDiff, class_counts: list[int] | None = None) -> dict[str, float]:
        """All quantities of a model, by name. A part of the error that has no directions is left out.

        Args:
            model: the model, in the mode of evaluation.
            class_counts: the number of training samples of each class, for the labels of the samples; None without labels.
        """
        found = self.errors(model)
        if self.distance:
            shape = tuple(self.x.shape[1:])
            samples = generate(model, SAMPLES, shape, class_counts, self.seed, **SAMPLER)[0]
            found["sliced"] = self.distance(samples) if samples.isfinite().all() else math.inf
        return found

    @torch.no_grad()
    def errors(self, model: KDiff) -> dict[str, float]:
        """The quantities that need no samples."""
        times, path = criterion_times(), model.path
        sums = [self._at(model, time, t) for time, t in enumerate(times.tolist())]
        own = torch.tensor([found.pop("own") for found in sums], dtype=torch.float64)
        ee, en, nn, em, mm, ex, xx = (torch.stack([found[name] for found in sums]) for name in PAIRS)
        alpha, sigma = path.alpha(times), path.sigma(times)
        det = torch.as_tensor(path.determinant(times))
        v = ee * ((det / sigma).square() / self.x[0].numel())[:, None]
        leading = self.spectrum.leading
        whole, late = v.sum(1), times > LATE
        quantities = {
            "v_error": whole.mean(),
            "u_error": own.mean(),
            "x_error": ee.sum(1).mean() / self.x[0].numel(),
            "log_error": whole.log().mean(),
            "snr_error": (alpha / (sigma * det) * whole).mean(),
            "v_error_leading": v[:, :leading].sum(1).mean(),
            "band_error": self._banded(ee).clamp(min=LEAST * float(self.spectrum.variances.sum())).log().mean(),
            "x_error_late": ee[late].sum(1).mean() / self.x[0].numel(),
        }
        if leading < self.x[0].numel():
            share = en[:, leading:].sum(1) / nn[:, leading:].sum(1)
            excess = em[:, leading:].sum(1) / mm[:, leading:].sum(1)
            quantities |= {
                "v_error_weak": v[:, leading:].sum(1).mean(),
                "noise_left": share.mean(),
                "noise_left_late": share[late].mean(),
                "noise_excess": excess.square().mean().sqrt(),
            }
        power = self._banded(xx)
        removed = torch.where(power > 0, self._banded(ex).square() / power.clamp(min=1e-300), 0).sum(1)
        quantities["gain_left"] = ((det / sigma).square() * removed).mean() / (whole * self.x[0].numel()).mean()
        return {name: float(value) for name, value in quantities.items()}

    def _at(self, model: KDiff, time: int, t: float) -> dict[str, Tensor]:
        """Means over rows of the products of e, n, n̂ ("m") and x̂ ("x") in each direction, (m,) float64, at one time.

        If the training rows do not vary in some directions, one more entry stands for all of these. "own" is the error of û,
        one number.
        """
        device = next(model.network.parameters(), self.x).device
        x = self.x.to(device)
        n = model.noise_scale * criterion_noise(len(x), time, tuple(x.shape[1:]), self.seed).to(device)
        z, v = model.path.interpolate(x, n, t)
        v_hat = model.velocity(z, t, 0.0, **({} if self.y is None else {"y": self.y.to(device)}))
        x_hat, n_hat = model.path.data(z, v_hat, t), model.path.noise(z, v_hat, t)
        parts = {"e": x_hat - x, "n": n, "m": n_hat, "x": x_hat - self.spectrum.mean.to(device).view(x.shape[1:])}
        rows = {name: part.flatten(1).cpu() for name, part in parts.items()}
        turned = {name: part @ self.spectrum.directions for name, part in rows.items()}
        own = model.target.output_units(v_hat - v, t, model.path).square().mean().double().cpu()
        products = {pair: _products(*(turned[name].double() for name in pair)) for pair in PAIRS}
        if self.spectrum.directions.shape[1] < rows["e"].shape[1]:
            for pair, found in products.items():
                rest = _products(*(rows[name].double() for name in pair)).sum() - found.sum()
                products[pair] = torch.cat([found, (rest.clamp(min=0) if pair[0] == pair[1] else rest).reshape(1)])
        return {"own": own, **products}

    def _banded(self, values: Tensor) -> Tensor:
        """Sums (times, bands) of values (times, m or m + 1) over the directions of each band."""
        numbers = self.spectrum.bands
        if values.shape[1] > len(numbers):
            numbers = torch.cat([numbers, numbers[-1:] + 1])
        return torch.zeros(len(values), int(numbers[-1]) + 1, dtype=values.dtype).index_add_(1, numbers, values)


def _products(a: Tensor, b: Tensor) -> Tensor:
    """The mean over rows of a b, both (N, m): (m,)."""
    return (a * b).mean(0)
