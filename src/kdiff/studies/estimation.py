"""What k should be for a data set, before any training: the dimensions of the data, and the best k by each theory.

Everything is measured on the normalised training part: on whole samples and, for images, on patches too, because transformers
read patches. The theories (`kdiff.theory`) answer different questions, so their answers differ. How much they differ is a
result too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kdiff.config.studies import EstimateConfig
from kdiff.data import Dataset
from kdiff.run.build import build
from kdiff.sampling.timesteps import Timesteps
from kdiff.studies.predictions import enough, linear_theory, moments_of
from kdiff.theory import (
    DimensionEstimate,
    Optimum,
    estimate_dimensions,
    k_over_training,
    optimal_k,
    random_patches,
    rank_limited,
    spectrum,
)
from kdiff.theory.nearest import Rows, read_chunks, take_rows
from kdiff.theory.quadrature import is_uniform

TAUS = (0.0, *np.geomspace(0.03, 30, 25))  # training times, in units of 1/s²
TIE = 0.01  # minima whose losses differ by at most this share are equally good: a sample more or less decides between them
OUTLIER = 0.5  # a sample that holds more than this share of the variance is remarked on
NEAR_LIMIT = 0.8  # a value above this share of the largest that a method can give says more about the method than the data

PLAIN = ("name", "D", "num_points", "noise_scale", "total_variance", "squared_mean", "problem")  # fields that JSON holds as is


@dataclass(frozen=True)
class Prediction:
    """The k of a theory, and the question that it answers.

    Attributes:
        theory: name of the theory.
        k: the best k.
        question: the question that k answers.
        others: further minima of the loss, lowest first: k, and by what share their loss is higher than the lowest.
        doubt: why the spread of the theories leaves this one out; None if nothing speaks against it.
    """

    theory: str
    k: float
    question: str
    others: Sequence[tuple[float, float]] = ()
    doubt: str | None = None

    @property
    def ties(self) -> list[float]:
        """The k of further minima that are equally good: their loss is at most 1 % higher."""
        return [k for k, share in self.others if share <= TIE]


@dataclass(frozen=True)
class View:
    """The data as whole samples, or as patches.

    Attributes:
        name: "samples" or "patches of 7 × 7".
        D: ambient dimension.
        num_points: number of points that were measured.
        total_variance: tr Σ, in normalised units, in which the noise has the variance s² in each direction.
        squared_mean: |E x|², in the same units; tr Σ + |E x|² = E |x|², which the linear theory sees.
        eigenvalues: of the covariance, (D,), descending.
        dimensions: estimates of d.
        predictions: the k of each theory.
        problem: why there are no estimates of d; None if there are.
        noise_scale: s, the standard deviation of the noise that the predictions are for.
        remarks: sentences on how the data were read.
    """

    name: str
    D: int
    num_points: int
    total_variance: float
    squared_mean: float
    eigenvalues: NDArray[np.float64]
    dimensions: Sequence[DimensionEstimate]
    predictions: Sequence[Prediction]
    problem: str | None = None
    noise_scale: float = 1.0
    remarks: Sequence[str] = ()


def estimate(dataset: Dataset, config: EstimateConfig, progress: bool = False) -> list[View]:
    """Dimensions and predictions for whole samples and then, for images, for patches; `progress` shows progress bars.

    Raises:
        ValueError: a patch that does not divide the image, an unknown distribution of t, a rank that is too large, or a rank
            with times that are not uniform; all before anything is computed.
    """
    checked_times(config)
    if config.rank >= dataset.dimension:
        raise ValueError(f"rank is {config.rank}; expected less than D = {dataset.dimension}: a rank of D limits nothing")
    size = patch_size(dataset.shape, config.patch_size)
    x = dataset.part("train")[0]
    chosen = np.sort(np.random.default_rng(config.seed).permutation(len(x))[: config.max_points])
    points = take_rows(x, chosen)
    whole = view("samples", points, config, progress=progress)
    views = [replace(whole, remarks=[*remarks(dataset.shape, size, config), *outliers(points, chosen)])]
    if size:
        pieces, images = random_patches(x, size, config.max_points, config.seed)
        views.append(view(f"patches of {size} × {size}", pieces, config, images, progress))
    return views


def checked_times(config: EstimateConfig) -> Timesteps:
    """The distribution of t in the configuration. No data are needed, so a mistake is found before they are read.

    Raises:
        ValueError: an unknown distribution, or a limit of rank with one that is not uniform.
    """
    times: Timesteps = build("timesteps", config.timesteps)
    if config.rank and not is_uniform(times):
        raise ValueError(
            f"rank is {config.rank} and timesteps is {config.timesteps}; the theory of a limited rank holds for uniform times "
            "only: leave out one of the two"
        )
    return times


def patch_size(shape: tuple[int, ...], wanted: int) -> int:
    """The side of the patches: as asked, else for images the divisor of their side closest to a quarter of it, else 0 (none).

    Raises:
        ValueError: a patch size that does not divide the image, or one for samples that are not images.
    """
    if len(shape) != 3:
        if wanted:
            raise ValueError(f"patch_size is {wanted}, but samples of shape {shape} are not images (C, H, W)")
        return 0
    side = math.gcd(*shape[1:])
    divisors = [p for p in range(1, side + 1) if side % p == 0]
    if wanted and wanted not in divisors:
        raise ValueError(
            f"patch_size is {wanted}, which does not divide images of {shape[1]} × {shape[2]}; expected one of "
            f"{', '.join(map(str, divisors))}"
        )
    smaller = [p for p in divisors if 1 < p < side]
    return wanted or min(smaller, key=lambda p: abs(p - side / 4), default=0)


def remarks(shape: tuple[int, ...], size: int, config: EstimateConfig) -> list[str]:
    """Remarks on images: that their channels seem to come last, and why there are no patches."""
    if len(shape) != 3:
        return []
    channels, height, width = shape
    found = []
    if width in (1, 3, 4) and channels > width and "layout" not in config.data.options:
        found.append(
            f"samples of shape {shape} are read as {channels} channels of {height} × {width}; if the channels come last, add "
            'the layout in brackets, as in "images.npy(layout=channels_last)"'
        )
    if not size:
        found.append(f"no patches: no square larger than a pixel and smaller than the image divides {height} × {width}")
    return found


def outliers(points: NDArray[Any], numbers: NDArray[np.int64]) -> list[str]:
    """A remark if one of the points (n, D) holds most of the variance, of the whole or of an entry; `numbers` identify them."""
    mean, squares = points.mean(0, dtype=np.float64), []
    total, largest, where = np.zeros(points.shape[1]), np.zeros(points.shape[1]), np.zeros(points.shape[1], np.int64)
    for start, rows in read_chunks(points):
        deviations = (rows - mean) ** 2
        squares.append(deviations.sum(1))
        total += deviations.sum(0)
        row = deviations.argmax(0)
        found = deviations[row, np.arange(points.shape[1])]
        where, largest = np.where(found > largest, start + row, where), np.maximum(found, largest)
    by_point = np.concatenate(squares)
    advice = "without it, every figure here would differ: check that sample, and remove it if it is a mistake"
    if by_point.sum() > 0 and by_point.max() > OUTLIER * by_point.sum():
        share, number = by_point.max() / by_point.sum(), numbers[by_point.argmax()]
        return [f"sample {number} of the training part alone holds {100 * share:.3g} % of the variance; {advice}"]
    shares = np.divide(largest, total, out=np.zeros_like(total), where=total > 0)
    marked = np.flatnonzero(shares > OUTLIER)
    if not len(marked):
        return []
    entry = marked[shares[marked].argmax()]
    more = f" (single samples do so in {len(marked)} of {len(total)} entries)" if len(marked) > 1 else ""
    return [
        f"sample {numbers[where[entry]]} of the training part alone holds {100 * shares[entry]:.3g} % of the variance of entry "
        f"{entry}{more}; {advice}"
    ]


def view(name: str, x: Rows, config: EstimateConfig, owners: NDArray[np.int64] | None = None, progress: bool = False) -> View:
    """Everything about points x (N, *shape). For patches, `owners` (N,) holds the number of each patch's image."""
    points = enough(x)
    eigenvalues, moments = spectrum(points).clip(min=0.0), moments_of(points)
    problem, dimensions = None, list[DimensionEstimate]()
    try:
        with tqdm(desc=f"dimension of {name}", unit="evaluation", disable=not progress) as bar:

            def tick(done: int, total: int) -> None:
                bar.total, bar.n = total, done
                bar.refresh()

            options = {"neighbours": config.neighbours, "max_points": config.max_points, "seed": config.seed}
            dimensions = estimate_dimensions(x, owners=owners, tick=tick, **options)
    except ValueError as error:
        # The spectrum, and all that follows from it, is useful even where distances to neighbours say nothing.
        problem = str(error)
    total, square = float(eigenvalues.sum()), max(0.0, float(moments.sum() - eigenvalues.sum()))
    found = predictions(moments, dimensions, config)
    return View(name, len(eigenvalues), len(x), total, square, eigenvalues, dimensions, found, problem, config.noise_scale)


