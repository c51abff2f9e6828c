"""What k should be for a data set, before any training: its dimensions, and what each theory makes of them.

Everything is measured on the training part in the values that are trained on, as a whole sample and, for images, as a patch:
transformers read patches. The theories (`kdiff.theory`) answer different questions, and their answers differ; how much is a
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

from kdiff.components import build, parse
from kdiff.data import Dataset
from kdiff.experiments.config import EstimateConfig
from kdiff.experiments.predictions import enough, linear_theory, moments_of
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
from kdiff.theory.neighbours import Rows, take_rows
from kdiff.theory.times import is_uniform
from kdiff.timesteps import Timesteps

TAUS = (0.0, *np.geomspace(0.03, 30, 25))  # times 1/s²
TIE = 0.01  # minima whose losses differ by no larger share are none the better: a sample more or less decides
NEAR_LIMIT = 0.8  # of the largest value that a method can give: above, it says more of the method than of the data

PLAIN = ("name", "D", "num_points", "noise_scale", "total_variance", "squared_mean", "problem")  # of a view, as JSON has it


@dataclass(frozen=True)
class Prediction:
    """A theory's k, and what it is the answer to.

    Attributes:
        theory: its name.
        k: the best one.
        question: what k is the answer to.
        others: further minima, lowest first: k, and by what share of the lowest loss theirs is higher.
        doubt: why the spread of the theories leaves it out; None if nothing speaks against it.
    """

    theory: str
    k: float
    question: str
    others: Sequence[tuple[float, float]] = ()
    doubt: str | None = None

    @property
    def ties(self) -> list[float]:
        """The k of further minima that are as good: their loss is higher by 1 % at most."""
        return [k for k, share in self.others if share <= TIE]


@dataclass(frozen=True)
class View:
    """The data as whole samples, or as patches.

    Attributes:
        name: "samples" or "patches of 7 × 7".
        D: ambient dimension.
        num_points: how many were looked at.
        total_variance: tr Σ, in the units that are trained on, where the noise has s² in each direction.
        squared_mean: |E x|², in the same units: with tr Σ it makes up E |x|², which the linear theory sees.
        eigenvalues: of the covariance, (D,), descending.
        dimensions: estimates of d.
        predictions: what each theory says of k.
        problem: why there are no estimates of d, if there are none.
        noise_scale: s, the standard deviation of the noise that the predictions are for.
        remarks: what else to know of how the data were looked at, a sentence each.
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
    """Dimensions and predictions, for whole samples first and then, for images, for patches; with bars, if `progress`.

    Raises:
        ValueError: a patch that does not divide the image, a law of t that does not exist, a rank that does not fit or comes
            with another law than the uniform one; all before anything is computed.
    """
    checked_times(config)
    if config.rank >= dataset.dimension:
        raise ValueError(f"rank is {config.rank}; expected less than D = {dataset.dimension}: as many outputs limit nothing")
    size = patch_size(dataset.shape, config.patch_size)
    x = dataset.part("train")[0]
    chosen = np.sort(np.random.default_rng(config.seed).permutation(len(x))[: config.max_points])
    whole = view("samples", take_rows(x, chosen), config, progress=progress)
    views = [replace(whole, remarks=remarks(dataset.shape, size, config))]
    if size:
        pieces, images = random_patches(x, size, config.max_points, config.seed)
        views.append(view(f"patches of {size} × {size}", pieces, config, images, progress))
    return views


def checked_times(config: EstimateConfig) -> Timesteps:
    """The law of t that the configuration names; needs no data, so that a slip is found before they are read.

    Raises:
        ValueError: a law that does not exist, or a limit of rank with another one than the uniform.
    """
    times: Timesteps = build("timesteps", config.timesteps)
    if config.rank and not is_uniform(times):
        raise ValueError(
            f"rank is {config.rank} and timesteps {parse(config.timesteps)}: of a limit of rank there is a theory for uniform "
            "times alone; leave one of them out"
        )
    return times


def patch_size(shape: tuple[int, ...], wanted: int) -> int:
    """The patch to look at: as asked; for images, else the side nearest to a quarter of theirs that divides it; 0 for none.

    Raises:
        ValueError: a wanted patch that does not divide the image, or of samples that are none.
    """
    if len(shape) != 3:
        if wanted:
            raise ValueError(f"patch_size is {wanted}, but samples of shape {shape} are no images (C, H, W)")
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
    """Why images have no patches, and that their channels seem to come last; nothing of other samples."""
    if len(shape) != 3:
        return []
    channels, height, width = shape
    found = []
    if width in (1, 3, 4) and channels > width and "layout" not in parse(config.data).options:
        found.append(
            f"samples of shape {shape} are read as {channels} channels of {height} × {width}; if the channels come last, say "
            'so in brackets, as in "images.npy(layout=channels_last)"'
        )
    if not size:
        found.append(f"no patches: no square larger than a pixel and smaller than the image divides {height} × {width}")
    return found


