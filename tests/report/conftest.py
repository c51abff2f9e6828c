"""A view of `kdiff estimate` that holds everything that its picture and text mark."""

from __future__ import annotations

import numpy as np
import pytest

from kdiff.config.studies import EstimateConfig
from kdiff.studies.estimation import View, predictions
from kdiff.theory import DimensionEstimate


@pytest.fixture
def white() -> View:
    """Made-up whitened data in which two minima tie, with an estimate of d at its limit and one that is none."""
    dimensions = [
        DimensionEstimate("TwoNN", "global", 40.0, 38, 42, 0.95, 500),
        DimensionEstimate("energy", "local", 18.0, 17.8, 18.2, 0.95, 500, 19),
    ]
    moments = np.full(64, 1.0)
    found = predictions(moments, dimensions, EstimateConfig())
    return View("samples", 64, 500, 64.0, 0.0, moments, dimensions, found)
