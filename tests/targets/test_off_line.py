"""Targets with a k of every direction or of time: exact conversions, gradients, their formulas, and the one k that they hold.

Expectations over Gaussian data are plain means over four points, exact for what is quadratic in (x, n) in each direction.
"""

from __future__ import annotations

import copy
import math
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from kdiff import FixedK, KDiff, LearnedK, LinearPath, VariancePreservingPath
from kdiff.data.directions import moments
from kdiff.targets import find_target
from kdiff.targets.asymflow import AsymFlow
from kdiff.targets.bases import KINDS
from kdiff.targets.directed import LearnedDirections
from kdiff.targets.spectral import Spectral
from kdiff.targets.two_ended import TwoEndedK
from kdiff.targets.wiener import Wiener
from kdiff.theory import k_per_direction, wiener
from kdiff.training.objective import DiffusionObjective

SHAPE = (2, 4, 4)
F64 = torch.float64
PATHS = [LinearPath(), VariancePreservingPath()]
CLASSES = {"spectral": Spectral, "directions": LearnedDirections, "asymflow": AsymFlow, "wiener": Wiener}
LAMBDA = torch.tensor([4.0, 1.0, 0.2, 0.0])
CLOSE = {"rtol": 2e-4, "atol": 2e-4}  # bases are kept in float32


class Same(torch.nn.Module):
    """A network that returns its input."""

    def forward(self, z, t):
        return z


def data(shape=SHAPE):
    generator = torch.Generator().manual_seed(1)
    size = math.prod(shape)
    mix = torch.randn(size, size, generator=generator) * torch.logspace(0.3, -2, size)
    return (torch.randn(400, size, generator=generator) @ mix.T / size**0.5).reshape(-1, *shape)


def from_data(kind, **options):
    x = data()
    given = {"moments": partial(moments, x), "samples": lambda: x}
    return kind(SHAPE, **{"size": 2} if options.get("basis", "patch") == "patch" else {}, **options, **given)


def made(name):
    """A target by a short name; the learned ones moved away from their starts."""
    kind, _, basis = name.partition(" ")
    if kind == "two_ended":
        target = TwoEndedK(0.9, 0.4, learned=basis == "learned")
    else:
        target = from_data(CLASSES[kind], basis=basis)
    if kind == "directions":
        target.w.data += 0.1 * torch.randn(target.w.shape, generator=torch.Generator().manual_seed(4))
    return target.double()


NAMES = [f"{kind} {basis}" for kind in CLASSES for basis in KINDS if (kind, basis) != ("asymflow", "channels")]
NAMES += ["two_ended fixed", "two_ended learned"]


def known(kind, variances=LAMBDA, **options):
    """A target in a known basis, with known variances along its directions."""
    turned = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=F64)).Q
    found = SimpleNamespace(mean=torch.zeros(4), variances=variances, directions=turned)
    return kind((4,), basis="principal", **options, moments=lambda: found).double()


def gaussian(variances, times=500):
    """Coordinates of x and n, (4 · times, D), and t: plain means are the exact means for this law."""
    t = ((torch.arange(times, dtype=F64) + 0.5) / times).repeat(4)
    signs = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]], dtype=F64).repeat_interleave(times, dim=0)
    return signs[:, :1] * variances.to(F64).sqrt(), signs[:, 1:].expand(-1, len(variances)), t


# Conversions


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("name", NAMES)
def test_conversions_invert_encoding(name, path):
    target, shape = made(name), SHAPE
    x, n = torch.randn(2, 11, *shape, dtype=F64)
    t = torch.linspace(0.01, 0.99, 11, dtype=F64)
    z, v = path.interpolate(x, n, t)
    u = target.encode(x, n, t)
    assert u.shape == x.shape
    torch.testing.assert_close(target.to_velocity(u, z, t, path, min_denominator=0), v, **CLOSE)
    torch.testing.assert_close(target.to_data(u, z, t, path), x, **CLOSE)
    torch.testing.assert_close(target.to_noise(u, z, t, path), n, **CLOSE)
    # Both ends are finite, where k is 1 in some directions too.
    for end in (0.0, 1.0):
        assert target.to_data(u, z, end, path).isfinite().all()
        assert target.to_velocity(u, z, end, path).isfinite().all()
    target.check_signs(shape)


