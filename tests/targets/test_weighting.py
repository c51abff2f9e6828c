"""The weight over time: closed forms, no gradient to k from an exact network, running means that count each sample once."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kdiff.model import KDiff
from kdiff.networks import MLP
from kdiff.path import LinearPath, VariancePreservingPath
from kdiff.targets import WEIGHTINGS, FixedK, LearnedK, LearnedKOfTime, make_weighting
from kdiff.targets.weighting import BINS, LARGEST, MEMORY, LogWeighting

B, D = 4096, 6


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    x, n = (torch.randn(B, D, generator=generator) for _ in range(2))
    return x, n, torch.rand(B, generator=generator)


def observed(error: torch.Tensor, t: torch.Tensor, times: int = 1) -> LogWeighting:
    weighting = LogWeighting()
    for _ in range(times):
        weighting.observe(error, t)
        weighting.settle()
    return weighting


@pytest.mark.parametrize("path", [LinearPath(), VariancePreservingPath()])
@pytest.mark.parametrize("target", [FixedK(0.3), FixedK(1.0), LearnedKOfTime("wiener", init=0.7)])
def test_den_is_the_loss_on_u(batch, target, path) -> None:
    """Its value is the mean square of û − u wherever nothing is clamped; where |den| is, the factor is den/den_c."""
    x, n, t = batch
    u_hat = torch.randn(B, D)
    inner = t < 0.9
    error = target.velocity_error(u_hat, x, n, t, path)[inner]
    found = make_weighting("den")(error, t[inner], target, path)
    expected = target.output_error(u_hat, x, n, t)[inner].square().mean()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=0)


def test_den_does_not_pull_k(batch) -> None:
    """The loss on u pulls k even of an exact network; its gradient to the output is the same."""
    x, n, t = batch
    target = LearnedK(0.7)
    u_hat = target.encode(x, n, t).detach().requires_grad_()
    make_weighting("den")(target.velocity_error(u_hat, x, n, t), t, target).backward()
    assert target.w.grad.abs() < 1e-6
    noisy = (u_hat + torch.randn(B, D)).detach().requires_grad_()
    make_weighting("den")(target.velocity_error(noisy, x, n, t), t, target).backward()
    ours, noisy.grad = noisy.grad, None
    target.output_error(noisy, x, n, t).square().mean().backward()
    torch.testing.assert_close(ours, noisy.grad, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("name", list(WEIGHTINGS))
@pytest.mark.parametrize("k", [0.2, 0.97])
def test_an_exact_network_gives_k_no_gradient(name, k) -> None:
    """One point of data: u is known from z and t. At k = 0.97 the clamp acts, and the weights are far from equal."""
    generator = torch.Generator().manual_seed(1)
    x, n, t = torch.full((512, 3), 1.5), torch.randn(512, 3, generator=generator), torch.rand(512, generator=generator)
    target, weighting = LearnedK(k), make_weighting(name)
    weighting.observe((3 * t[:, None] + 0.1) * torch.randn(512, 3, generator=generator), t)
    weighting.settle()
    u = target.encode(x, n, t).detach()
    weighting(target.velocity_error(u, x, n, t), t, target).backward()
    assert target.w.grad.abs() < 1e-5
    target.w.grad = None
    weighting(target.velocity_error(u + 0.1, x, n, t), t, target).backward()
    assert target.w.grad.abs() > 1e-4, "and an inexact one does"


def test_log_has_the_gradient_of_the_mean_of_log_errors() -> None:
    """With running means that are the batch's own: d/dθ E_t log m(t), times the harmonic mean that makes the mean weight 1."""
    generator = torch.Generator().manual_seed(0)
    t = torch.rand(20_000, generator=generator)
    theta = torch.tensor([0.3, 0.8], requires_grad=True)
    noise = torch.randn(20_000, 2, generator=generator)
    error = (theta[0] * t[:, None] + theta[1]) * noise
    weighting = observed(error, t)
    weighting(error, t, FixedK(0.5)).backward()
    ours, theta.grad = theta.grad, None
    squares = ((theta[0] * t[:, None] + theta[1]) * noise).square().mean(1)
    interval = (t * BINS).long()
    counts = torch.bincount(interval, minlength=BINS)
    means = torch.zeros(BINS).index_add(0, interval, squares) / counts
    (counts / counts.sum() * means.log()).sum().backward()
    harmonic = 1 / (counts / counts.sum() / means.detach()).sum()
    torch.testing.assert_close(ours, harmonic * theta.grad, rtol=1e-3, atol=1e-6)


def test_the_mean_weight_is_one_under_any_law_of_t(batch) -> None:
    t = torch.sigmoid(torch.randn(B))
    weighting = observed((1 + 5 * t[:, None]) * torch.randn(B, D), t)
    weights = weighting.weights()[(t * BINS).long().clamp(max=BINS - 1)]
    assert weights.mean().item() == pytest.approx(1, rel=1e-4)
    assert weights.max() / weights.min() > 5


