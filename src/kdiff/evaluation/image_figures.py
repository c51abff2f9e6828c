"""Figures of image features: Fréchet distances, Inception score, KID, precision and recall, and what is known of their errors.

    fid, sfid, fd_dinov2, fd_classifier    Fréchet distance, `kdiff.evaluation.frechet`; interval by the jackknife
    inception_score    exp E KL(p(class | image) | p(class)): mean over 10 parts of the samples (Salimans et al., 2016);
                       interval from the spread over the parts
    kid                unbiased squared MMD with the kernel (a.b / F + 1)^3 (Binkowski et al., 2018): mean over 100 random
                       subsets of up to 1000 of both sets, and the standard deviation over them, as is usual. The subsets
                       overlap, so this is not the error of the mean, and there is no interval. If they are nearly all of a
                       set, its part of the spread is missing, so no standard deviation is given
    precision          share of samples within the k = 3 nearest-neighbour radius of an image of the reference
                       (Kynkaanniemi et al., 2019); interval of a share, for a fixed reference
    recall             share of the reference within such a radius of a sample; it depends on both sets: no interval

Intervals are 95 % intervals around the value at this number of samples. All figures but the Fréchet distance are computed by
torch-fidelity, with its defaults. Precision and recall use the same pooled features as KID, as in ADM's evaluation. Recall
rises with the number of samples, so precision and recall must be compared at equal numbers only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scipy import stats
from torch import Tensor

from kdiff.evaluation.features import Extractor
from kdiff.evaluation.frechet import jackknife_frechet
from kdiff.evaluation.reference import Reference

FRECHET = {
    ("inception", "pool"): "fid",
    ("inception", "spatial"): "sfid",
    ("dinov2", "pool"): "fd_dinov2",
    ("classifier", "pool"): "fd_classifier",
}
SPLITS, KID_SUBSETS, KID_SIZE, NEIGHBOURS = 10, 100, 1000, 3
NEARLY_ALL = 0.9  # of a set: KID's subsets of this share or more do not show how much it varies
NEIGHBOUR_BATCH = 4096
NO_SPREAD = "no spread"  # how the method of a figure begins that could have a spread


@dataclass(frozen=True)
class ImageFigure:
    """A value; its 95 % interval and its spread over subsets, where they exist; and the method behind these."""

    value: float
    interval: tuple[float, float] | None = None
    spread: float | None = None
    method: str | None = None


def measure(
    features: dict[str, Tensor], reference: Reference, extractor: Extractor
) -> tuple[dict[str, ImageFigure], dict[str, str], list[str]]:
    """All figures of samples with these features by layer; the measures that are left out, and why; and warnings.

    Raises:
        ValueError: features that are not finite, or fewer than 2 samples.
    """
    figures: dict[str, ImageFigure] = {}
    left_out: dict[str, str] = {}
    for layer in extractor.layers:
        name = FRECHET[extractor.name, layer]
        if layer in reference.statistics:
            value, interval = jackknife_frechet(features[layer], reference.statistics[layer])
            figures[name] = ImageFigure(value, interval, method="jackknife over 10 groups of samples")
        else:
            left_out[name] = "the reference holds no statistics of these features (mu_s, sigma_s)"
    pool = features["pool"]
    if "logits" in features:
        figures["inception_score"] = _inception_score(features["logits"])
    if reference.features is None:
        left_out |= dict.fromkeys(("kid", "precision", "recall"), "the reference holds only statistics, no images")
    else:
        figures["kid"] = _kid(pool, reference.features)
        if min(len(pool), len(reference.features)) > NEIGHBOURS:
            figures |= _precision_recall(pool, reference.features)
        else:
            few = f"more than {NEIGHBOURS} samples and {NEIGHBOURS} reference images are needed"
            left_out |= dict.fromkeys(("precision", "recall"), few)
    return figures, left_out, cautions(len(pool), reference, extractor)


def cautions(num: int, reference: Reference, extractor: Extractor) -> list[str]:
    """Warnings for that many samples and this reference: too few of either, or unusual weights."""
    found = []
    layers = [layer for layer in extractor.layers if layer in reference.statistics]
    counts = {"samples": [num] * len(layers)}
    counts["images in the reference"] = [reference.statistics[layer].count for layer in layers]
    for whose, numbers in counts.items():
        few = [(layer, n) for layer, n in zip(layers, numbers) if 0 < n < 2 * extractor.layers[layer]]
        if few:
            of = ", ".join(f"{FRECHET[extractor.name, layer]} ({extractor.layers[layer]} features)" for layer, _ in few)
            singular = any(n <= extractor.layers[layer] for layer, n in few)
            found.append(
                f"{few[0][1]} {whose} are too few for {of}: "
                f"{'covariances are singular, and ' if singular else ''}the distance is strongly biased upward. Take at least "
                "twice as many as there are features (published figures use 50000), and compare only at equal numbers"
            )
    if extractor.facts.get("standard_weights") is False:
        found.append("these are not the Inception weights of published FIDs: compare only with figures from the same weights")
    return found


def figures_table(result: Mapping[str, Any]) -> str:
    """The result of `evaluate_images` as text: what was judged, and a line per measure."""
    samples, features = result["samples"], result["features"]
    lines = [f"{samples['num']} samples of {samples['source']}, features {features['name']} with weights {features['weights']}"]
    if "figures" in result:
        reference = result["reference"]
        what = reference.get("statistics") or reference.get("images") or reference.get("data")
        lines[0] += f"; reference {what}, {reference['num'] or 'an unknown number of'} images"
        rows = [("measure", "value", "95 % interval", "spread over subsets")]
        for name, figure in result["figures"].items():
            interval = f"{figure['interval'][0]:.5g} … {figure['interval'][1]:.5g}" if figure["interval"] else ""
            spread = "" if figure["spread"] is None else f"{figure['spread']:.2g}"
            rows.append((name, f"{figure['value']:.5g}", interval, spread))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines += ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        methods = {name: figure["method"] or "" for name, figure in result["figures"].items()}
        lines += [f"{name}: {method}" for name, method in methods.items() if method.startswith(NO_SPREAD)]
        lines += [f"left out   {name}: {why}" for name, why in result["left_out"].items()]
    return "\n".join(lines)


def _inception_score(logits: Tensor) -> ImageFigure:
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, KEY_METRIC_ISC_STD, isc_features_to_metric

    splits = min(SPLITS, len(logits))
    found = isc_features_to_metric(logits, splits)
    value, spread = found[KEY_METRIC_ISC_MEAN], found[KEY_METRIC_ISC_STD]
    margin = float(stats.t.ppf(0.975, splits - 1)) * spread / math.sqrt(splits - 1)  # the spread is divided by `splits`
    return ImageFigure(value, (value - margin, value + margin), spread, f"spread over {splits} parts of the samples")


def _kid(samples: Tensor, reference: Tensor) -> ImageFigure:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    size = min(KID_SIZE, len(samples), len(reference))
    found = kid_features_to_metric(samples, reference, kid_subsets=KID_SUBSETS, kid_subset_size=size, verbose=False)
    of = f"{size} of {len(samples)} samples and {size} of {len(reference)} reference images"
    if size >= NEARLY_ALL * min(len(samples), len(reference)):
        return ImageFigure(found[KEY_METRIC_KID_MEAN], method=f"{NO_SPREAD}: every subset would be {of}")
    method = f"spread over {KID_SUBSETS} random subsets, which overlap, of {of}"
    return ImageFigure(found[KEY_METRIC_KID_MEAN], spread=found[KEY_METRIC_KID_STD], method=method)


def _precision_recall(samples: Tensor, reference: Tensor) -> dict[str, ImageFigure]:
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    options = {"prc_neighborhood": NEIGHBOURS, "prc_batch_size": NEIGHBOUR_BATCH, "save_cpu_ram": True, "verbose": False}
    found = prc_features_to_metric(samples, reference, **options)
    low, high = _share_interval(found[KEY_METRIC_PRECISION], len(samples))
    return {
        "precision": ImageFigure(
            found[KEY_METRIC_PRECISION], (low, high), method="Wilson's interval of a share of the samples"
        ),
        "recall": ImageFigure(found[KEY_METRIC_RECALL]),
    }


def _share_interval(share: float, count: int) -> tuple[float, float]:
    """Wilson's 95 % interval (1927), which stays within 0 and 1, and is not empty at either."""
    z2 = float(stats.norm.ppf(0.975)) ** 2
    centre = (share + z2 / (2 * count)) / (1 + z2 / count)
    margin = math.sqrt(z2 * (share * (1 - share) + z2 / (4 * count)) / count) / (1 + z2 / count)
    return max(centre - margin, 0.0), min(centre + margin, 1.0)
