"""KDiffLoss in the terms of diffusers' scripts: their loss where k is ½, the target's everywhere, their sign."""

from __future__ import annotations

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.training_utils import compute_loss_weighting_for_sd3
from torch import Tensor

import kdiff
from kdiff.published import KDiffLoss
from kdiff.targets import LearnedKOfTime

Batch = tuple[Tensor, Tensor, Tensor, Tensor]
TARGETS = [
    kdiff.LearnedK(0.7),
    kdiff.FixedK("noise"),
    kdiff.FixedK("data"),
    LearnedKOfTime(init=0.6),
    kdiff.GeneralTarget(1, 1),
]


@pytest.fixture
def batch() -> Batch:
    """What a model says of a noisy sample, the sample, the noise and σ."""
    x, n = torch.randn(8, 2, 4, 4), torch.randn(8, 2, 4, 4)
    return torch.randn(8, 2, 4, 4), x, n, torch.rand(8, 1, 1, 1)


@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_it_is_the_loss_of_the_target(batch, target) -> None:
    pred, x, n, sigmas = batch
    loss = KDiffLoss(target)(pred, x, n, sigmas)
    torch.testing.assert_close(loss, target.loss(pred, x, n, 1 - sigmas.flatten()))
    torch.testing.assert_close(loss, KDiffLoss(target)(pred, x, n, sigmas.flatten()))


def test_from_the_velocity_on_it_is_the_script_own_loss(batch) -> None:
    """A model of n − x goes on with scale −½, learned k at its start: nothing changes, weighting included."""
    pred, x, n, sigmas = batch
    loss_fn = KDiffLoss(scale=-0.5)
    weighting = compute_loss_weighting_for_sd3("sigma_sqrt", sigmas.clamp(min=0.1))
    usual = (weighting * (pred - (n - x)).square()).mean()
    torch.testing.assert_close(loss_fn(pred, x, n, sigmas, weighting), usual)
    z = (1 - sigmas) * x + sigmas * n
    torch.testing.assert_close(loss_fn.model_output(pred, z, sigmas), pred)


@pytest.mark.parametrize("target", TARGETS, ids=repr)
def test_of_a_perfect_model_a_scheduler_makes_the_data(batch, target) -> None:
    """From any σ a step to 0 ends on x."""
    _, x, n, sigmas = batch
    loss_fn = KDiffLoss(target)
    scheduler = FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=[0.8])
    sigma = scheduler.timesteps[0] / 1000
    z = (1 - sigma) * x + sigma * n
    u = target.encode(x, n, 1 - sigma)
    output = loss_fn.model_output(u, z, sigma)
    torch.testing.assert_close(output, n - x, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(scheduler.step(output, scheduler.timesteps[0], z).prev_sample, x, rtol=1e-4, atol=1e-5)
    assert loss_fn(target.encode(x, n, 1 - sigmas.flatten()), x, n, sigmas).item() < 1e-8


def test_k_is_learned_and_saved(batch) -> None:
    pred, x, n, sigmas = batch
    loss_fn = KDiffLoss()
    before = loss_fn.target.k
    optimizer = torch.optim.Adam(loss_fn.parameters(), lr=1e-2)
    loss_fn(pred, x, n, sigmas).backward()
    optimizer.step()
    assert loss_fn.target.k != before
    again = KDiffLoss()
    again.load_state_dict(loss_fn.state_dict())
    assert again.target.k == loss_fn.target.k


def test_half_precision_is_not_that_of_the_loss(batch) -> None:
    """bfloat16 in, with σ of a value that it cannot tell from 0 or 1 when subtracted: the loss in float32."""
    pred, x, n, _ = (value.bfloat16() for value in batch)
    sigmas = torch.full((8, 1, 1, 1), 2.0**-10).bfloat16()
    loss_fn = KDiffLoss(kdiff.LearnedK(0.7))
    loss = loss_fn(pred, x, n, sigmas)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, loss_fn(pred.float(), x.float(), n.float(), sigmas.float()))


def test_mistakes(batch) -> None:
    pred, x, n, sigmas = batch
    with pytest.raises(ValueError, match="first half"):
        KDiffLoss()(torch.cat([pred, pred], dim=1), x, n, sigmas)
    with pytest.raises(ValueError, match="scale is 0"):
        KDiffLoss(scale=0)
    with pytest.raises(ValueError, match="no target is called"):
        KDiffLoss("epsilon")


def test_weights_belong_to_samples_and_are_not_broadcast_over_pixels(batch) -> None:
    """(4,) would fit the width of 4 × 4 pixels, and (8,) is a weight for each of the 8 samples."""
    pred, x, n, sigmas = batch
    weights = torch.rand(8)
    torch.testing.assert_close(
        KDiffLoss()(pred, x, n, sigmas, weights), KDiffLoss()(pred, x, n, sigmas, weights.view(8, 1, 1, 1))
    )
    square = [value[:4] for value in batch]
    ours = KDiffLoss()(*square, weights[:4])
    torch.testing.assert_close(ours, KDiffLoss()(*square, weights[:4].view(4, 1, 1, 1)))
    for shape in ((4,), (8, 2), (1, 8), (16, 1, 1, 1), (8, 3, 1, 1)):
        with pytest.raises(ValueError, match="weighting has shape"):
            KDiffLoss()(pred, x, n, sigmas, torch.rand(shape))
    with pytest.raises(ValueError, match=r"sample .*, model_pred \(8, 1, 4, 4\); expected one shape"):
        KDiffLoss().model_output(pred[:, :1], x, sigmas)


def test_timesteps_in_place_of_sigmas_are_refused(batch) -> None:
    pred, x, n, sigmas = batch
    for use in (KDiffLoss(), lambda p, x, n, s: KDiffLoss().model_output(p, x, s)):
        with pytest.raises(ValueError, match=r"sigmas = \d.* … \d+.*; expected σ in \[0, 1\], which is timesteps / 1000"):
            use(pred, x, n, 1000 * sigmas)
