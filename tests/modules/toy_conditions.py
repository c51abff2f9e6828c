"""Data with conditions, for the tests of runs and exports: samples whose mean is linear in a vector."""

from __future__ import annotations

from dataclasses import replace

import torch

from kdiff.config.condition_spec import ConditionSpec
from kdiff.data import Dataset, Normalisation, make_dataset
from kdiff.data.condition import Condition

A = torch.tensor([[1.0, 0.5, 0.0], [0.0, -1.0, 1.0]])
S = 0.2  # the standard deviation of x | c


def conditional_gaussian(num: int = 2000, labels: bool = False, past: bool = False, scale: float = 10.0) -> Dataset:
    """x | c ~ N(A c, S²), with c uniform in [−2, 2]², which the data give in other units: params = scale · c + 5."""
    draw = torch.Generator().manual_seed(0)
    c = torch.rand(num, 2, generator=draw) * 4 - 2
    x = c @ A + S * torch.randn(num, 3, generator=draw)
    y = (c[:, 0] > 0).long() if labels else None
    data = make_dataset("gauss", x, y, about={"class_names": ["left", "right"]} if labels else None)
    params = scale * c + 5
    normalisation = Normalisation.fit("features", params[data.split == 0])
    conditions = {"params": Condition(ConditionSpec("params", "vector", (2,)), normalisation.apply(params), normalisation)}
    if past:
        values = torch.randn(num, 1, 2, generator=draw)
        conditions["past"] = Condition(ConditionSpec("past", "field", (1, 2)), values, Normalisation.none())
    return replace(data, conditions=conditions)
