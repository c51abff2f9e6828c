"""Noise of another scale, and the cosine term of the loss: what they are, and that k still costs an exact network nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from kdiff import FixedK, KDiff, LearnedK, LinearPath, draw_noise
from kdiff.evaluation.exact import ExactDenoiser
from kdiff.run.generate import generate
from kdiff.targets import Target
from kdiff.training.objective import DiffusionObjective


class Half(nn.Module):
    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        return 0.5 * z


class Gaussian(nn.Module):
    """E[u | z, t] of data N(0, variance) under noise of scale s."""

    def __init__(self, target: Target, variance: float, scale: float) -> None:
        super().__init__()
        self.encode, self.variance, self.scale = target.encode, variance, scale

    def forward(self, z: Tensor, t: Tensor) -> Tensor:
        t = t.view(-1, *[1] * (z.ndim - 1))
        total = t**2 * self.variance + (1 - t) ** 2 * self.scale**2
        return self.encode(t * self.variance / total * z, (1 - t) * self.scale**2 / total * z, t.flatten())


class TestNoiseScale:
    def test_the_loss_draws_noise_of_that_scale(self) -> None:
        seen: list[Tensor] = []

        class Seeing(Half):
            def forward(self, z: Tensor, t: Tensor) -> Tensor:
                seen.append(z)
                return super().forward(z, t)

        for scale in (1.0, 3.0):
            torch.manual_seed(0)
            KDiff(Seeing(), "data", noise_scale=scale).loss(torch.zeros(4, 5), t=torch.zeros(4))
        torch.testing.assert_close(seen[1], 3 * seen[0])

    def test_larger_noise_is_smaller_data(self) -> None:
        """z/s of data x and noise s n is that of data x/s and noise n, and so are v/s and the loss/s²."""
        x, n, t, s = torch.randn(6, 3), torch.randn(6, 3), torch.rand(6), 2.5
        for target in ("noise", 0.7, "data"):
            whole = KDiff(Half(), target, noise_scale=s).loss(x, t, s * n)
            torch.testing.assert_close(whole, s**2 * KDiff(Half(), target).loss(x / s, t, n))

    @pytest.mark.parametrize("scale", [0.5, 2.0])
    def test_sampling_starts_at_that_scale(self, scale: float) -> None:
        target = FixedK("velocity")
        model = KDiff(Gaussian(target, 0.3, scale), target, noise_scale=scale)
        x, _ = generate(model, 3000, (2,), steps=60)
        noise = draw_noise(3000, (2,))
        assert (x.var() / noise.var()).item() == pytest.approx(0.3, rel=0.02)

    def test_the_likelihood_knows_it(self) -> None:
        target = FixedK("velocity")
        model = KDiff(Gaussian(target, 0.3, 2.0), target, noise_scale=2.0)
        x = torch.randn(5, 2, dtype=torch.float64)
        exact = torch.distributions.Normal(0.0, 0.3**0.5).log_prob(x).sum(1)
        torch.testing.assert_close(model.log_likelihood(x, steps=200), exact, atol=1e-3, rtol=0)

    def test_the_exact_denoiser_knows_it(self) -> None:
        points, target, scale = torch.tensor([[-1.0], [1.0]], dtype=torch.float64), FixedK("data"), 3.0
        z, t = torch.tensor([[0.7]], dtype=torch.float64), torch.tensor([0.4], dtype=torch.float64)
        found = ExactDenoiser(points, target, LinearPath(), noise_scale=scale)(z, t)
        torch.testing.assert_close(found, torch.tanh(0.4 * z / (0.6 * scale) ** 2))

    def test_a_stochastic_solver_is_refused(self) -> None:
        with pytest.raises(ValueError, match="needs a noise_scale of 1; this model has"):
            KDiff(Half(), noise_scale=2.0).sample(torch.randn(2, 3), solver="sde")


class TestCosine:
    def test_the_term(self) -> None:
        x, n, t = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2), torch.rand(4)
        model = KDiff(Half(), "velocity", cosine_weight=0.7)
        z, v = LinearPath().interpolate(x, n, t)
        term = (1 - functional.cosine_similarity(model.velocity(z, t, 0.0), v, dim=1)).mean()
        plain = KDiff(Half(), "velocity").loss(x, t, n)
        torch.testing.assert_close(model.loss(x, t, n), plain + 0.7 * term)
        assert 0 < term < 2

    @pytest.mark.parametrize("k", [0.3, 0.98])
    def test_both_velocities_are_clamped(self, k: float) -> None:
        x, n, t = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0.5, 0.97, 0.99, 1.0])
        model = KDiff(Half(), k, cosine_weight=1.0)
        z = model.path.mix(x, n, t)
        ours, theirs = (model.target.to_velocity(u, z, t) for u in (0.5 * z, model.target.encode(x, n, t)))
        torch.testing.assert_close(model.terms(x, t, n)[1], (1 - functional.cosine_similarity(ours, theirs, dim=1)).mean())

    def test_it_is_none_where_the_network_is_right(self) -> None:
        x, n, t = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0.1, 0.5, 0.9, 1.0])

        class Right(nn.Module):
            def __init__(self, target: Target) -> None:
                super().__init__()
                self.encode = target.encode

            def forward(self, z: Tensor, t: Tensor) -> Tensor:
                return self.encode(x, n, t)

        target = LearnedK(0.97)
        error, cosine = KDiff(Right(target), target, cosine_weight=1.0).terms(x, t, n)
        assert cosine.abs() < 1e-6
        assert error.abs().max() < 1e-5

    def test_k_has_the_gradient_of_the_prediction_alone(self) -> None:
        """Against finite differences in which the target's velocity stays where it is, as k is detached there."""
        x, n, t, step = torch.randn(4, 3).double(), torch.randn(4, 3).double(), torch.rand(4).double(), 1e-5
        z = LinearPath().mix(x, n, t)
        u_hat = 0.5 * z + 1  # not along z, or k would not turn the velocity

        class Plus(nn.Module):
            def forward(self, z: Tensor, t: Tensor) -> Tensor:
                return 0.5 * z + 1

        model = KDiff(Plus(), LearnedK(0.6), cosine_weight=1.0).double()
        model.terms(x, t, n)[1].backward()
        fixed, values = model.target.loss_velocity(x, n, t), []
        for sign in (1, -1):
            moved = LearnedK(0.6).double()
            with torch.no_grad():
                moved.w += sign * step
                values.append((1 - functional.cosine_similarity(moved.to_velocity(u_hat, z, t), fixed, dim=1)).mean().item())
        found = model.target.w.grad.item()
        assert abs(found) > 1e-3
        assert found == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)

    def test_the_objective_logs_it_and_adds_it(self) -> None:
        x = torch.randn(8, 3)
        losses = []
        for weight in (0.0, 2.0):
            torch.manual_seed(3)
            model = KDiff(Half(), LearnedK(), cosine_weight=weight)
            losses.append(DiffusionObjective(model, torch.eye(3)[:, :1])(x, None))
        (plain, extras), (whole, more) = losses
        assert "loss_cosine" not in extras
        torch.testing.assert_close(whole, plain + 2 * more["loss_cosine"])
        torch.testing.assert_close(more["loss_along"] + more["loss_across"], plain)


@pytest.mark.parametrize(
    "wrong",
    [{"noise_scale": 0.0}, {"noise_scale": float("nan")}, {"cosine_weight": -1.0}, {"cosine_weight": 1.0, "loss_space": "u"}],
)
def test_refusals(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        KDiff(Half(), **wrong)
