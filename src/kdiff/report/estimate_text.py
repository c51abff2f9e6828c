"""The text of `kdiff estimate`: estimates of d, the k of each theory, how much the theories differ, and what it all means."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from kdiff.data import Dataset
from kdiff.studies.estimation import Prediction, View, at_limit
from kdiff.studies.predictions import MAX_POINTS


def as_text(view: View) -> str:
    """A view as text: the estimates of d, then the predictions, then how much the theories differ."""
    spectral = f", {MAX_POINTS} of them for variance and theories" if view.num_points > MAX_POINTS < view.D else ""
    lines = [
        f"{view.name}: D = {view.D} ({view.num_points} points used{spectral}), total variance {view.total_variance:.4g}, "
        f"squared mean {view.squared_mean:.4g}, noise scale s = {view.noise_scale:g}",
        *(f"  {remark}" for remark in view.remarks),
        "",
        *_dimensions(view),
        "",
    ]
    shown = [_k(one) for one in view.predictions]
    width = max(7, *(2 + len(each) for each in shown))
    lines.append(f"  {'theory':40}{'k':>{width}}   what this k is")
    lines += [f"  {one.theory:40}{k:>{width}}   {one.question}" for one, k in zip(view.predictions, shown)]
    return "\n".join([*lines, "", *(f"  {line}" for line in spread(view.predictions))])


def _dimensions(view: View) -> list[str]:
    if view.problem:
        return [f"  no estimates of d: {view.problem}"]
    lines = [f"  {'intrinsic dimension d':32}{'estimate':>9}   95 % interval"]
    for one in view.dimensions:
        near = "at its limit: " if at_limit(one, view.D) else ""
        note = f"   ({near}this method gives at most {one.limit})" if one.limit is not None and one.limit < view.D else ""
        if not one.value <= view.D:
            note = "   (do not trust this estimate: it is above D, because the values are coarse or points repeat)"
        lines.append(f"  {f'{one.method} ({one.scope})':32}{one.value:9.3g}   {one.low:.3g} to {one.high:.3g}{note}")
    if view.name.startswith("patches"):
        lines.append("  (the intervals treat different images as independent, and patches of one image as dependent)")
    return lines


def _k(one: Prediction) -> str:
    """A k as text, "0.667". Minima that tie are given in ascending order, "0 or 1", because neither is the better one."""
    return " or ".join(f"{k:.3g}" for k in sorted([one.k, *one.ties])) if one.ties else f"{one.k:.3f}"


def spread(predictions: Sequence[Prediction]) -> list[str]:
    """How much the theories differ, then the theories that are not counted because of a `doubt`, a line for each doubt."""
    counted = sorted((one for one in predictions if one.doubt is None), key=lambda one: one.k)
    low, high = counted[0], counted[-1]
    ends = f"from k = {low.k:.3f} ({low.theory}) to k = {high.k:.3f} ({high.theory})"
    lines = [f"The theories differ by {high.k - low.k:.2f}: {ends}."]
    for doubt in dict.fromkeys(one.doubt for one in predictions if one.doubt):
        doubted = "; ".join(one.theory for one in predictions if one.doubt == doubt)
        lines.append(f"Not counted, because {doubt}: {doubted}.")
    return lines


def meaning(dataset: Dataset, views: Sequence[View], data: str) -> str:
    """What the numbers mean for these data, and what they do not mean."""
    whole = views[0]
    unit = whole.noise_scale**2
    total = (whole.total_variance + whole.squared_mean) / unit
    now, centred, doubled = (whole.D / (whole.D + each) for each in (total, whole.total_variance / unit, 4 * total))
    return "\n".join(
        [
            "What this means",
            "- k = D/(D + d) is a theorem about linear networks, a loss on u, uniform times, and data that are whitened on a",
            "  d-dimensional subspace and have the noise's variance there. The scale of the noise does not appear in the rule.",
            "  For other data, d is replaced by the mean square of the data in units of the noise's variance. Here",
            f"  E|x|²/s² = {total:.4g}, which gives k = {now:.3f}. If the mean were removed, k would be {centred:.3f}. If the",
            f"  data had twice the scale, k would be {doubled:.3f}. So the normalisation ({dataset.normalisation.kind})",
            "  matters as much as the dimension.",
            "- Estimates of d differ because the methods measure different things. Methods that use the spectrum see linear",
            "  subspaces. Methods that use neighbours see curved manifolds, and give too low a d where d is above about 15.",
            "  The intervals cover sampling noise, but not these differences.",
            "- A trained network is not linear and learns with a loss on v, so its k need not end at any of these values.",
            "  To find out what k is best for a trained network, run:",
            f"  kdiff compare {shlex.quote(data)} --grid 6",
            "",
            "Recommendation",
            "- For one run, take the default. It needs none of these numbers: k is learned from 0.9, and times are weighed.",
            f"  kdiff train --data {shlex.quote(data)}",
            "  Evidence: seven held-out combinations of data and network, five seeds each (docs/results/recipes.md). Its",
            "  samples were 1.18 times as far from the data as the best of a grid of 18 runs (1.0 to 1.7 by combination),",
            "  and 0.03 to 1.04 times as far as those of the paper's learned k.",
            "- If the last 20 % count, or the training is short (a few thousand steps), try fixed k and other weights too:",
            f'  kdiff compare {shlex.quote(data)} --targets learned "0.95(weighting=den)" "1(weighting=log)" velocity',
        ]
    )
