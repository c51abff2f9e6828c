"""Targets: conversions invert each other, the loss is the v-loss, and k is moved by it alone.

Expectations over Gaussian data are exact here: whatever is quadratic in (x, n) has its mean over the four points
x = ±√λ, n = ±1, so an exact denoiser's gradient can be asked to vanish to rounding.
"""

from __future__ import annotations

import copy

import pytest
import torch

import kdiff
from kdiff import FixedK, GeneralTarget, LearnedK, LinearPath, Target, VariancePreservingPath
from kdiff.targets import Axis, LearnedKOfTime, as_target

F64 = torch.float64
PATHS = [LinearPath(), VariancePreservingPath()]
KS = [0.0, 0.03, 0.3, 0.5, 0.77, 0.97, 1.0]
TARGETS = [
    *(FixedK(k) for k in KS),
    LearnedK(init=0.8),
    GeneralTarget(1, 1),
    GeneralTarget(0, -1),
    GeneralTarget(torch.rand(3, 1, 1), torch.rand(3, 1, 1)),
    GeneralTarget(lambda t: 1 - t, lambda t: 2 * t),
]


def line(k, u, z, t, clamp):
    """The paper's conversion, written out."""
    return ((1 - 2 * k) * z + u) / (k * (1 - t) + (1 - k) * t).clamp(min=clamp)


def gaussian_grid(variance=1.0, times=2000):
    """x, n and t whose plain mean is the exact mean of anything quadratic in x and n."""
    t = ((torch.arange(times, dtype=F64) + 0.5) / times).repeat(4)
    x = variance**0.5 * torch.tensor([1.0, 1, -1, -1], dtype=F64).repeat_interleave(times)
    n = torch.tensor([1.0, -1, 1, -1], dtype=F64).repeat_interleave(times)
    return x[:, None], n[:, None], t


def exact_denoiser(k, variance, z, t):
    """E[u | z, t] for 1-D Gaussian data on the linear path."""
    t = t[:, None]
    return (k * variance * t - (1 - k) * (1 - t)) / (variance * t**2 + (1 - t) ** 2) * z


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("target", TARGETS, ids=lambda target: repr(target).replace("\n", ""))
@pytest.mark.parametrize("shape", [(9, 3, 4, 4), (9, 3, 1, 1)])
def test_conversions_invert_encoding(target, path, shape):
    x, n = torch.randn(2, *shape, dtype=F64)
    t = torch.linspace(0, 1, 11, dtype=F64)[1:-1]
    z, v = path.interpolate(x, n, t)
    u = target.encode(x, n, t)
    torch.testing.assert_close(target.to_velocity(u, z, t, path, min_denominator=0), v)
    torch.testing.assert_close(target.to_data(u, z, t, path), x)
    torch.testing.assert_close(target.to_noise(u, z, t, path), n)


@pytest.mark.parametrize("k", [0.03, 0.5, 0.97])
@pytest.mark.parametrize("t", [0.0, 1.0])
def test_conversions_invert_encoding_at_both_ends(k, t):
    x, n = torch.randn(2, 6, 4, dtype=F64)
    z, v = LinearPath().interpolate(x, n, t)
    u = FixedK(k).encode(x, n, t)
    torch.testing.assert_close(FixedK(k).to_velocity(u, z, t, min_denominator=0), v)
    torch.testing.assert_close(FixedK(k).to_data(u, z, t), x)
    torch.testing.assert_close(FixedK(k).to_noise(u, z, t), n)


