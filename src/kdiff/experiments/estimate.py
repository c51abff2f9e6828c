"""What k should be for a data set, before any training: its dimensions, and what each theory makes of them.

Everything is measured on the training part in the values that are trained on, as a whole sample and, for images, as a patch:
transformers read patches. The theories (`kdiff.theory`) answer different questions, and their answers differ; how much is a
result too.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from kdiff.components import build, parse
from kdiff.data import Dataset
from kdiff.experiments.config import EstimateConfig
from kdiff.experiments.predictions import MAX_POINTS, enough, linear_theory, moments_of
from kdiff.theory import (
    DimensionEstimate,
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

TAUS = (0.0, *np.geomspace(0.03, 30, 25))


@dataclass(frozen=True)
class Prediction:
    """A theory's k, and what it is the answer to."""

    theory: str
    k: float
    question: str


@dataclass(frozen=True)
class View:
    """The data as whole samples, or as patches.

    Attributes:
        name: "samples" or "patches of 7 × 7".
        D: ambient dimension.
        num_points: how many were looked at.
        total_variance: tr Σ, in units of the noise's variance per direction.
        squared_mean: |E x|², in the same units: with tr Σ it makes up E |x|², which the linear theory sees.
        eigenvalues: of the covariance, (D,), descending.
        dimensions: estimates of d.
        predictions: what each theory says of k.
        problem: why there are no estimates of d, if there are none.
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


def estimate(dataset: Dataset, config: EstimateConfig, progress: bool = False) -> list[View]:
    """Dimensions and predictions, for whole samples first and then, for images, for patches; with bars, if `progress`.

    Raises:
        ValueError: a patch that does not divide the image, a rank that does not fit or comes with another law of t than the
            uniform one, or too little data.
    """
    x = dataset.part("train")[0]
    if config.rank >= dataset.dimension:
        raise ValueError(f"rank is {config.rank}; expected less than D = {dataset.dimension}: as many outputs limit nothing")
    if config.rank and not is_uniform(build("timesteps", config.timesteps)):
        raise ValueError(
            f"rank is {config.rank} and timesteps {parse(config.timesteps)}: of a limit of rank there is a theory for uniform "
            "times alone; leave one of them out"
        )
    size = patch_size(dataset.shape, config.patch_size)
    chosen = np.sort(np.random.default_rng(config.seed).permutation(len(x))[: config.max_points])
    views = [view("samples", take_rows(x, chosen), config, progress=progress)]
    if size:
        pieces, images = random_patches(x, size, config.max_points, config.seed)
        views.append(view(f"patches of {size} × {size}", pieces, config, images, progress))
    return views


def patch_size(shape: tuple[int, ...], wanted: int) -> int:
    """The patch to look at: as asked; for images, else the side nearest to a quarter of theirs that divides it; 0 for none."""
    if len(shape) != 3:
        if wanted:
            raise ValueError(f"patch_size is {wanted}, but samples of shape {shape} are no images (C, H, W)")
        return 0
    if wanted:
        return wanted
    side = math.gcd(*shape[1:])
    divisors = [p for p in range(2, side) if side % p == 0]
    return min(divisors, key=lambda p: abs(p - side / 4), default=0)


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
    times = build("timesteps", config.timesteps)
    return View(
        name,
        len(eigenvalues),
        len(x),
        float(eigenvalues.sum()),
        max(0.0, float(moments.sum() - eigenvalues.sum())),
        eigenvalues,
        dimensions,
        predictions(moments, dimensions, times, str(parse(config.timesteps)), config.rank),
        problem,
    )


def predictions(
    moments: NDArray[np.float64], dimensions: Sequence[DimensionEstimate], times: Timesteps, law: str, rank: int = 0
) -> list[Prediction]:
    """What each theory says of k: the paper's rule for every estimate of d, then those that see the spectrum of E x xᵀ.

    A limit of rank is left out where it limits nothing.
    """
    D = len(moments)
    found = [
        Prediction(f"D/(D + d), {one.method} ({one.scope})", D / (D + one.value), _rule_with(one, D))
        for one in dimensions
        if one.value <= D
    ]
    theory = linear_theory(moments, times)
    rule = float(optimal_k(moments))
    found.append(Prediction("linear, loss on u", rule, "D/(D + E|x|²): the paper's rule for any spectrum"))
    if abs(float(theory["loss on u"]) - rule) > 1e-9:
        found.append(Prediction("linear, loss on u, your times", float(theory["loss on u"]), f"the same under {law}"))
    peak = k_over_training(np.array(TAUS), moments, times=times)
    found.append(Prediction("linear, loss on u, on the way", float(peak.max()), "the highest k on the way to the end"))
    start, end = theory["loss on v, start"], theory["loss on v, end"]
    what = "which target costs least before anything is learned, where k begins to move"
    found.append(Prediction("linear, loss on v, start", float(start), what))
    other = "".join(f"; a second minimum at {k:.3f}" for k, _ in end.others)
    what = f"which target a linear network without time does best with (clamp 0.05){other}"
    found.append(Prediction("linear, loss on v, end", float(end), what))
    for one in rank_limited(moments, rank) if 0 < rank < D else ():
        if one.stable:
            what = f"captures the {one.strongest} strongest and {one.weakest} weakest directions"
            found.append(Prediction(f"rank {rank}, loss on v", one.k, what))
    return found


def _rule_with(one: DimensionEstimate, D: int) -> str:
    """What the rule was asked, and what the estimate's interval makes of the answer."""
    low, high = D / (D + one.high), D / (D + one.low)
    return f"the paper's rule with d = {one.value:.3g}; by its interval {low:.3f} to {high:.3f}"


