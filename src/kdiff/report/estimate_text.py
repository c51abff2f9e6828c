"""The text of `kdiff estimate`: a view's dimensions, what the theories say of k, how far they are apart, and what it means."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from kdiff.data import Dataset
from kdiff.experiments.estimate import Prediction, View, at_limit
from kdiff.experiments.predictions import MAX_POINTS


def as_text(view: View) -> str:
    """A view as text: dimensions, then predictions, then how far the theories are apart."""
    spectral = f", {MAX_POINTS} of these for variance and theories" if view.num_points > MAX_POINTS < view.D else ""
    lines = [
        f"{view.name}: D = {view.D} ({view.num_points} of them looked at{spectral}), total variance {view.total_variance:.4g}, "
        f"squared mean {view.squared_mean:.4g}, noise scale s = {view.noise_scale:g}",
        *(f"  {remark}" for remark in view.remarks),
        "",
        *_dimensions(view),
        "",
    ]
    shown = [_k(one) for one in view.predictions]
    width = max(7, *(2 + len(each) for each in shown))
    lines.append(f"  {'theory':40}{'k':>{width}}   the answer to")
    lines += [f"  {one.theory:40}{k:>{width}}   {one.question}" for one, k in zip(view.predictions, shown)]
    return "\n".join([*lines, "", *(f"  {line}" for line in spread(view.predictions))])


def _dimensions(view: View) -> list[str]:
    if view.problem:
        return [f"  no estimates of d: {view.problem}"]
    lines = [f"  {'intrinsic dimension d':32}{'estimate':>9}   95 % interval"]
    for one in view.dimensions:
        near = "at its limit: " if at_limit(one, view.D) else ""
        note = f"   ({near}cannot exceed {one.limit})" if one.limit is not None and one.limit < view.D else ""
        if not one.value <= view.D:
            note = "   (more than D: the values are coarse, or points repeat; do not trust it)"
        lines.append(f"  {f'{one.method} ({one.scope})':32}{one.value:9.3g}   {one.low:.3g} to {one.high:.3g}{note}")
    if view.name.startswith("patches"):
        lines.append("  (intervals take images for independent, not their patches)")
    return lines


def _k(one: Prediction) -> str:
    """0.667, or with minima that tie "0 or 1", in ascending order: which of them is the lowest means nothing."""
    return " or ".join(f"{k:.3g}" for k in sorted([one.k, *one.ties])) if one.ties else f"{one.k:.3f}"


def spread(predictions: Sequence[Prediction]) -> list[str]:
    """How far the theories are apart, and which are left out of that: those with a `doubt`, by what it is."""
    counted = sorted((one for one in predictions if one.doubt is None), key=lambda one: one.k)
    low, high = counted[0], counted[-1]
    lines = [f"They are {high.k - low.k:.2f} apart: from {low.k:.3f} ({low.theory}) to {high.k:.3f} ({high.theory})."]
    for doubt in dict.fromkeys(one.doubt for one in predictions if one.doubt):
        lines.append(f"Left out of this, as {doubt}: {'; '.join(one.theory for one in predictions if one.doubt == doubt)}.")
    return lines


def meaning(dataset: Dataset, views: Sequence[View], data: str) -> str:
    """What the numbers do and do not mean, for these data."""
    whole = views[0]
    unit = whole.noise_scale**2
    total = (whole.total_variance + whole.squared_mean) / unit
    now, centred, doubled = (whole.D / (whole.D + each) for each in (total, whole.total_variance / unit, 4 * total))
    return "\n".join(
        [
            "What this means",
            "- D/(D + d) is a theorem about linear networks, a loss on u, uniform times and data whitened on a d-dimensional",
            "  subspace, to the noise's variance; else the noise's scale does not enter it. What it really contains is the",
            f"  data's mean square in units of that variance, E|x|²/s² = {total:.4g} here: k = {now:.3f}. With the mean",
            f"  removed it would be {centred:.3f}, with data of twice the scale {doubled:.3f}. So the normalisation",
            f"  ({dataset.normalisation.kind}) decides as much as the dimension does.",
            "- Estimates of d differ because they mean different things: spectra see linear subspaces, neighbours see curved",
            "  manifolds and fall short above d of about 15. Intervals cover sampling noise, not that.",
            "- A trained network is not linear, learns under a loss on v, and need not end at any of these. To know, compare:",
            f"  kdiff compare {shlex.quote(data)} --grid 6",
        ]
    )
