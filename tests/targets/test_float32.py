"""What a target, a weighting, a basis and a calibration hold keeps its bytes when the model is cast to half precision."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kdiff.model import KDiff
from kdiff.networks import MLP
from kdiff.targets import FixedK, GeneralTarget, LearnedK, LearnedKOfTime, LearnedPair
from kdiff.targets.bases import make_basis
from kdiff.targets.calibration import Calibration
from kdiff.targets.float32 import Float32Module


def calibrated(target) -> KDiff:
    model = KDiff(MLP((6,)), target, weighting="log")
    basis = make_basis("random", (6,))
    model.calibration = Calibration(basis, torch.tensor([0.1, 0.9]), torch.rand(2, 6), torch.rand(6))
    model.loss(torch.randn(64, 6))
    return model


@pytest.mark.parametrize("cast", ["half", "bfloat16"])
@pytest.mark.parametrize(
    "target", [FixedK(0.3), LearnedK(0.7), LearnedPair(), LearnedKOfTime(), GeneralTarget(nn.Parameter(torch.rand(6)), 1.0)]
)
def test_only_the_network_is_cast(target, cast) -> None:
    model = calibrated(target)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parameters = dict(model.named_parameters())
    getattr(model, cast)()
    for name, value in model.state_dict().items():
        if name.startswith("network."):
            assert value.itemsize == 2
        else:
            assert torch.equal(value, before[name]), name
            assert value.dtype == before[name].dtype, name
    assert all(model.get_parameter(name) is parameter for name, parameter in parameters.items()), "an optimiser still has them"


def test_wider_types_other_devices_and_submodules_are_as_asked() -> None:
    module = Float32Module()
    module.register_buffer("wide", torch.rand(3, dtype=torch.float64))
    module.register_buffer("count", torch.arange(3))
    module.register_buffer("nothing", None)
    module.inner = nn.Linear(2, 2)
    wide = module.wide.clone()
    module.half()
    assert torch.equal(module.wide, wide)
    assert module.count.dtype == torch.int64
    assert module.inner.weight.dtype == torch.float16
    assert module.double().wide.dtype == torch.float64
    assert module.to("meta").wide.is_meta
