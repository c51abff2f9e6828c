"""Targets with two parameters and with a k of time: every property of one k holds for them; and the loss on u.

As in `test_target`, expectations over Gaussian data are plain means over four points, exact for what is quadratic in (x, n).
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from kdiff import FixedK, GeneralTarget, KDiff, LearnedK, LinearPath, VariancePreservingPath
from kdiff.targets import LearnedKOfTime, LearnedPair
from kdiff.theory import k_of_time, whitened

F64 = torch.float64
PATHS = [LinearPath(), VariancePreservingPath()]
FORMS = ("table", "polynomial", "wiener")
KINDS = ("pair", *FORMS)


def make(kind, **options):
    """A target with small constants added to w, so that k moves with t and the pair is off the line."""
    torch.manual_seed(3)
    target = make_even(kind, **options)
    target.w.data += 0.7 * torch.randn_like(target.w) / target.rate
    return target


def make_even(kind, **options):
    """A target as it starts, in float64."""
    return (LearnedPair(**options) if kind == "pair" else LearnedKOfTime(kind, **options)).double()


def gaussian_grid(variance=1.0, times=2000):
    """x, n and t whose plain mean is the exact mean of anything quadratic in x and n."""
    t = ((torch.arange(times, dtype=F64) + 0.5) / times).repeat(4)
    x = variance**0.5 * torch.tensor([1.0, 1, -1, -1], dtype=F64).repeat_interleave(times)
    n = torch.tensor([1.0, -1, 1, -1], dtype=F64).repeat_interleave(times)
    return x[:, None], n[:, None], t


def exact_output(target, variance, z, t):
    """E[u | z, t] for 1-D Gaussian data on the linear path, for any a and b."""
    t = t[:, None]
    a, b = (c.detach() if isinstance(c, torch.Tensor) else c for c in target.coefficients(t))
    return (a * variance * t - b * (1 - t)) / (variance * t**2 + (1 - t) ** 2) * z


# Conversions


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(11,), (11, 3), (11, 3, 4, 4), (11, 1, 1, 1)])
def test_conversions_invert_encoding_at_every_time(kind, path, shape):
    target = make(kind)
    x, n = torch.randn(2, *shape, dtype=F64)
    t = torch.linspace(0, 1, 11, dtype=F64)
    z, v = path.interpolate(x, n, t)
    u = target.encode(x, n, t)
    # On this path the data has no part in z at t = 0, nor noise at t = 1: where v is infinite there is nothing to invert.
    inside = slice(None) if isinstance(path, LinearPath) else slice(1, -1)
    torch.testing.assert_close(target.to_velocity(u, z, t, path, min_denominator=0)[inside], v[inside])
    torch.testing.assert_close(target.to_data(u, z, t, path)[inside], x[inside])
    torch.testing.assert_close(target.to_noise(u, z, t, path)[inside], n[inside])


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [0.02, 0.5, 0.8, 0.98])
@pytest.mark.parametrize("clamp_target", [True, False])
def test_as_they_start_they_are_one_k(kind, k, path, clamp_target):
    """All of them start on the line, at a constant k; so they are `FixedK` there, its clamp and its loss included."""
    target = make_even(kind, init=k, clamp_target=clamp_target)
    fixed = FixedK(k, clamp_target=clamp_target)
    x, n, u, z = torch.randn(4, 41, 3, dtype=F64)
    t = torch.linspace(0, 1, 41, dtype=F64)
    close = {"rtol": 1e-5, "atol": 1e-6}  # w begins as a float32 number
    torch.testing.assert_close(target.encode(x, n, t), fixed.encode(x, n, t), **close)
    torch.testing.assert_close(target.to_velocity(u, z, t, path), fixed.to_velocity(u, z, t, path), **close)
    torch.testing.assert_close(target.loss(u, x, n, t, path), fixed.loss(u, x, n, t, path), **close)
    assert target.k == pytest.approx(k, abs=1e-6)


@pytest.mark.parametrize("scale", [0.3, 2.5])
def test_scaling_a_pair_and_its_output_leaves_the_velocity_and_the_direction(scale):
    small = LearnedPair().double()
    small.w.data = torch.logit(torch.tensor([0.21, 0.35], dtype=F64)) / small.rate
    large = LearnedPair().double()
    large.w.data = torch.logit(scale * torch.tensor([0.21, 0.35], dtype=F64)) / large.rate
    u, z, t = torch.randn(20, 3, dtype=F64), torch.randn(20, 3, dtype=F64), torch.rand(20, dtype=F64)
    torch.testing.assert_close(
        large.to_velocity(scale * u, z, t, min_denominator=0), small.to_velocity(u, z, t, min_denominator=0)
    )
    assert large.k == pytest.approx(small.k)
    assert small.k == pytest.approx(0.21 / 0.56)


# The functions of time


def test_a_table_has_its_values_at_knots_and_straight_lines_between():
    target = LearnedKOfTime("table", size=5, rate=2.0).double()
    target.w.data = torch.tensor([0.3, -1.0, 0.5, 2.0, -0.4], dtype=F64)
    at_knots = target.logit(torch.linspace(0, 1, 5, dtype=F64))
    torch.testing.assert_close(at_knots, 2 * target.w.data)
    t = np.concatenate([np.linspace(0, 1, 101), [0.999999, 1.0]])
    expected = np.interp(t, np.linspace(0, 1, 5), 2 * target.w.detach().numpy())
    np.testing.assert_allclose(target.logit(torch.from_numpy(t)).detach(), expected, atol=1e-12)


@pytest.mark.parametrize("size", [2, 3, 6])
def test_a_polynomial_is_numpys_legendre_series(size):
    target = LearnedKOfTime("polynomial", size=size, rate=3.0).double()
    target.w.data = torch.randn(size, dtype=F64)
    t = np.linspace(0, 1, 50)
    expected = np.polynomial.legendre.legval(2 * t - 1, 3 * target.w.detach().numpy())
    np.testing.assert_allclose(target.logit(torch.from_numpy(t)).detach(), expected, atol=1e-12)


@pytest.mark.parametrize(("D", "d", "variance"), [(32, 2, 1.0), (10, 10, 1.0), (64, 8, 0.3)])
def test_the_wiener_form_holds_the_theorys_best_k_of_time(D, d, variance):
    target = LearnedKOfTime("wiener", rate=2.0).double()
    target.w.data = torch.tensor([np.log(D / (d * variance)), 1.0], dtype=F64) / target.rate
    t = torch.linspace(0.001, 0.999, 200, dtype=F64)
    np.testing.assert_allclose(target.k_at(t), k_of_time(t.numpy(), whitened(D, d, variance)), rtol=1e-10)
    # Beyond, the logit is cut off, so that k stays off 0 and 1.
    ends = target.k_at(torch.tensor([0.0, 0.0005, 0.9995, 1.0], dtype=F64))
    torch.testing.assert_close(ends[:2], target.k_at(t[:1]).expand(2))
    torch.testing.assert_close(ends[2:], target.k_at(t[-1:]).expand(2))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("precision", [torch.float32, F64])
def test_k_of_time_takes_times_of_any_shape_and_precision(form, precision):
    target = LearnedKOfTime(form).to(precision)
    for dtype in (torch.float32, F64):
        t = torch.rand(4, 1, 1, dtype=dtype)
        assert target.k_at(t).shape == t.shape
        assert target.loss(torch.randn(4, 2, 2, dtype=dtype), *torch.randn(2, 4, 2, 2, dtype=dtype), t.flatten()).isfinite()
    assert 0 < target.k < 1


# The loss and its gradients


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init", [0.3, 0.97])
@pytest.mark.parametrize("clamp_target", [True, False])
def test_gradients_against_finite_differences_with_the_target_held(kind, init, path, clamp_target):
    """dL/dw where only the prediction's conversion moves with w; above 0.95 the clamp acts."""
    target = make(kind, init=init, rate=2.0, clamp_target=clamp_target)
    x, n, u_hat = torch.randn(3, 200, 2, dtype=F64)
    t = torch.linspace(0.0013, 0.9987, 200, dtype=F64)
    target.loss(u_hat, x, n, t, path).backward()
    z, v = path.interpolate(x, n, t)
    held = target.to_velocity(target.encode(x, n, t), z, t, path).detach() if clamp_target else v

    def loss_at(w):
        moved = copy.deepcopy(target)
        moved.w.data = w
        return (moved.to_velocity(u_hat, z, t, path) - held).square().mean().item()

    h = 1e-6
    for i in range(len(target.w)):
        step = h * torch.eye(len(target.w), dtype=F64)[i]
        numeric = (loss_at(target.w.data + step) - loss_at(target.w.data - step)) / (2 * h)
        assert target.w.grad[i].item() == pytest.approx(numeric, rel=1e-4, abs=1e-7)