def predictions(
    moments: NDArray[np.float64], dimensions: Sequence[DimensionEstimate], config: EstimateConfig
) -> list[Prediction]:
    """The k of each theory: the paper's rule for every estimate of d, then the theories that see the spectrum of E x xᵀ.

    The rule D/(D + d) counts directions and does not contain the noise's scale s: it is for data with the noise's variance in
    d directions. A limit of rank is left out where it limits nothing.
    """
    D, times, s = len(moments), checked_times(config), config.noise_scale
    found = [_rule_with(one, D) for one in dimensions if one.value <= D]
    theory = linear_theory(moments, times, s)
    rule, timed = float(optimal_k(moments, noise_scale=s)), float(theory["loss on u"])
    found.append(Prediction("linear, loss on u", rule, "D s²/(D s² + E|x|²): the paper's rule for any spectrum"))
    if abs(timed - rule) > 1e-9:
        found.append(Prediction("linear, loss on u, your times", timed, f"the same for times {config.timesteps}"))
    peak = k_over_training(np.array(TAUS) / s**2, moments, times=times, noise_scale=s)
    found.append(Prediction("linear, loss on u, on the way", float(peak.max()), "the highest k during training"))
    what = "the target with the lowest loss before anything is learned, to which k moves at first"
    found.append(_minima("linear, loss on v, start", theory["loss on v, start"], what))
    what = "the best target for a linear network that does not see the time (clamp 0.05)"
    found.append(_minima("linear, loss on v, end", theory["loss on v, end"], what))
    for one in rank_limited(moments, config.rank, s) if 0 < config.rank < D else ():
        if one.stable:
            what = f"for a network that captures the {one.strongest} strongest and {one.weakest} weakest directions"
            found.append(Prediction(f"rank {config.rank}, loss on v", one.k, what))
    return found


