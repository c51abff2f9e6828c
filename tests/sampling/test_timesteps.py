"""Laws of t: their distribution, and that stratifying keeps it while covering every batch evenly."""

from __future__ import annotations

import math

import pytest
import torch

from kdiff import LogitNormal, Uniform

LAWS = [Uniform(), LogitNormal(-0.8, 0.8), LogitNormal(0.0, 1.0)]


@pytest.mark.parametrize("stratified", [False, True])
@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_the_share_below_a_quantile_is_right(law, stratified):
    law = type(law)(**{**vars(law), "stratified": stratified})
    t = law.sample(100_000)
    for p in (0.05, 0.5, 0.9):
        assert (t < law.quantile(torch.tensor(p))).float().mean().item() == pytest.approx(p, abs=0.005)


def test_logit_normal_quantiles_are_those_of_the_normal():
    assert LogitNormal(-0.8, 0.8).quantile(torch.tensor(0.5)).item() == pytest.approx(1 / (1 + math.exp(0.8)))
    logit = torch.logit(LogitNormal(1.0, 2.0).quantile(torch.tensor(0.8413447)))
    assert logit.item() == pytest.approx(1 + 2, abs=1e-4)


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_a_stratified_batch_has_one_time_per_stratum_in_random_order(law):
    t = type(law)(**{**vars(law), "stratified": True}).sample(64)
    edges = law.quantile(torch.linspace(0, 1, 65))
    strata = torch.bucketize(t.double(), edges.double()) - 1
    assert sorted(strata.tolist()) == list(range(64))
    assert strata.tolist() != sorted(strata.tolist())


def test_same_generator_same_times_and_a_bad_width_is_refused():
    first, second = (Uniform().sample(5, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    with pytest.raises(ValueError, match="std is 0"):
        LogitNormal(std=0)
