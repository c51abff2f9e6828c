"""Linear networks: linear, from zero, blind where they should be, and within their subspace."""

from __future__ import annotations

import pytest
import torch

from kdiff.networks import Linear, LowRankLinear


def filled(network: torch.nn.Module) -> torch.nn.Module:
    torch.manual_seed(1)
    for p in network.parameters():
        torch.nn.init.normal_(p)
    return network.double()


@pytest.mark.parametrize("network", [Linear((2, 3)), LowRankLinear((2, 3), rank=2, knots=4)])
def test_linear_in_z_from_zero_and_without_bias(network) -> None:
    z, t = torch.randn(5, 2, 3, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    assert not network(z.float(), t.float()).any(), "û = 0 at the start"
    network = filled(network)
    other = torch.randn_like(z)
    assert torch.allclose(network(2 * z - 3 * other, t), 2 * network(z, t) - 3 * network(other, t))
    assert network(z, t).shape == z.shape
    assert torch.equal(network(z, t, y=torch.zeros(5, dtype=torch.long)), network(z, t))


def test_the_gradient_reaches_zero_weights() -> None:
    """From û = 0 the low-rank network must be able to start: its span is not zero."""
    for network in (Linear((4,)), LowRankLinear((4,), rank=2)):
        network(torch.randn(8, 4), torch.rand(8)).sub(1).square().mean().backward()
        assert any(p.grad.abs().sum() > 0 for p in network.parameters())


def test_linear_does_not_see_the_time_and_low_rank_does() -> None:
    z = torch.randn(1, 4, dtype=torch.float64).expand(3, 4)
    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64)
    blind, seeing = filled(Linear((4,)))(z, t), filled(LowRankLinear((4,), rank=2, knots=3))(z, t)
    assert torch.equal(blind[0], blind[1])
    assert not torch.allclose(seeing[0], seeing[1])


def test_gains_are_straight_lines_between_knots() -> None:
    network = filled(LowRankLinear((4,), rank=3, knots=5))
    z = torch.randn(1, 4, dtype=torch.float64).expand(3, 4)
    assert network.times.tolist() == [0, 0.4375, 0.75, 0.9375, 1], "closest towards t = 1"
    u = network(z, torch.tensor([0.4375, 0.5625, 0.75], dtype=torch.float64))
    assert torch.allclose(u[1], 0.6 * u[0] + 0.4 * u[2])
    assert network.heights.tolist() == pytest.approx([1, 4 / 3, 2, 4, 8])
    assert torch.allclose(u[0], network.span @ network.gains[1] @ z[0] * 4 / 3)
    ends = network(z, torch.tensor([0.0, 0.99999, 1.0], dtype=torch.float64))
    assert torch.allclose(ends[0], network.span @ network.gains[0] @ z[0])
    assert torch.allclose(ends[2], network.span @ network.gains[-1] @ z[0] * 8)
    assert torch.allclose(ends[1], ends[2], rtol=1e-2)


def test_the_output_stays_in_one_subspace_for_all_times() -> None:
    network = filled(LowRankLinear((6,), rank=2))
    u = network(torch.randn(50, 6, dtype=torch.float64), torch.rand(50, dtype=torch.float64))
    assert torch.linalg.matrix_rank(u) == 2


@pytest.mark.parametrize(
    ("options", "message"), [({"rank": 0}, "1 to 4"), ({"rank": 5}, "1 to 4"), ({"rank": 2, "knots": 1}, "knots")]
)
def test_impossible_sizes_are_refused(options, message) -> None:
    with pytest.raises(ValueError, match=message):
        LowRankLinear((4,), **options)