def denominators(target, t):
    a, b = target.coefficients(t[:, None])
    return t[:, None] * b + (1 - t[:, None]) * a


@pytest.mark.parametrize("variance", [1.0, 0.05])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("init", [0.3, 0.99])
def test_an_exact_denoiser_gives_w_no_gradient(kind, init, variance):
    x, n, t = gaussian_grid(variance)
    target = make(kind, init=init, rate=1.0)
    if kind == "pair" and init == 0.99:
        target.w.data -= 4  # both small: the clamp acts at most times
    z, _ = LinearPath().interpolate(x, n, t)
    assert bool((denominators(target, t) < 0.05).any()) == (init == 0.99)
    target.loss(exact_output(target, variance, z, t), x, n, t).backward()
    assert target.w.grad.abs().max() < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_with_the_exact_target_velocity_the_clamp_pulls_an_exact_denoiser(kind):
    """`clamp_target=False`: v̂_c is compared with v itself. Where the clamp acts the exact û is no longer optimal."""
    x, n, t = gaussian_grid()
    z, v = LinearPath().interpolate(x, n, t)
    target = make_even(kind, init=0.99, rate=1.0, clamp_target=False)
    u_hat = exact_output(target, 1.0, z, t)
    loss = target.loss(u_hat, x, n, t)
    loss.backward()
    torch.testing.assert_close(loss, (target.to_velocity(u_hat, z, t) - v).square().mean())
    one_k = LearnedK(init=0.99, rate=1.0, clamp_target=False).double()
    one_k.loss(exact_output(one_k, 1.0, z, t), x, n, t).backward()
    pull = one_k.w.grad.item()
    assert pull > 1e-3  # descent takes k down
    # The sum over w of a table and the first w of the others move k at all times alike; k₀ up and k₁ down does.
    moved = {"table": target.w.grad.sum(), "pair": target.w.grad[0] - target.w.grad[1]}.get(kind, target.w.grad[0])
    assert moved.item() == pytest.approx(pull, rel=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("init", [0.001, 0.5, 0.999])
def test_loss_and_gradients_are_finite_at_both_ends(kind, path, init):
    target = LearnedPair(init=init) if kind == "pair" else LearnedKOfTime(kind, init=init)
    if kind == "wiener":
        target.w.data[1] = 0.1  # w₁ · rate = 1
    x, n = torch.randn(2, 6, 3)
    u_hat = torch.randn(6, 3, requires_grad=True)
    t = torch.tensor([0.0, 1e-7, 1e-4, 1 - 1e-4, 1 - 1e-7, 1.0])
    loss = target.loss(u_hat, x, n, t, path)
    loss.backward()
    assert loss.isfinite()
    assert target.w.grad.isfinite().all()
    assert u_hat.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_trains_every_w(kind):
    model = KDiff(nn.Identity(), LearnedPair() if kind == "pair" else LearnedKOfTime(kind))
    model.network.forward = lambda z, t: 0.3 * z
    torch.manual_seed(0)
    model.loss(torch.randn(512, 4)).backward()
    assert (model.target.w.grad != 0).all()
    (group,) = (group for group in model.parameter_groups(1e-3, 0.1) if group["name"] == "target")
    assert group["weight_decay"] == 0
    assert [id(p) for p in group["params"]] == [id(model.target.w)]


# What is logged and stored


def test_the_log_of_a_pair():
    target = LearnedPair(init=0.8)
    assert target.state() == pytest.approx({"k": 0.8, "k0": 0.8, "k1": 0.2})
    target.w.data = torch.logit(torch.tensor([0.6, 0.9])) / target.rate
    assert target.state() == pytest.approx({"k": 0.4, "k0": 0.6, "k1": 0.9})


def test_the_log_of_a_k_of_time():
    target = LearnedKOfTime("polynomial", size=2, rate=1.0)
    target.w.data = torch.tensor([0.5, 2.0])
    state = target.state()
    assert list(state) == ["k", "k(0.05)", "k(0.25)", "k(0.5)", "k(0.75)", "k(0.95)"]
    for t in (0.05, 0.25, 0.5, 0.75, 0.95):
        assert state[f"k({t:g})"] == pytest.approx(torch.sigmoid(torch.tensor(0.5 + 2 * (2 * t - 1))).item())
    s = np.linspace(-1, 1, 2001)
    assert state["k"] == target.k == pytest.approx(np.mean(1 / (1 + np.exp(-0.5 - 2 * s))), abs=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_states_travel_and_those_of_another_pace_or_size_are_refused(kind):
    def fresh(**options):
        return LearnedPair(**options) if kind == "pair" else LearnedKOfTime(kind, **options)

    trained = fresh()
    trained.w.data += 0.1 * torch.arange(len(trained.w))
    other = fresh()
    other.load_state_dict(trained.state_dict())
    assert other.state() == trained.state()
    with pytest.raises(RuntimeError, match="pace is 10 in these weights; the target here has 1"):
        fresh(rate=1).load_state_dict(trained.state_dict())
    if kind in ("table", "polynomial"):
        with pytest.raises(RuntimeError, match="size mismatch"):
            fresh(size=4).load_state_dict(trained.state_dict())


def test_the_state_of_another_form_is_refused_even_if_it_fits():
    with pytest.raises(RuntimeError, match="form_number"):
        LearnedKOfTime("polynomial", size=2).load_state_dict(LearnedKOfTime("wiener").state_dict())


@pytest.mark.parametrize("kind", KINDS)
def test_w_keeps_float32_in_a_half_precision_model(kind):
    target = make(kind).float()
    before = target.state()
    target.bfloat16()
    assert target.w.dtype == torch.float32
    assert isinstance(target.w, nn.Parameter)
    assert target.state() == before
    loss = target.loss(torch.randn(4, 3).bfloat16(), torch.randn(4, 3), torch.randn(4, 3), torch.rand(4))
    assert loss.dtype == torch.float32


@pytest.mark.parametrize(
    ("make_it", "message"),
    [
        (lambda: LearnedPair(init=0.0), "strictly between 0 and 1"),
        (lambda: LearnedPair(rate=-1), "rate is -1"),
        (lambda: LearnedPair(min_denominator=0.6), "min_denominator is 0.6"),
        (lambda: LearnedKOfTime("spline"), "form is 'spline'; expected table, polynomial or wiener"),
        (lambda: LearnedKOfTime("table", size=1), "size is 1; expected at least 2"),
        (lambda: LearnedKOfTime("wiener", size=3), "size is 3; expected at least 2, and exactly 2 for form 'wiener'"),
        (lambda: LearnedKOfTime(init=1.0), "strictly between 0 and 1"),
        (lambda: LearnedKOfTime(rate=0), "rate is 0"),
    ],
)
def test_mistakes_are_refused(make_it, message):
    with pytest.raises(ValueError, match=message):
        make_it()


# The loss on u


class Half(nn.Module):
    """û = z/2."""

    def forward(self, z, t):
        return z / 2


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("kind", ["learned", *KINDS])
def test_the_loss_on_u_is_the_mean_square_of_its_error_and_moves_w_through_u(kind, path):
    target = LearnedK(init=0.7, rate=2.0).double() if kind == "learned" else make(kind, rate=2.0)
    model = KDiff(Half(), target, path, loss_space="u")
    x, n = torch.randn(2, 50, 3, dtype=F64)
    t = torch.rand(50, dtype=F64)

    def loss_at(w):
        moved = copy.deepcopy(target)
        moved.w.data = w
        a, b = moved.coefficients(t[:, None])
        z, _ = path.interpolate(x, n, t)
        return (z / 2 - (a * x - b * n)).square().mean().item()

    loss = model.loss(x, t, n)
    assert loss.item() == pytest.approx(loss_at(target.w.data))
    z, _ = path.interpolate(x, n, t)
    torch.testing.assert_close(target.output_error(z / 2, x, n, t), z / 2 - target.encode(x, n, t))
    loss.backward()
    for i in range(len(target.w)):
        step = 1e-6 * torch.eye(len(target.w), dtype=F64)[i]
        numeric = (loss_at(target.w.data + step) - loss_at(target.w.data - step)) / 2e-6
        assert target.w.grad[i].item() == pytest.approx(numeric, rel=1e-5, abs=1e-9)


def test_the_loss_on_u_of_a_half_precision_output_is_float32():
    x, n, t, u_hat = torch.randn(8, 3), torch.randn(8, 3), torch.rand(8), torch.randn(8, 3).bfloat16()
    error = FixedK(0.3).output_error(u_hat, x, n, t)
    assert error.dtype == torch.float32
    assert torch.equal(error, FixedK(0.3).output_error(u_hat.float(), x, n, t))


class Exact(nn.Module):
    """The exact denoiser of 1-D Gaussian data, for the k of its target."""

    def __init__(self, target, variance):
        super().__init__()
        self.of, self.variance = [target], variance

    def forward(self, z, t):
        return exact_output(self.of[0], self.variance, z, t)


@pytest.mark.parametrize(("variance", "best"), [(1.0, 0.50), (0.25, 0.89), (0.05, 1.00)])
def test_an_exact_models_loss_on_u_prefers_a_k_and_its_loss_on_v_does_not(variance, best):
    x, n, t = gaussian_grid(variance, times=400)

    def losses(ks, loss_space):
        targets = [FixedK(k, min_denominator=0) for k in ks]
        models = [KDiff(Exact(target, variance), target, loss_space=loss_space) for target in targets]
        return torch.stack([model.loss(x, t, n) for model in models])

    ks = torch.linspace(0, 1, 201, dtype=F64).tolist()
    assert ks[int(losses(ks, "u").argmin())] == pytest.approx(best, abs=0.01)
    on_v = losses([0.1, 0.5, 0.9], "v")
    torch.testing.assert_close(on_v, on_v[:1].expand(3))


def test_another_loss_space_is_refused():
    with pytest.raises(ValueError, match="loss_space is 'x'; expected 'v'"):
        KDiff(Half(), GeneralTarget(1, 1), loss_space="x")