@pytest.mark.parametrize("name", NAMES)
def test_conversions_stay_in_float32_under_autocast(name):
    target = made(name).float()
    u, z, t = torch.randn(5, *SHAPE), torch.randn(5, *SHAPE), torch.rand(5)
    expected = target.to_velocity(u, z, t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(target.to_velocity(u, z, t), expected)
        assert torch.equal(target.velocity_error(u, z, z, t), target.velocity_error(u, z, z, t).float())
    assert torch.equal(target.to(torch.bfloat16).to_velocity(u, z, t), expected)


@pytest.mark.parametrize("clamp_target", [True, False])
@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("basis", KINDS)
@pytest.mark.parametrize("k", [0.3, 0.8, 0.98])
def test_without_w1_it_is_one_k(basis, path, k, clamp_target):
    """The losses, their gradients to the output and to w, and the velocity, in every basis and also where the clamp acts."""
    logit = math.log(k / (1 - k))
    target = from_data(Spectral, basis=basis, w0=logit, w1=0.0, clamp_target=clamp_target).double()
    plain = LearnedK(k, clamp_target=clamp_target).double()
    fixed = from_data(Spectral, basis=basis, w0=logit, w1=0.0, learned=False, clamp_target=clamp_target).double()
    x, n, u = torch.randn(3, 31, *SHAPE, dtype=F64)
    t = torch.linspace(0, 1, 31, dtype=F64)
    torch.testing.assert_close(target.encode(x, n, t), plain.encode(x, n, t), **CLOSE)
    outputs = [u.clone().requires_grad_() for _ in range(3)]
    losses = [each.loss(output, x, n, t, path) for each, output in zip((target, plain, fixed), outputs)]
    for loss in losses:
        loss.backward()
    for i in (0, 2):
        torch.testing.assert_close(losses[i], losses[1], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(outputs[i].grad, outputs[1].grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(target.w.grad[0], plain.w.grad[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(fixed.to_velocity(u, x, t, path), FixedK(k).to_velocity(u, x, t, path), **CLOSE)
    assert target.state()["mean k"] == pytest.approx(k, abs=1e-5)


# Gradients


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("name", [*(f"spectral {basis}" for basis in KINDS), "two_ended learned"])
def test_gradients_against_finite_differences_with_the_target_held(name, path):
    target = made(name)
    x, n, u_hat = torch.randn(3, 50, *SHAPE, dtype=F64)
    t = torch.linspace(0.0013, 0.9987, 50, dtype=F64)
    target.loss(u_hat, x, n, t, path).backward()
    z, _ = path.interpolate(x, n, t)
    held = target.to_velocity(target.encode(x, n, t), z, t, path).detach()

    def loss_at(w):
        moved = copy.deepcopy(target)
        moved.w.data = w
        return (moved.to_velocity(u_hat, z, t, path) - held).square().mean().item()

    h = 1e-6
    for i in range(2):
        step = torch.zeros(2, dtype=F64).index_fill(0, torch.tensor(i), h)
        slope = (loss_at(target.w.data + step) - loss_at(target.w.data - step)) / (2 * h)
        assert target.w.grad[i].item() == pytest.approx(slope, rel=1e-3, abs=1e-5)


@pytest.mark.parametrize("weighting", ["none", "den", "log"])
def test_an_exact_network_gives_w_no_gradient(weighting):
    """E[u | z, t] of Gaussian data; a slightly wrong network gives one."""
    variances = torch.tensor([4.0, 1.0, 0.2, 0.05])
    for target in (known(Spectral, variances, w0=0.3, w1=0.7), TwoEndedK(0.9, 0.4, learned=True).double()):
        model = KDiff(Same(), target, weighting=weighting).double()
        c_x, c_n, t = gaussian(variances)
        turn_back = getattr(target, "basis", known(Spectral).basis).turn_back
        x, n = turn_back(c_x), turn_back(c_n)
        a, b = (value.detach() for value in target.coefficients(t[:, None]))
        wide = t[:, None]
        gain = (a * variances * wide - b * (1 - wide)) / (variances * wide**2 + (1 - wide) ** 2)
        exact = turn_back(gain * (wide * c_x + (1 - wide) * c_n))
        sizes = []
        for u_hat in (exact, 0.9 * exact):
            target.w.grad = None
            model.weighting(target.velocity_error(u_hat, x, n, t), t, target).backward()
            sizes.append(target.w.grad.abs().max().item())
        assert sizes[0] < 1e-6
        assert sizes[1] > 1e-2


# Formulas


@pytest.mark.parametrize(("w1", "space"), [(0.5, "v"), (1.0, "u")])
@pytest.mark.parametrize("noise_scale", [1.0, 2.0])
def test_it_holds_the_theorys_k_per_direction(w1, space, noise_scale):
    target = known(Spectral, w1=w1, learned=False, noise_scale=noise_scale, floor=1e-6)
    expected = k_per_direction(LAMBDA.numpy().clip(1e-6 * noise_scale**2), space=space, noise_scale=noise_scale)
    np.testing.assert_allclose(target.k_each(), expected, rtol=1e-5)
    along = target.turn_back(torch.eye(4, dtype=F64))
    torch.testing.assert_close(target.encode(along, 0 * along, 0.5), target.k_each()[:, None] * along, **CLOSE)


def test_directions_without_variance_have_the_k_of_the_floor():
    target = known(Spectral, floor=0.01, w1=1.0)
    torch.testing.assert_close(target.k_each()[-1].item(), 1 / 1.01, rtol=1e-6, atol=0)
    assert target.state()["floor"] == 0.01
    assert target.state()["greatest k"] == pytest.approx(1 / 1.01)


def test_a_random_basis_has_the_same_k_in_other_directions():
    """A control: as many parameters, and the same numbers."""
    principal, random = (from_data(Spectral, basis=basis) for basis in ("principal", "random"))
    torch.testing.assert_close(random.k_each(), principal.k_each())
    overlap = (principal.basis.directions.T @ random.basis.directions).abs()
    assert overlap.max() < 0.8
    assert not torch.equal(random.basis.directions, from_data(Spectral, basis="random", seed=1).basis.directions)


@pytest.mark.parametrize("scale", [1.0, 1.7])
def test_asymflow_is_the_published_target(scale):
    """u = x/s − P n, and the velocity that the authors' conversion gives, with σ = 1 − t and κ = 1/(s + (1 − s) σ)."""
    target = known(AsymFlow, rank=2, scale=scale)
    leading = target.basis.directions[:, :2]
    x, n = torch.randn(2, 30, 4, dtype=F64)
    t = torch.linspace(0.02, 0.98, 30, dtype=F64)
    u, z, sigma = target.encode(x, n, t), LinearPath().mix(x, n, t), (1 - t)[:, None]
    torch.testing.assert_close(u, x / scale - n @ leading @ leading.T, **CLOSE)
    kappa = 1 / (scale + (1 - scale) * sigma)
    within = scale * kappa * u - (1 - scale * kappa) / sigma * z
    outside = (scale * u - z) / sigma
    projection = leading @ leading.T
    expected = within @ projection + outside @ (torch.eye(4, dtype=F64) - projection)
    torch.testing.assert_close(target.to_velocity(u, z, t, min_denominator=0), expected, rtol=1e-4, atol=1e-4)
    assert target.state() == {"mean k": pytest.approx((2 / (1 + scale) + 2) / 4), "rank": 2}


def test_asymflow_leads_by_variance_in_every_basis():
    for basis in ("patch", "principal", "dct"):
        target = from_data(AsymFlow, basis=basis, rank=3)
        variances = target.variances.flatten()
        assert variances[target.shares.flatten() == 1].min() >= variances[target.shares.flatten() == 0].max()
        assert target.shares.sum() == 3


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("noise_scale", [1.0, 1.5])
def test_wiener_leaves_what_a_linear_denoiser_cannot_know(path, noise_scale):
    variances = torch.tensor([4.0, 1.0, 0.2, 0.05])
    target = known(Wiener, variances, path=path, noise_scale=noise_scale)
    c_x, c_n, t = gaussian(variances)
    c_n = noise_scale * c_n
    a, b = target.coefficients(t[:, None])
    alpha, sigma = path.alpha(t[:, None]), path.sigma(t[:, None])
    torch.testing.assert_close(alpha * b + sigma * a, torch.ones_like(a), rtol=1e-6, atol=1e-6)
    u, z = a * c_x - b * c_n, alpha * c_x + sigma * c_n
    over_signs = (u * z).unflatten(0, (4, -1)).mean(0)
    assert over_signs.abs().max() < 1e-6
    spread = alpha**2 * variances + (noise_scale * sigma) ** 2
    expected = (noise_scale**2 * variances / spread).unflatten(0, (4, -1))[0]
    torch.testing.assert_close(u.square().unflatten(0, (4, -1)).mean(0), expected, rtol=1e-5, atol=1e-6)
    # An output of 0 is the best linear denoiser, and no clamp acts.
    z = target.turn_back(z)
    best = target.turn_back(alpha * variances / spread * target.turn(z))
    torch.testing.assert_close(target.to_data(0 * z, z, t, path), best, rtol=1e-4, atol=1e-5)
    assert torch.equal(target.to_velocity(0 * z, z, t, path, 0.4), target.to_velocity(0 * z, z, t, path, 0.0))
    if isinstance(path, LinearPath):
        theory = wiener(t[:, None].numpy(), variances.numpy(), noise_scale=noise_scale)
        for ours, theirs in zip((a, b), theory):
            np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(
            target.loss(0 * z, target.turn_back(c_x), target.turn_back(c_n), t), expected.mean(), rtol=1e-4, atol=0
        )


@pytest.mark.parametrize("path", PATHS, ids=repr)
@pytest.mark.parametrize("early", [0.05, 0.5, 1.0])
@pytest.mark.parametrize("late", [0.0, 0.5, 0.95])
def test_two_ends_never_meet_the_clamp(early, late, path):
    fixed, t = TwoEndedK(early, late).double(), torch.linspace(0, 1, 401, dtype=F64)
    learned = TwoEndedK(min(max(early, 0.051), 0.999), min(max(late, 0.001), 0.949), learned=True).double()
    for target in (fixed, learned):
        k, rest = target.coefficients(t)
        torch.testing.assert_close(k + rest, torch.ones_like(k), rtol=0, atol=1e-7)
        assert (path.alpha(t) * rest + path.sigma(t) * k).min() > 0.05 - 1e-6
        u, z = torch.randn(2, 401, 3, dtype=F64)
        assert torch.equal(target.to_velocity(u, z, t, path, 0.0499), target.to_velocity(u, z, t, path, 0.0))
        assert [k[0].item(), k[-1].item()] == pytest.approx([early, late], abs=0.0011 if target is learned else 1e-7)


def test_both_learned_ends_hear_of_every_time():
    target = TwoEndedK(learned=True)
    u, x, n = torch.randn(3, 64, 3)
    target.loss(u, x, n, torch.full((64,), 0.5)).backward()
    assert (target.w.grad.abs() > 1e-4).all()
    assert target.state() == {"k": pytest.approx(0.725), "k(0)": pytest.approx(0.95), "k(1)": pytest.approx(0.5)}
    target.w.data = torch.tensor([-50.0, 50.0])
    assert target.state() == {"k": pytest.approx(0.5), "k(0)": pytest.approx(0.05), "k(1)": pytest.approx(0.95)}


def test_a_k_for_every_direction_holds_the_other_two():
    """With w_i as a spectral target has them; and as it starts, one k."""
    spectral, free, plain = (known(Spectral, w0=0.4, w1=0.6), known(LearnedDirections, init=0.7), LearnedK(0.7).double())
    x, n, u = torch.randn(3, 40, 4, dtype=F64)
    t = torch.rand(40, dtype=F64)
    outputs = [u.clone().requires_grad_() for _ in range(2)]
    for target, output in zip((free, plain), outputs):
        target.loss(output, x, n, t).backward()
    torch.testing.assert_close(outputs[0].grad, outputs[1].grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(free.w.grad.sum(), plain.w.grad[0], rtol=1e-4, atol=1e-6)
    assert free.gradients()["w_gradient"] == free.w.grad.norm()
    free.w.data = spectral.logits().detach() / free.rate
    torch.testing.assert_close(free.loss(u, x, n, t), spectral.loss(u, x, n, t))


# The pull


def test_the_pull_is_a_term_of_the_models_loss():
    torch.manual_seed(0)
    target, plain = (from_data(Spectral, pull=pull, w0=0.4, w1=0.8) for pull in (0.3, 0.0))
    x, t, n = data()[:8], torch.rand(8), torch.randn(8, *SHAPE)
    losses = [KDiff(Same(), each).loss(x, t, n) for each in (target, plain)]
    torch.testing.assert_close(losses[0] - losses[1], torch.tensor(0.3 * 0.8**2), rtol=1e-4, atol=1e-5)
    for loss in losses:
        loss.backward()
    torch.testing.assert_close(target.w.grad - plain.w.grad, torch.tensor([0.0, 0.3 * 2 * 0.8 * 10]), rtol=1e-4, atol=1e-4)
    assert plain.penalty() is None
    free = from_data(LearnedDirections, pull=0.5)
    assert free.penalty() < 1e-9
    free.w.data[0] += 0.1
    logits = torch.tensor([1.0, *[0.0] * (free.w.numel() - 1)])
    torch.testing.assert_close(free.penalty(), 0.5 * logits.var(correction=0), rtol=1e-4, atol=1e-7)
    loss, extras = DiffusionObjective(KDiff(Same(), target))(x, None)
    torch.testing.assert_close(extras["loss"] + extras["penalty"], loss.detach())
    torch.testing.assert_close(extras["penalty"], torch.tensor(0.3 * 0.8**2))


# Weights


@pytest.mark.parametrize("name", NAMES)
def test_saved_weights_hold_all_that_was_made_of_the_data(name):
    target = made(name).float()
    kind, _, basis = name.partition(" ")
    other = CLASSES.get(kind)
    options = {"basis": basis, "size": 2 if basis == "patch" else None}
    empty = TwoEndedK(0.9, 0.4, learned=basis == "learned") if other is None else other(SHAPE, **options)
    empty.load_state_dict(target.state_dict())
    u, z, t = torch.randn(5, *SHAPE), torch.randn(5, *SHAPE), torch.rand(5)
    assert torch.equal(empty.to_velocity(u, z, t), target.to_velocity(u, z, t))
    assert empty.describe() == target.describe()
    assert repr(empty) == repr(target)
    assert "\n" not in repr(target), "one line in logs"


@pytest.mark.parametrize(
    ("first", "second", "message"),
    [
        (partial(known, Spectral, learned=False), partial(known, Spectral, w1=0.7, learned=False), "fixed_w1 is 0.5 .* 0.7"),
        (partial(known, Spectral), partial(known, Spectral, rate=1.0), "pace is 10"),
        (partial(known, Spectral), partial(Spectral, (4,), "random"), "basis_number is 0"),
        (partial(known, Spectral), partial(known, Spectral, floor=0.1), "least_variance is 0.0001"),
        (partial(known, AsymFlow, rank=2), partial(known, AsymFlow, rank=3), "leading is 2"),
        (partial(TwoEndedK, 0.9), partial(TwoEndedK, 0.8), "early is 0.9"),
    ],
)
def test_weights_of_another_target_are_refused(first, second, message):
    with pytest.raises(RuntimeError, match=message):
        second().float().load_state_dict(first().float().state_dict())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(known, Spectral, floor=0.0), "floor is 0.0; expected a positive number"),
        (partial(known, Spectral, w1=math.inf), "w0 and w1 are 0.0 and inf"),
        (partial(known, Spectral, pull=0.1, learned=False), "pull is 0.1 with learned=False"),
        (partial(known, Spectral, pull=-0.1), "pull is -0.1"),
        (partial(known, AsymFlow, rank=5), "rank is 5; expected from 0 to 4"),
        (partial(known, AsymFlow, rank=2, scale=0.0), "scale is 0.0"),
        (partial(known, LearnedDirections, init=1.0), "init is 1.0; expected a number strictly between"),
        (partial(known, LearnedDirections, pull=-1.0), "pull is -1.0"),
        (partial(TwoEndedK, 0.04), "early in \\[0.05, 1\\]"),
        (partial(TwoEndedK, 0.9, 0.97), "late in \\[0, 0.95\\]"),
        (partial(TwoEndedK, 1.0, learned=True), "a sigmoid never reaches its ends"),
    ],
)
def test_what_cannot_be_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("kind", ["principal", "random"])
def test_samples_alone_are_refused_where_moments_are_needed(kind) -> None:
    """The basis would else be the identity, and the variances those along random directions."""
    with pytest.raises(ValueError, match="expected moments"):
        Spectral((3,), basis=kind, samples=lambda: torch.randn(20, 3))


@pytest.mark.parametrize("name", ["spectral", "learned_directions", "asymflow", "wiener"])
@pytest.mark.parametrize(("shape", "kind"), [((12,), "principal"), ((1, 4, 4), "patch")])
def test_the_basis_by_default_suits_the_shape(name, shape, kind) -> None:
    """Neighbouring entries of a vector need not be related, so that patches of them mean nothing."""
    x = torch.randn(50, *shape, generator=torch.Generator().manual_seed(0))
    given = {"shape": shape, "moments": lambda: moments(x), "samples": lambda: x}
    assert find_target(f"{name}(rank=2)" if name == "asymflow" else name, **given)().basis.kind == kind
