"""Samples in batches: the same whatever their size, with solvers that draw noise too."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdiff import KDiff, draw_noise
from kdiff.networks import MLP
from kdiff.run.generate import generate, generate_ends
from kdiff.sampling import SOLVERS


@pytest.fixture(scope="module")
def model() -> KDiff:
    torch.manual_seed(0)
    model = KDiff(MLP((3,), num_classes=2, width=8, depth=1), 0.7)
    for parameter in model.network.parameters():  # a new network says 0
        nn.init.normal_(parameter, std=0.4)
    return model


@pytest.mark.parametrize("solver", sorted(SOLVERS.keys() - {"dopri5"}))
def test_samples_and_labels_do_not_depend_on_the_batch_size(solver, model):
    options = {"class_counts": [3, 1], "seed": 4, "solver": solver, "steps": 5}
    x, y = generate(model, 7, (3,), **options)
    for batch_size in (1, 3):
        other, labels = generate(model, 7, (3,), batch_size=batch_size, **options)
        torch.testing.assert_close(other, x, rtol=1e-5, atol=1e-5)
        assert torch.equal(labels, y)


def test_the_seed_changes_the_noise_of_the_walk_as_well(model):
    """Started from the same place, by a solver that begins with noise of its own."""
    start = draw_noise(4, (3,))
    first, again, other = (model.sample(start, solver="sde", y=torch.zeros(4).long(), seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert (first - other).abs().min() > 1e-4
    x, _ = generate(model, 4, (3,), [1, 1], seed=2, solver="sde")
    y = generate(model, 4, (3,), [1, 1], seed=2, solver="sde")[1]
    assert torch.equal(model.sample(draw_noise(4, (3,), seed=2), y=y, seed=2, solver="sde"), x)


@pytest.mark.parametrize("solver", ["heun", "sde"])
def test_several_ends_are_those_of_walks_of_their_own(solver, model):
    options = {"class_counts": [1, 1], "seed": 3, "solver": solver, "steps": 6, "batch_size": 3}
    ends = generate_ends(model, ["euler", "data"], 5, (3,), **options)
    for last_step, end in zip(("euler", "data"), ends):
        torch.testing.assert_close(end, generate(model, 5, (3,), last_step=last_step, **options)[0])