def view(name: str, x: Rows, config: EstimateConfig, owners: NDArray[np.int64] | None = None, progress: bool = False) -> View:
    """Everything about points x (N, *shape); owners (N,) are the images that patches are from."""
    points = enough(x)
    eigenvalues, moments = spectrum(points).clip(min=0.0), moments_of(points)
    problem, dimensions = None, list[DimensionEstimate]()
    try:
        with tqdm(desc=f"dimension of {name}", unit="evaluation", disable=not progress) as bar:

            def tick(done: int, total: int) -> None:
                bar.total, bar.n = total, done
                bar.refresh()

            dimensions = estimate_dimensions(
                x,
                neighbours=config.neighbours,
                max_points=config.max_points,
                seed=config.seed,
                owners=owners,
                tick=tick,
            )
    except ValueError as error:
        # The spectrum and all that follows from it is worth having even where neighbours say nothing.
        problem = str(error)
    return View(
        name,
        len(eigenvalues),
        len(x),
        float(eigenvalues.sum()),
        max(0.0, float(moments.sum() - eigenvalues.sum())),
        eigenvalues,
        dimensions,
        predictions(moments, dimensions, config),
        problem,
        config.noise_scale,
    )


def predictions(
    moments: NDArray[np.float64], dimensions: Sequence[DimensionEstimate], config: EstimateConfig
) -> list[Prediction]:
    """What each theory says of k: the paper's rule for every estimate of d, then those that see the spectrum of E x xᵀ.

    The rule D/(D + d) counts directions, and the noise's scale s does not enter it: it is for data that have the noise's
    variance in d of them. A limit of rank is left out where it limits nothing.
    """
    D, times, s = len(moments), checked_times(config), config.noise_scale
    found = [_rule_with(one, D) for one in dimensions if one.value <= D]
    theory = linear_theory(moments, times, s)
    rule = float(optimal_k(moments, noise_scale=s))
    found.append(Prediction("linear, loss on u", rule, "D s²/(D s² + E|x|²): the paper's rule for any spectrum"))
    if abs(float(theory["loss on u"]) - rule) > 1e-9:
        found.append(
            Prediction("linear, loss on u, your times", float(theory["loss on u"]), f"the same under {parse(config.timesteps)}")
        )
    peak = k_over_training(np.array(TAUS) / s**2, moments, times=times, noise_scale=s)
    found.append(Prediction("linear, loss on u, on the way", float(peak.max()), "the highest k on the way to the end"))
    what = "which target costs least before anything is learned, where k begins to move"
    found.append(_minima("linear, loss on v, start", theory["loss on v, start"], what))
    what = "which target a linear network without time does best with (clamp 0.05)"
    found.append(_minima("linear, loss on v, end", theory["loss on v, end"], what))
    for one in rank_limited(moments, config.rank, s) if 0 < config.rank < D else ():
        if one.stable:
            what = f"captures the {one.strongest} strongest and {one.weakest} weakest directions"
            found.append(Prediction(f"rank {config.rank}, loss on v", one.k, what))
    return found


def at_limit(one: DimensionEstimate, D: int) -> bool:
    """Whether d is above 80 % of the most that its method can give for so few points, if that is less than D."""
    return one.limit is not None and one.limit < D and one.value > NEAR_LIMIT * one.limit


def _rule_with(one: DimensionEstimate, D: int) -> Prediction:
    """D/(D + d), and what the estimate's interval makes of it."""
    low, high = D / (D + one.high), D / (D + one.low)
    limit = f", at its limit (cannot exceed {one.limit})" if at_limit(one, D) else ""
    return Prediction(
        f"D/(D + d), {one.method} ({one.scope})",
        D / (D + one.value),
        f"the paper's rule with d = {one.value:.3g}{limit}; by its interval {low:.3f} to {high:.3f}",
        doubt="d is at its limit" if limit else None,
    )


def _minima(theory: str, optimum: Optimum, what: str) -> Prediction:
    """A best k with the other minima of its loss: those that tie with it, and in `question` those that do not."""
    others = tuple((k, loss / optimum.loss - 1) for k, loss in optimum.others)
    tied, worse = ([each for each in others if (each[1] <= TIE) is tie] for tie in (True, False))
    if tied:
        what = f"losses equal to {max(100 * tied[-1][1], 1e-6):.1g} %: {what}"
    if worse:
        places, shares = (" and ".join(each) for each in zip(*((f"{k:.3f}", f"{100 * share:.2g} %") for k, share in worse)))
        what += f"; further minim{'a' if worse[1:] else 'um'} at {places}, loss {shares} higher"
    return Prediction(theory, float(optimum), what, others, "minima tie" if tied else None)


def as_json(views: Sequence[View]) -> list[dict[str, Any]]:
    """The views as plain data."""
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