def as_json(views: Sequence[View]) -> list[dict[str, Any]]:
    """The views as plain data."""
    return [
        {
            **{name: getattr(view, name) for name in ("name", "D", "num_points", "total_variance", "squared_mean", "problem")},
            "eigenvalues": view.eigenvalues.tolist(),
            "dimensions": [asdict(one) for one in view.dimensions],
            "predictions": [asdict(one) for one in view.predictions],
        }
        for view in views
    ]


def as_text(view: View) -> str:
    """A view as text: dimensions, then predictions, then how far the theories are apart."""
    scale = f"total variance {view.total_variance:.4g}, squared mean {view.squared_mean:.4g}"
    spectral = f", {MAX_POINTS} of these for variance and theories" if view.num_points > MAX_POINTS < view.D else ""
    lines = [f"{view.name}: D = {view.D}, {scale} ({view.num_points} of them looked at{spectral})", ""]
    if view.problem:
        lines += [f"  no estimates of d: {view.problem}", ""]
    else:
        lines.append(f"  {'intrinsic dimension d':32}{'estimate':>9}   95 % interval")
        for one in view.dimensions:
            note = f"   (cannot exceed {one.limit})" if one.limit is not None and one.limit < view.D else ""
            if not one.value <= view.D:
                note = "   (more than D: the values are coarse, or points repeat; do not trust it)"
            lines.append(f"  {f'{one.method} ({one.scope})':32}{one.value:9.3g}   {one.low:.3g} to {one.high:.3g}{note}")
        if view.name.startswith("patches"):
            lines.append("  (intervals take images for independent, not their patches)")
        lines.append("")
    lines.append(f"  {'theory':40}{'k':>7}   the answer to")
    lines += [f"  {one.theory:40}{one.k:7.3f}   {one.question}" for one in view.predictions]
    low = min(view.predictions, key=lambda one: one.k)
    high = max(view.predictions, key=lambda one: one.k)
    lines.append(f"\n  They are {high.k - low.k:.2f} apart: from {low.k:.3f} ({low.theory}) to {high.k:.3f} ({high.theory}).")
    return "\n".join(lines)


def meaning(dataset: Dataset, views: Sequence[View], data: str) -> str:
    """What the numbers do and do not mean, for these data."""
    whole = views[0]
    total = whole.total_variance + whole.squared_mean
    now, centred, doubled = (whole.D / (whole.D + each) for each in (total, whole.total_variance, 4 * total))
    return "\n".join(
        [
            "What this means",
            "- D/(D + d) is a theorem about linear networks, a loss on u, uniform times and data whitened on a d-dimensional",
            f"  subspace. What it really contains is the data's mean square, E|x|² = {total:.4g} here, in units of the noise's",
            f"  variance: k = {now:.3f}. With the mean removed it would be {centred:.3f}, at twice the scale {doubled:.3f}. So",
            f"  the normalisation ({dataset.normalisation.kind}) decides as much as the dimension does.",
            "- Estimates of d differ because they mean different things: spectra see linear subspaces, neighbours see curved",
            "  manifolds and fall short above d of about 15. Intervals cover sampling noise, not that.",
            "- A trained network is not linear, learns under a loss on v, and need not end at any of these. To know, compare:",
            f"  kdiff compare {shlex.quote(data)} --grid 6",
        ]
    )
