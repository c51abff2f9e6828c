"""The order of the data: permutations, cut into batches, as a function of seed and step."""

from __future__ import annotations

import pytest
import torch

from kdiff.training.order import DataOrder


@pytest.mark.parametrize(("num_samples", "batch_size"), [(10, 3), (12, 4), (7, 7), (5, 13), (1, 4), (100, 1)])
def test_every_epoch_is_a_permutation_and_nothing_is_dropped(num_samples, batch_size):
    order = DataOrder(num_samples, batch_size, seed=3)
    batches = [order.batch(step) for step in range(4 * num_samples)]
    assert {tuple(batch.shape) for batch in batches} == {(batch_size,)}
    assert {batch.dtype for batch in batches} == {torch.int64}
    epochs = torch.cat(batches).split(num_samples)
    assert len(epochs) == 4 * batch_size
    for epoch in epochs:
        assert torch.equal(epoch.sort().values, torch.arange(num_samples))


def test_a_batch_depends_on_seed_and_step_alone():
    steps = [0, 5, 3, 99, 4, 5, 0]
    there = DataOrder(11, 4, seed=7)
    back = DataOrder(11, 4, seed=7)
    expected = {step: back.batch(step) for step in reversed(range(100))}
    for step in steps:
        torch.manual_seed(step)
        state = torch.get_rng_state()
        assert torch.equal(there.batch(step), expected[step])
        assert torch.equal(torch.get_rng_state(), state)


def test_another_seed_or_epoch_is_another_order():
    orders = [DataOrder(50, 50, seed=seed).batch(epoch) for seed in range(5) for epoch in range(5)]
    assert len({tuple(order.tolist()) for order in orders}) == 25


def test_positions_are_uniform():
    """Each sample comes first about equally often: 2000 epochs of 4 samples, 500 expected, standard deviation 19."""
    order = DataOrder(4, 4, seed=0)
    first = torch.bincount(torch.stack([order.batch(epoch) for epoch in range(2000)])[:, 0], minlength=4)
    assert (first - 500).abs().max() < 90
