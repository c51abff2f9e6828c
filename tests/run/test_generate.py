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


class Breaks(nn.Module):
    """Predicts NaN from t on, for samples whose first number is positive."""

    def __init__(self, since: float) -> None:
        super().__init__()
        self.since, self.one = since, nn.Parameter(torch.ones(()))

    def forward(self, z, t):
        return torch.where((t >= self.since)[:, None] & (z[:, :1] > 0), torch.nan, torch.zeros_like(z))


@pytest.mark.parametrize("batch_size", [20, 6])
def test_samples_that_are_not_finite_are_counted_with_the_step_at_which_they_began(batch_size):
    """u = 0 keeps the sign of z, so the noise says which samples break."""
    model = KDiff(Breaks(0.45), "velocity")
    wrong = int((draw_noise(20, (3,))[:, 0] > 0).sum())
    with pytest.warns(UserWarning, match="not finite") as told:
        x, _ = generate(model, 20, (3,), batch_size=batch_size, solver="euler", steps=10)
    assert [str(each.message) for each in told] == [
        f"{wrong} of 20 samples are not finite numbers (NaN or infinite); the first at step 6 of 10 (t = 0.6)"
    ]
    assert (~x.isfinite().all(1)).sum() == wrong
    with pytest.warns(UserWarning, match=rf"^{wrong} of 20 .* at step 6 of 10 \(t = 0\.6\)$"):
        generate_ends(model, ["euler", "data"], 20, (3,), batch_size=batch_size, solver="euler", steps=10)
    with pytest.warns(UserWarning, match=rf"^{2 * wrong} of 40 .* at step 10 of 10 \(t = 1\)$"):
        generate_ends(KDiff(Breaks(0.9), "velocity"), ["euler", "data"], 20, (3,), solver="euler", steps=10)


@pytest.mark.parametrize(("solver", "last_step"), [("heun", "euler"), ("ab3", "data"), ("sde", "data"), ("dpmpp_2m", "data")])
def test_a_library_call_warns_and_passes_its_callback_on(solver, last_step):
    seen: list[int] = []
    options = {"solver": solver, "steps": 8, "last_step": last_step, "callback": lambda step, t, z: seen.append(step)}
    with pytest.warns(UserWarning, match=r"2 of 3 samples are not finite numbers .*; the first at step \d of 8 \(t = 0\.\d+\)"):
        KDiff(Breaks(0.3), "velocity").sample(torch.tensor([[1.0, 0.0], [-9.0, 1.0], [2.0, 1.0]]), **options)
    assert seen == list(range(9))
    start = torch.tensor([[torch.inf, 0.0], [-1.0, 1.0]])
    with pytest.warns(UserWarning, match=r"1 of 2 samples .*; the first at step 0 of 8 \(t = 0\)"):
        KDiff(Breaks(2.0), "velocity").sample(start, solver="euler", steps=8)


def test_finite_samples_come_without_a_word(model, recwarn):
    generate(model, 5, (3,), [1, 1], steps=4)
    generate_ends(model, ["euler", "data"], 5, (3,), [1, 1], steps=4)
    assert not recwarn


def test_a_likelihood_that_is_not_finite_is_told():
    with pytest.warns(UserWarning, match="1 of 2 log-likelihoods are not finite numbers"):
        KDiff(Breaks(0.3), "velocity").log_likelihood(torch.tensor([[1.0, 0.0], [-1.0, 1.0]]), steps=4)