def test_running_means(batch) -> None:
    """The first samples of an interval give its mean; each later sample leaves the share MEMORY of it."""
    weighting = observed(torch.full((4, 2), 3.0), torch.tensor([0.01, 0.02, 0.99, 1.0]))
    assert weighting.mean_square[[0, -1]].tolist() == [9, 9]
    weighting.observe(torch.full((2, 2), 1.0), torch.tensor([0.0, 0.03]))
    weighting.settle()
    assert weighting.mean_square[0].item() == pytest.approx(MEMORY**2 * 9 + (1 - MEMORY**2))
    assert weighting.mean_square[-1] == 9
    assert weighting.visits[[0, 1, -1]].tolist() == [4, 0, 2]
    assert weighting.weights()[1].item() == pytest.approx(
        (1 / (4 / 6 * weighting.mean_square[0] + 2 / 6 * 9)).item() / (4 / 6 / weighting.mean_square[0] + 2 / 6 / 9).item(),
        rel=1e-5,
    ), "an interval without samples has the weight of the mean error"


def test_before_the_first_step_and_without_any_error_all_weights_are_finite() -> None:
    assert LogWeighting().weights().tolist() == [1.0] * BINS
    t = torch.linspace(0, 1, 100)
    assert observed(torch.zeros(100, 2), t).weights().isfinite().all()
    some = observed((t > 0.5).float()[:, None], t).weights()
    assert some.isfinite().all()
    assert some.max() / some.min() == pytest.approx(LARGEST, rel=1e-3)


def test_a_step_depends_on_neither_micro_batches_nor_processes(batch) -> None:
    """Sums over four parts, or over two processes that add theirs, are those over the whole batch."""
    x, _, t = batch
    whole, parts, processes = observed(x, t), LogWeighting(), [LogWeighting(), LogWeighting()]
    for part in range(4):
        parts.observe(x[part::4], t[part::4])
    parts.settle()
    for place, each in enumerate(processes):
        each.observe(x[place::2], t[place::2])
    seen = sum(each._seen for each in processes)
    for each in processes:
        each.settle(lambda _: seen)
        torch.testing.assert_close(each.mean_square, whole.mean_square, rtol=1e-6, atol=0)
        assert torch.equal(each.visits, whole.visits)
    torch.testing.assert_close(parts.mean_square, whole.mean_square, rtol=1e-6, atol=0)


def test_under_half_precision(batch) -> None:
    """Losses and means stay in float32 under autocast and after `.bfloat16()`."""
    x, _, t = batch
    exact = observed(x, t)
    half = LogWeighting().bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        half.observe(x, t)
        half.settle()
        loss = half(x, t, FixedK(0.5))
    assert half.mean_square.dtype == loss.dtype == torch.float32
    torch.testing.assert_close(half.mean_square, exact.mean_square)


def test_a_model_keeps_the_means_and_only_training_changes_them(batch) -> None:
    x, n, t = batch
    model = KDiff(MLP((D,)), 0.8, weighting="log")
    model.loss(x, t, n)
    before = model.weighting.mean_square.clone()
    assert model.weighting.visits.sum() == B
    model.eval().loss(x, t, n)
    assert torch.equal(model.weighting.mean_square, before)
    other = copy.deepcopy(model)
    other.weighting.mean_square.fill_(1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.weighting.mean_square, before)
    assert not KDiff(MLP((D,)), 0.8).weighting.state_dict()


def test_without_weighting_the_loss_is_as_before(batch) -> None:
    x, n, t = batch
    model = KDiff(MLP((D,)), "learned")
    error = model.target.velocity_error(model.predict(model.path.mix(x, n, t), t), x, n, t)
    assert torch.equal(model.loss(x, t, n), error.square().mean())


@pytest.mark.parametrize("options", [{"weighting": "snr"}, {"weighting": "log", "loss_space": "u"}])
def test_refusals(options) -> None:
    with pytest.raises(ValueError, match=r"weighting is '(snr'; expected none, den, log|log', which weighs the errors)"):
        KDiff(nn.Identity(), **options)


def test_a_batch_of_two_answers_for_each_time_counts_both_at_that_time() -> None:
    weighting, t = LogWeighting(), torch.tensor([0.1, 0.9])
    weighting.observe(torch.tensor([[1.0], [2.0], [3.0], [4.0]]), t)
    weighting.settle()
    early, late = (t * 25).long().tolist()
    assert weighting.visits[[early, late]].tolist() == [2, 2]
    assert weighting.mean_square[[early, late]].tolist() == pytest.approx([5.0, 10.0])