@pytest.mark.parametrize("k", KS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_conversions_are_finite_and_recombine_at_every_time(k, dtype):
    u, z = torch.randn(2, 101, 3).to(dtype)
    t = torch.linspace(0, 1, 101)
    for clamp in (0.0, 0.05):
        x = FixedK(k).to_data(u, z, t, min_denominator=clamp)
        n = FixedK(k).to_noise(u, z, t, min_denominator=clamp)
        assert x.isfinite().all()
        assert n.isfinite().all()
        assert x.dtype == torch.float32
        scale = 1 + x.abs() + n.abs()
        assert ((t[:, None] * x + (1 - t[:, None]) * n - z.float()) / scale).abs().max() < 1e-6


@pytest.mark.parametrize("k", KS)
def test_velocity_is_the_papers_formula(k):
    u, z = torch.randn(2, 50, 3, dtype=F64)
    t = torch.linspace(0, 1, 50, dtype=F64)
    expected = line(k, u, z, t[:, None], 0.05)
    torch.testing.assert_close(FixedK(k).to_velocity(u, z, t), expected)
    torch.testing.assert_close(kdiff.to_velocity(u, z, t, k), expected)
    if 0.05 <= k <= 0.95:
        torch.testing.assert_close(kdiff.to_data(u, z, t, k), FixedK(k).to_data(u, z, t))
        torch.testing.assert_close(kdiff.to_noise(u, z, t, k), z - t[:, None] * expected)


def test_gradients_reach_k_through_the_free_functions():
    k = torch.tensor([0.3, 0.9], dtype=F64, requires_grad=True)
    u, z, t = torch.randn(5, 2, dtype=F64), torch.randn(5, 2, dtype=F64), torch.rand(5, dtype=F64)
    for function in (kdiff.to_velocity, kdiff.to_data, kdiff.to_noise):
        assert torch.autograd.gradcheck(lambda k, f=function: f(u, z, t, k), (k,))


def test_names_and_values_on_the_line():
    x, n = torch.randn(2, 4, 3)
    torch.testing.assert_close(FixedK("noise").encode(x, n, 0.3), -n)
    torch.testing.assert_close(FixedK("velocity").encode(x, n, 0.3), (x - n) / 2)
    torch.testing.assert_close(FixedK("data").encode(x, n, 0.3), x)
    assert as_target("data").k == 1
    assert as_target(0.25).k == 0.25
    assert isinstance(as_target("learned"), LearnedK)


@pytest.mark.parametrize("scale", [3.0, -0.5])
def test_scaling_a_target_and_its_output_leaves_the_velocity(scale):
    u, z, t = torch.randn(20, 3, dtype=F64), torch.randn(20, 3, dtype=F64), torch.rand(20, dtype=F64)
    v = GeneralTarget(0.7, 0.3).to_velocity(u, z, t)
    torch.testing.assert_close(GeneralTarget(0.7 * scale, 0.3 * scale).to_velocity(scale * u, z, t), v)


def test_a_clamped_denominator_keeps_its_sign():
    """+n as the target has den = −α: at and near t = 0 the clamp must not turn the velocity round."""
    n_hat, z = torch.randn(2, 6, 3, dtype=F64)
    t = torch.tensor([0.0, 0.001, 0.01, 0.04, 0.2, 1.0], dtype=F64)
    torch.testing.assert_close(GeneralTarget(0, -1).to_velocity(n_hat, z, t), FixedK("noise").to_velocity(-n_hat, z, t))


def test_k_one_is_jits_loss():
    x, n, x_hat = torch.randn(3, 64, 3, 4, 4, dtype=F64)
    t = torch.rand(64, dtype=F64)
    t[:4] = torch.tensor([0.0, 0.96, 0.99, 1.0])
    expected = ((x_hat - x) / (1 - t).clamp(min=0.05)[:, None, None, None]).square().mean()
    torch.testing.assert_close(FixedK("data").loss(x_hat, x, n, t), expected)


def test_k_half_is_flow_matching():
    x, n, u_hat = torch.randn(3, 64, 5, dtype=F64)
    expected = (2 * u_hat - (x - n)).square().mean()
    torch.testing.assert_close(FixedK("velocity").loss(u_hat, x, n, torch.rand(64, dtype=F64)), expected)
    torch.testing.assert_close(GeneralTarget(1, 1).loss(2 * u_hat, x, n, torch.rand(64, dtype=F64)), expected)


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("init", [0.02, 0.3, 0.7, 0.97])
def test_gradients_against_finite_differences_with_the_target_held(path, init):
    """dL/dw where only the prediction's conversion moves with w."""
    target = LearnedK(init=init, rate=2.0).double()
    x, n, u_hat = torch.randn(3, 200, 2, dtype=F64)
    t = torch.linspace(0, 1, 200, dtype=F64)
    u_hat.requires_grad_()
    target.loss(u_hat, x, n, t, path).backward()

    z, _ = path.interpolate(x, n, t)
    held = target.to_velocity(target.encode(x, n, t), z, t, path).detach()

    def loss_at(w):
        moved = copy.deepcopy(target)
        moved.w.data = w
        return (moved.to_velocity(u_hat, z, t, path) - held).square().mean().item()

    # The clamp sets in at a time that moves with w; a sample within h of it would spoil the difference.
    h = 1e-6
    numeric = (loss_at(target.w + h) - loss_at(target.w - h)) / (2 * h)
    assert target.w.grad.item() == pytest.approx(numeric, rel=1e-5, abs=1e-7)
    expected = 2 * (target.to_velocity(u_hat, z, t, path) - held) / u_hat.numel()
    slope = torch.autograd.grad(target.to_velocity(u_hat, z, t, path), u_hat, expected.detach())[0]
    torch.testing.assert_close(u_hat.grad, slope)


@pytest.mark.parametrize("k", [0.3, 0.7, 0.97, 0.999])
@pytest.mark.parametrize("variance", [1.0, 0.05])
def test_an_exact_denoiser_gives_k_no_gradient(k, variance):
    x, n, t = gaussian_grid(variance)
    target = LearnedK(init=k, rate=1.0).double()
    z, _ = LinearPath().interpolate(x, n, t)
    target.loss(exact_denoiser(target.k, variance, z, t), x, n, t).backward()
    assert abs(target.w.grad.item()) < 1e-10


@pytest.mark.parametrize("k", [0.96, 0.9999])
def test_without_detachment_or_with_the_exact_target_an_exact_denoiser_would_pull_k(k):
    """Why the target velocity is clamped and detached: theory.md §2 gives the pulls of the alternatives."""
    x, n, t = gaussian_grid()
    z, _ = LinearPath().interpolate(x, n, t)
    u_hat = exact_denoiser(k, 1.0, z, t)

    free = torch.tensor([k], dtype=F64, requires_grad=True)
    both = kdiff.to_velocity(u_hat, z, t, free) - kdiff.to_velocity(free * x - (1 - free) * n, z, t, free)
    both.square().mean().backward()
    assert free.grad.item() == pytest.approx({0.96: -0.4, 0.9999: -1.0}[k], abs=0.05)

    target = LearnedK(init=k, rate=1.0, clamp_target=False).double()
    target.loss(u_hat, x, n, t).backward()
    dk_dw = k * (1 - k)
    if k == 0.9999:
        assert target.w.grad.item() / dk_dw == pytest.approx(1.9, abs=0.05)


def test_a_u_loss_has_a_spurious_minimum_and_the_v_loss_is_flat():
    """An exact denoiser of 1-D Gaussian data has its least u-loss at k = 0.50, 0.89, 1.00, and one v-loss for all k."""
    ks = torch.linspace(0, 1, 201, dtype=F64).tolist()
    for variance, best in ((1.0, 0.50), (0.25, 0.89), (0.05, 1.00)):
        x, n, t = gaussian_grid(variance, times=400)
        z, _ = LinearPath().interpolate(x, n, t)
        u_losses = [(exact_denoiser(k, variance, z, t) - FixedK(k).encode(x, n, t)).square().mean() for k in ks]
        assert ks[int(torch.stack(u_losses).argmin())] == pytest.approx(best, abs=0.01)
        v_losses = [FixedK(k, min_denominator=0).loss(exact_denoiser(k, variance, z, t), x, n, t) for k in (0.2, 0.5, 0.9)]
        torch.testing.assert_close(torch.stack(v_losses), v_losses[0].expand(3))


def test_the_loss_is_float32_under_autocast_and_for_half_precision_outputs():
    x, n, t = torch.randn(8, 3), torch.randn(8, 3), torch.linspace(0.9, 1, 8)
    u_hat = torch.randn(8, 3).bfloat16()
    target = LearnedK(init=0.97)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = target.loss(u_hat, x, n, t)
        v = target.to_velocity(u_hat, x, t)
    assert loss.dtype == v.dtype == torch.float32
    assert torch.equal(loss, target.loss(u_hat.float(), x, n, t))
    loss.backward()
    assert target.w.grad.dtype == torch.float32


def test_learned_k_starts_where_it_should_and_moves_at_its_rate():
    for rate in (1.0, 10.0):
        target = LearnedK(init=0.8, rate=rate)
        assert target.w.shape == (1,)
        assert float(target.k) == pytest.approx(0.8)
        optimiser = torch.optim.Adam(target.parameters(), lr=1e-3)
        (-target.coefficients(torch.zeros(1))[0]).backward()
        optimiser.step()
        logit = torch.logit(torch.tensor(target.k, dtype=F64)).item()
        assert logit - torch.logit(torch.tensor(0.8, dtype=F64)).item() == pytest.approx(rate * 1e-3, rel=1e-2)


def test_k_keeps_float32_in_a_half_precision_model():
    target = LearnedK().bfloat16()
    assert target.w.dtype == torch.float32
    assert isinstance(target.w, torch.nn.Parameter)
    assert LearnedK().double().w.dtype == F64


def test_targets_survive_copying_and_travel_in_state_dicts():
    per_channel = GeneralTarget(torch.rand(3, 1, 1), torch.rand(3, 1, 1))
    clone = copy.deepcopy(per_channel)
    clone.a.zero_()
    assert per_channel.a.abs().sum() > 0
    assert set(per_channel.state_dict()) == {"a", "b"}
    other = LearnedK()
    other.load_state_dict(LearnedK(init=0.9).state_dict())
    assert other.k == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedK(1.2), r"k is 1.2; expected a number in \[0, 1\]"),
        (lambda: FixedK("score"), "no target is called 'score'; expected noise, velocity, data"),
        (lambda: LearnedK(init=1.0), "strictly between 0 and 1"),
        (lambda: LearnedK(rate=0), "rate is 0"),
        (lambda: GeneralTarget(1, -1), "must have the same sign"),
        (lambda: GeneralTarget(0, 0), "must have the same sign"),
        (lambda: FixedK(0.5, min_denominator=0.7), "min_denominator is 0.7"),
        (lambda: FixedK(0.5).loss(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2, 4), 0.5), "must have the same shape"),
    ],
)
def test_mistakes_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_learned_coefficient_learns():
    a = torch.nn.Parameter(torch.tensor([0.7]))
    target = GeneralTarget(a, 0.3)
    assert list(target.parameters()) == [a]
    x, n, u_hat = torch.randn(3, 8, 2)
    target.loss(u_hat, x, n, torch.rand(8)).backward()
    assert a.grad.abs() > 0


