"""`full_precision`: half-precision tensors come as float32, and autocast is off inside, on afterwards."""

from __future__ import annotations

import pytest
import torch

from kdiff.path import at_least_float32, full_precision


@full_precision
def product(a, b, *, c=None, note="as it is"):
    """a b, and what arrived."""
    return a @ b, [getattr(value, "dtype", value) for value in (a, b, c, note)], torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16, torch.float8_e4m3fn])
def test_half_precision_arrives_as_float32_and_all_else_as_it_is(half):
    a, b = torch.eye(2).to(half), torch.ones(2, 2)
    assert product(a, b, c=a)[1] == [torch.float32, torch.float32, torch.float32, "as it is"]
    assert product(a=a, b=b, c=3, note=None)[1] == [torch.float32, torch.float32, 3, None]
    assert product(b.double(), b.double(), c=torch.ones(1, dtype=torch.int8))[1][:3] == [
        torch.float64,
        torch.float64,
        torch.int8,
    ]
    double = b.double()
    assert at_least_float32(double) is double
    assert at_least_float32("text") == "text"


def test_autocast_is_off_inside_and_on_afterwards():
    a, b = torch.full((2, 2), 1 + 2**-12), torch.eye(2)
    assert a.bfloat16().float().max() == 1
    with torch.autocast("cpu", torch.bfloat16):
        exact, _, inside = product(a, b)
        assert not inside
        assert torch.is_autocast_enabled("cpu")
        assert (a @ b).dtype == torch.bfloat16
    assert torch.equal(exact, a)


def test_gradients_come_back_in_the_callers_precision():
    a = torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True)
    product(a, torch.ones(2, 2))[0].sum().backward()
    assert a.grad is not None
    assert a.grad.dtype == torch.bfloat16
    assert product.__doc__ == "a b, and what arrived."
