"""Ensembles of a conditional model, judged by the truth that has the same condition.

For one entry of a sample, members x₁ … x_m (m ≥ 2) and truth y:

    CRPS         = ∫ (F(s) − [s ≥ y])² ds,   F the distribution of the members
                 = mean_i |x_i − y| − Σ_ij |x_i − x_j| / (2 m²)               "plain"
    fair CRPS    = mean_i |x_i − y| − Σ_ij |x_i − x_j| / (2 m (m − 1))        "fair"
    error        = √ mean (x̄ − y)²,   x̄ the mean of the members
    spread       = √ mean s²,   s² the variance of the members (divided by m − 1)
    spread/skill = √((m + 1) / m) · spread / error
    rank         = the number of members below y: 0 … m; among members equal to y at random

The mean of the fair CRPS is that of an endless ensemble, whatever m (Ferro, 2014, doi:10.1002/qj.2270); the plain one is larger
for few members. For the members of a Gaussian of deviation σ and a truth of the same law it is σ/√π. If the truth is like a
member, spread/skill is 1 (Fortin et al., 2014, doi:10.1175/JHM-D-14-0008.1) and all ranks are equally frequent (Hamill, 2001).

Beside the ensemble stand

    climatology  an ensemble of training samples, the same for every condition: what is known without the condition
    own floor    the fair CRPS that this ensemble would have if the truth were one of its members, ½ mean |x_i − x_j|. A figure
                 above it means that the truth lies elsewhere or that the members are too much alike.
    perfect      an ensemble of the true law, if the caller knows it: the lowest CRPS that there is

CRPS judges every entry for itself. How entries go together, the spectrum shows (`kdiff.evaluation.spectrum`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

VALUES = 2**23  # members' values that are sorted at once


@dataclass(frozen=True)
class EnsembleFigures:
    """Figures of an ensemble over all entries of all truths that are present.

    CRPS, error and spread are in units of the standard deviation of the truth of their channel, and are means over channels
    (CRPS) or root-mean-squares (error, spread).

    - `crps`, `plain`: the fair and the plain CRPS.
    - `standard_error`: of `crps`, over the conditions; NaN for one.
    - `channels`: the fair CRPS of each channel, in the channel's own units.
    - `error`, `spread`, `ratio`: error of the ensemble's mean, spread, and spread/skill.
    - `own_floor`: what `crps` would be if the truth were one of the members.
    - `ranks`: the frequency of each rank, 0 … m; `unevenness`: half the sum of its deviations from 1/(m + 1), 0 … 1.
    - `members`, `conditions`: m, and the number of truths.
    """

    crps: float
    plain: float
    standard_error: float
    channels: list[float]
    error: float
    spread: float
    ratio: float
    own_floor: float
    ranks: list[float]
    unevenness: float
    members: int
    conditions: int


def mean_difference(members: Tensor) -> Tensor:
    """mean_{i≠j} |x_i − x_j| over the first axis of members (m, ...), from the sorted values."""
    count = len(members)
    weights = 2 * torch.arange(1, count + 1, dtype=members.dtype, device=members.device) - count - 1
    ordered = members.sort(dim=0).values
    return 2 * torch.einsum("m,m...->...", weights, ordered) / (count * (count - 1))


def crps(members: Tensor, truth: Tensor, fair: bool = True) -> Tensor:
    """The CRPS of members (m, ...) at a truth (...), entry by entry; see the module.

    Raises ValueError for fewer than two members, or a truth of another shape.
    """
    _check(members, truth)
    distance = (members - truth).abs().mean(dim=0)
    shrink = 1.0 if fair else (len(members) - 1) / len(members)
    return distance - shrink * mean_difference(members) / 2


def crps_gaussian(mean: Tensor, deviation: Tensor, truth: Tensor) -> Tensor:
    """The CRPS of a Gaussian in closed form: σ (s (2Φ(s) − 1) + 2φ(s) − 1/√π) with s = (y − μ)/σ."""
    s = (truth - mean) / deviation
    density = torch.exp(-s.square() / 2) / math.sqrt(2 * math.pi)
    return deviation * (s * torch.erf(s / math.sqrt(2)) + 2 * density - 1 / math.sqrt(math.pi))


def ranks(members: Tensor, truth: Tensor, seed: int = 0) -> Tensor:
    """The rank of a truth (...) among members (m, ...), int64 in 0 … m; members equal to the truth count below it at random."""
    _check(members, truth)
    below, equal = (members < truth).sum(dim=0), (members == truth).sum(dim=0)
    if not equal.any():
        return below
    chance = torch.rand(truth.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return below + (chance * (equal + 1)).long().clamp(max=len(members))


def judge_ensemble(members: Tensor, truth: Tensor, scale: Tensor | None = None, seed: int = 0) -> EnsembleFigures:
    """All figures of an ensemble.

    Args:
        members: (n, m, C, *grid) or (n, m, D): m members for each of n conditions.
        truth: (n, C, *grid) or (n, D); NaN is missing and is left out.
        scale: the unit of each channel (of each entry of a vector), (C,) or (D,); if left out, its deviation in `truth`.
        seed: for ranks among equal values.

    Raises:
        ValueError: shapes that do not belong together, fewer than two members, members that are not finite, or no truth.
    """
    if members.ndim != truth.ndim + 1 or members.shape[0] != truth.shape[0] or members.shape[2:] != truth.shape[1:]:
        raise ValueError(
            f"the members have shape {tuple(members.shape)} and the truth {tuple(truth.shape)}; expected (n, m, *shape) and "
            "(n, *shape)"
        )
    there = ~truth.isnan()
    if not there.any():
        raise ValueError("no value of the truth is present")
    if not members.isfinite().all():
        raise ValueError("members of the ensemble are not finite")
    unit = channel_scale(truth) if scale is None else scale.double()
    count, channels = members.shape[1], truth.shape[1]
    place = (-1, *[1] * (truth.ndim - 2))
    ranked = torch.zeros(count + 1, dtype=torch.float64)
    sums = {name: torch.zeros(channels, dtype=torch.float64) for name in ("crps", "difference", "error", "variance", "there")}
    each = []
    rows = max(1, VALUES // max(1, members[0].numel()))
    for start in range(0, len(truth), rows):
        here = there[start : start + rows]
        ours = members[start : start + rows].double().movedim(1, 0)
        y = truth[start : start + rows].double().nan_to_num(0.0)
        difference = mean_difference(ours)
        score = (ours - y).abs().mean(dim=0) - difference / 2
        found = {"crps": score, "difference": difference, "there": here.double()}
        found |= {"error": (ours.mean(dim=0) - y).square(), "variance": ours.var(dim=0)}
        for name, values in found.items():
            sums[name] += (values * here).sum(dim=(0, *range(2, values.ndim)))
        ranked += torch.bincount(ranks(ours, y, seed + start)[here], minlength=count + 1)
        relative = (score / unit.reshape(place) * here).flatten(1).sum(dim=1) / here.flatten(1).sum(dim=1)
        each.append(relative[here.flatten(1).any(dim=1)])
    means = {name: sums[name] / sums["there"] for name in ("crps", "difference", "error", "variance")}
    weight = sums["there"] / sums["there"].sum()
    known = sums["there"] > 0

    def over_channels(values: Tensor) -> float:
        return (weight * values)[known].sum().item()

    error = math.sqrt(over_channels(means["error"] / unit**2))
    spread = math.sqrt(over_channels(means["variance"] / unit**2))
    value, half = over_channels(means["crps"] / unit), over_channels(means["difference"] / unit) / 2
    scores, frequency = torch.cat(each), ranked / ranked.sum()
    return EnsembleFigures(
        crps=value,
        plain=value + half / count,
        standard_error=(scores.std() / math.sqrt(len(scores))).item() if len(scores) > 1 else math.nan,
        channels=means["crps"].tolist(),
        error=error,
        spread=spread,
        ratio=math.sqrt((count + 1) / count) * spread / error if error else math.nan,
        own_floor=half,
        ranks=frequency.tolist(),
        unevenness=((frequency - 1 / (count + 1)).abs().sum() / 2).item(),
        members=count,
        conditions=len(scores),
    )


def channel_scale(x: Tensor) -> Tensor:
    """The standard deviation of the values of each channel that are present, float64 (C,); 1 for a constant channel."""
    values = x.double().transpose(0, 1).flatten(1)
    there = ~values.isnan()
    count = there.sum(dim=1).clamp(min=1)
    mean = values.nan_to_num(0.0).sum(dim=1) / count
    square = torch.where(there, values - mean[:, None], 0.0).square().sum(dim=1) / count
    return torch.where(square > 0, square.sqrt(), 1.0)


def _check(members: Tensor, truth: Tensor) -> None:
    if len(members) < 2:
        raise ValueError(f"an ensemble of {len(members)} has no spread; expected at least 2 members")
    if members.shape[1:] != truth.shape:
        raise ValueError(
            f"the members have shape {tuple(members.shape)} and the truth {tuple(truth.shape)}; expected (m, *truth)"
        )