@pytest.mark.parametrize(
    ("trained", "loaded"),
    [(LearnedK(rate=10), LearnedK(rate=1)), (FixedK("data"), FixedK("noise")), (FixedK("data"), LearnedK())],
)
def test_the_state_of_another_target_is_refused(trained, loaded):
    with pytest.raises(RuntimeError, match=r"in these weights; the target here has|Missing key"):
        loaded.load_state_dict(trained.state_dict())


def test_rounding_to_half_precision_and_back_leaves_k():
    target = LearnedK(init=0.8923)
    assert target.bfloat16().k == LearnedK(init=0.8923).k
    assert isinstance(target.w, torch.nn.Parameter)
    LearnedK(init=0.5).load_state_dict(target.state_dict())


def test_coefficients_of_opposite_signs_are_refused_by_name():
    class Crossed(Target):
        def coefficients(self, t):
            return 0.7 * t, t - 0.9  # only at some times

    with pytest.raises(ValueError, match="coefficients a and b of Crossed have opposite signs"):
        Crossed().check_signs((3, 4, 4))
    for target in (FixedK("noise"), LearnedK(), GeneralTarget(-1, -2), LearnedKOfTime()):
        target.check_signs((3, 4, 4))


@pytest.mark.parametrize(("low", "high"), [(0.5, 0.5), (1, 0), (0, torch.inf), (torch.nan, 1)])
def test_an_axis_has_a_length(low, high):
    """Pictures divide by it."""
    with pytest.raises(ValueError, match=r"has no length; expected two numbers low < high"):
        Axis(low, high, {})
