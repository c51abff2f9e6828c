"""Noise by sample index."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kdiff.sampling import draw_noise
from kdiff.sampling.noise import mix_seed


def test_noise_does_not_depend_on_the_batch():
    whole = draw_noise(10, (3, 4, 4), seed=5)
    parts = torch.cat([draw_noise(range(start, stop), (3, 4, 4), seed=5) for start, stop in ((0, 1), (1, 4), (4, 10))])
    assert torch.equal(whole, parts)
    assert torch.equal(draw_noise([7], (3, 4, 4), seed=5)[0], whole[7])


def test_noise_is_normal_and_differs_between_samples_and_seeds():
    noise = draw_noise(2000, (50,))
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    assert torch.corrcoef(noise[:100]).fill_diagonal_(0).abs().max() < 0.7
    assert not torch.equal(draw_noise(1, (50,), seed=0), draw_noise(1, (50,), seed=1))


def test_mixed_seeds_do_not_collide_for_neighbours():
    seeds = {mix_seed(a, b) for a in range(100) for b in range(100)}
    assert len(seeds) == 10_000
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_indices_may_be_a_tensor_or_numpy_numbers():
    whole = draw_noise(5, (3,))
    assert torch.equal(draw_noise(torch.tensor([1, 4]), (3,)), whole[[1, 4]])
    assert torch.equal(draw_noise(np.int64(2), (3,)), whole[:2])
