"""The MLP: its layout, its labels, its refusals."""

from __future__ import annotations

import pytest
import torch

from kdiff.networks import MLP


@pytest.mark.parametrize("shape", [(5,), (1, 8, 8)])
@pytest.mark.parametrize("num_classes", [0, 10])
def test_output_is_shaped_like_the_input_and_starts_at_zero(shape, num_classes):
    network = MLP(shape, num_classes, width=16, depth=3)
    u = network(torch.randn(4, *shape), torch.rand(4))
    assert u.shape == (4, *shape)
    assert (u == 0).all()


def test_depth_counts_hidden_layers_and_gradients_reach_them_all():
    network = MLP((5,), 3, width=16, depth=3)
    assert sum(m.__class__.__name__ == "SiLU" for m in network.modules()) == 3
    torch.nn.init.normal_(network.output.weight)
    network(torch.randn(4, 5), torch.rand(4), torch.tensor([0, 1, 2, 3])).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


def test_output_depends_on_time_and_class_and_no_label_means_no_class():
    network = MLP((5,), 3, width=16, depth=2)
    torch.nn.init.normal_(network.output.weight)
    z, t = torch.randn(1, 5).expand(3, 5), torch.full((3,), 0.4)
    by_time = network(z, torch.tensor([0.1, 0.5, 0.9]))
    by_class = network(z, t, torch.tensor([0, 1, 3]))
    assert by_time.std(dim=0).min() > 1e-4
    assert by_class.std(dim=0).min() > 1e-4
    torch.testing.assert_close(network(z, t)[0], by_class[2])


@pytest.mark.parametrize(
    ("network", "z", "y", "message"),
    [
        (MLP((5,), 3), (2, 4), None, r"samples have shape \(4,\); this network was built for \(5,\)"),
        (MLP((5,), 3), (2, 5), [0, 4], "labels range from 0 to 4; expected 0 to 2, or 3 for no class"),
        (MLP((5,)), (2, 5), [0, 1], "built without classes"),
    ],
)
def test_mistakes_are_refused(network, z, y, message):
    with pytest.raises(ValueError, match=message):
        network(torch.randn(z), torch.rand(z[0]), None if y is None else torch.tensor(y))