def at_limit(one: DimensionEstimate, D: int) -> bool:
    """Whether d is above 80 % of the largest value that its method can give for so few points, and that value is below D."""
    return one.limit is not None and one.limit < D and one.value > NEAR_LIMIT * one.limit


def _rule_with(one: DimensionEstimate, D: int) -> Prediction:
    """D/(D + d), and the k at both ends of the interval of d."""
    low, high = D / (D + one.high), D / (D + one.low)
    limit = f", at its limit (cannot exceed {one.limit})" if at_limit(one, D) else ""
    return Prediction(
        f"D/(D + d), {one.method} ({one.scope})",
        D / (D + one.value),
        f"the paper's rule with d = {one.value:.3g}{limit}; k interval {low:.3f} to {high:.3f}",
        doubt="d is at its limit" if limit else None,
    )


def _minima(theory: str, optimum: Optimum, what: str) -> Prediction:
    """The best k of a loss, with the other minima of the loss; the question says how close these come."""
    others = tuple((k, loss / optimum.loss - 1) for k, loss in optimum.others)
    tied, worse = ([each for each in others if (each[1] <= TIE) is tie] for tie in (True, False))
    if tied:
        what = f"losses equal within {max(100 * tied[-1][1], 1e-6):.1g} %: {what}"
    if worse:
        places, shares = (" and ".join(each) for each in zip(*((f"{k:.3f}", f"{100 * share:.2g} %") for k, share in worse)))
        what += f"; further minim{'a' if worse[1:] else 'um'} at {places}, loss {shares} higher"
    return Prediction(theory, float(optimum), what, others, "minima tie" if tied else None)


def as_json(views: Sequence[View]) -> list[dict[str, Any]]:
    """The views as plain data for JSON."""
    return [
        {
            **{name: getattr(view, name) for name in PLAIN},
            "remarks": list(view.remarks),
            "eigenvalues": view.eigenvalues.tolist(),
            "dimensions": [{**asdict(one), "at_limit": at_limit(one, view.D)} for one in view.dimensions],
            "predictions": [{**asdict(one), "ties": one.ties} for one in view.predictions],
        }
        for view in views
    ]
