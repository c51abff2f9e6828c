"""KID's spread is shown only where its subsets can differ; the value is torch-fidelity's in any case."""

from __future__ import annotations

import pytest
import torch

from kdiff.evaluation import image_figures
from kdiff.evaluation.frechet import statistics
from kdiff.evaluation.image_figures import measure
from kdiff.evaluation.reference import Reference

pytest.importorskip("torch_fidelity")


class Features:
    """Three features of a classifier, in the place of an extractor."""

    name, layers, facts = "classifier", {"pool": 3}, {}


@pytest.mark.parametrize(
    ("samples", "images", "shown"), [(40, 40, False), (40, 300, False), (60, 40, False), (105, 300, False)]
)
def test_subsets_that_are_the_whole_set_have_no_spread(samples, images, shown, monkeypatch) -> None:
    monkeypatch.setattr(image_figures, "KID_SIZE", 100)
    compare(samples, images, shown)


@pytest.mark.parametrize(("samples", "images"), [(120, 130), (400, 200)])
def test_subsets_of_larger_sets_have_a_spread(samples, images, monkeypatch) -> None:
    monkeypatch.setattr(image_figures, "KID_SIZE", 100)
    compare(samples, images, True)


def compare(samples: int, images: int, shown: bool) -> None:
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, KEY_METRIC_KID_STD, kid_features_to_metric

    x, reference = torch.randn(samples, 3), torch.randn(images, 3) + 0.3
    size = min(100, samples, images)
    figures, _, _ = measure({"pool": x}, Reference({"pool": statistics(reference)}, reference, {}), Features())
    theirs = kid_features_to_metric(x, reference, kid_subsets=100, kid_subset_size=size, verbose=False)
    assert figures["kid"].value == theirs[KEY_METRIC_KID_MEAN]
    of = f"{size} of {samples} samples and {size} of {images} reference images"
    assert of in figures["kid"].method
    if shown:
        assert figures["kid"].spread == theirs[KEY_METRIC_KID_STD] > 1e-3
    else:
        assert figures["kid"].spread is None
        assert figures["kid"].method == f"no spread: every subset would be {of}"
