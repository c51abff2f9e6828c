"""What the tests of claims share."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kdiff.evaluation import classifier
from kdiff.evaluation.judged_samplers import SAMPLER
from kdiff.studies.runner import execute


@pytest.fixture
def in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trains and judges the runs of a claim here, by samples of few steps and a classifier that is hardly trained.

    A worker process takes seconds to start. The tests of studies show what workers do, and one test of test_reproduction.py
    starts one.
    """
    monkeypatch.setitem(SAMPLER, "steps", 4)
    monkeypatch.setattr(classifier, "RECIPE", replace(classifier.RECIPE, steps=20))
    monkeypatch.setattr("kdiff.claims.reproduction.run_jobs", lambda jobs, workers, progress: [execute(job) for job in jobs])
