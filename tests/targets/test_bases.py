"""Every basis is orthonormal, is saved and read back, and measures the variances diag(Bᵀ Σ B) of the data."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from kdiff.data import ImageSamples, Normalisation
from kdiff.data.directions import moments
from kdiff.targets import scatter
from kdiff.targets.bases import KINDS, CosineBasis, default_patch, make_basis

SHAPES = [(12,), (2, 6), (3, 4, 6), (2, 4, 2, 6)]


def data(shape, count=300):
    """Correlated samples with a mean."""
    generator = torch.Generator().manual_seed(math.prod(shape))
    size = math.prod(shape)
    mix = torch.randn(size, size, generator=generator) * torch.logspace(0, -2, size)
    return (torch.randn(count, size, generator=generator) @ mix.T + 3 * torch.randn(size, generator=generator)).reshape(
        -1, *shape
    )


def basis_of(kind, shape, x=None, **options):
    made = {"moments": partial(moments, x), "samples": lambda: x} if x is not None else {}
    return make_basis(kind, shape, size=2 if kind == "patch" else None, **made, **options)


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_it_is_orthonormal(kind, shape):
    x = data(shape)
    basis, size = basis_of(kind, shape, x), math.prod(shape)
    c = basis.turn(x)
    assert c.shape == (300, *basis.coordinate_shape)
    assert math.prod(basis.coordinate_shape) == size == basis.dimension
    assert torch.ones(basis.coefficient_shape).expand(5, *basis.coordinate_shape).shape == (5, *basis.coordinate_shape)
    torch.testing.assert_close(basis.turn_back(c), x, rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(c.flatten(1).norm(dim=1), x.flatten(1).norm(dim=1))
    matrix = basis.turn(torch.eye(size).reshape(size, *shape)).flatten(1)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size), rtol=0, atol=2e-6)
    torch.testing.assert_close(matrix.T @ matrix, torch.eye(size), rtol=0, atol=2e-6)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_its_variances_are_those_of_the_data(kind, shape):
    """From the samples, from their moments, and by definition: the mean over directions that share a number."""
    x = data(shape)
    basis = basis_of(kind, shape, x)
    matrix = basis.turn(torch.eye(math.prod(shape)).reshape(-1, *shape)).flatten(1).double()  # row j: coordinates of e_j
    covariance = torch.from_numpy(np.cov(x.flatten(1).double().numpy(), rowvar=False, bias=True))
    expected = (matrix.T @ covariance @ matrix).diag().reshape(basis.coordinate_shape)
    axes = len(basis.coordinate_shape) - len(basis.coefficient_shape)
    expected = expected.mean(tuple(range(axes))) if axes else expected
    for axis, side in enumerate(basis.coefficient_shape):
        expected = expected.mean(axis, keepdim=True) if side == 1 else expected
    found = basis.variances(samples=lambda: x)
    assert found.shape == basis.coefficient_shape
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(basis.variances(partial(moments, x)), expected, rtol=1e-4, atol=1e-5)
    if kind in ("principal", "patch"):
        assert (found.diff() <= 1e-6 * found[0]).all(), "falling"


def test_one_pass_in_chunks_is_exact(kind, monkeypatch):
    """Few samples at a time, far from zero, give the variances of all."""
    x = data((2, 6)) + 1000
    expected = basis_of(kind, (2, 6), x).variances(samples=lambda: x)
    monkeypatch.setattr(scatter, "CHUNK", 60)
    torch.testing.assert_close(basis_of(kind, (2, 6), x).variances(samples=lambda: x), expected, rtol=1e-6, atol=1e-9)


def test_samples_on_disk_do(kind):
    raw = np.random.default_rng(0).integers(0, 256, (50, 3, 4, 4), dtype=np.uint8)
    x = ImageSamples(raw, Normalisation.none())
    basis = make_basis(kind, (3, 4, 4), moments=partial(moments, x[:]), samples=lambda: x)
    assert basis.variances(samples=lambda: x).sum() > 0


def test_principal_components_are_uncorrelated():
    x = data((3, 4, 6))
    for name, size in (("principal", 72), ("patch", 12)):
        c = basis_of(name, (3, 4, 6), x).turn(x - x.mean(0)).double().reshape(-1, size)
        covariance = c.T @ c
        assert (covariance - covariance.diag().diag()).abs().max() < 1e-5 * covariance.diag().max()


def test_patches_of_one_pixel_are_the_components_of_the_channels():
    x = data((3, 4, 6))
    basis = make_basis("patch", (3, 4, 6), size=1, samples=lambda: x)
    centred = (x - x.mean(0)).double().movedim(1, -1).reshape(-1, 3)
    expected = torch.linalg.eigvalsh(centred.T @ centred / len(centred)).flip(0)
    torch.testing.assert_close(basis.variances(samples=lambda: x), expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("shape", [(7,), (3, 5), (3, 8, 5)], ids=str)
def test_the_cosine_transform_is_scipys(shape):
    x = data(shape, 4)
    axes = tuple(range(1 if len(shape) == 1 else 2, len(shape) + 1))
    expected = torch.from_numpy(dctn(x.double().numpy(), axes=axes, norm="ortho"))
    torch.testing.assert_close(CosineBasis(shape).turn(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_large_images_cost_little():
    basis = make_basis("dct", (3, 256, 256))
    x = torch.randn(2, 3, 256, 256)
    torch.testing.assert_close(basis.turn_back(basis.turn(x)), x, rtol=1e-4, atol=1e-5)
    assert sum(value.numel() for value in basis.state_dict().values()) == 256**2
    assert make_basis("patch", (3, 256, 256)).size == 8


def test_a_saved_basis_is_read_back_without_data(kind):
    x = data((3, 4, 6))
    basis = basis_of(kind, (3, 4, 6), x, seed=5)
    other = make_basis(kind, (3, 4, 6), size=2 if kind == "patch" else None, seed=6)
    other.load_state_dict(basis.state_dict())
    assert torch.equal(other.turn(x), basis.turn(x)), "to the bit: a resumed run goes on as it began"
    assert torch.equal(other.turn_back(basis.turn(x)), basis.turn_back(basis.turn(x)))
    assert not torch.equal(basis.turn(x).flatten(), x.flatten()) or kind == "channels"
    assert all(value.is_contiguous() for value in basis.buffers())


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16])
def test_half_precision_does_not_reach_it(kind, half):
    x = data((3, 4, 6)).to(half)
    basis = basis_of(kind, (3, 4, 6), data((3, 4, 6)))
    expected = basis.turn(x.float())
    assert torch.equal(basis.turn(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(basis.turn(x), expected)
        assert torch.equal(basis.turn_back(expected), basis.turn_back(expected.float()))
        assert basis.turn_back(basis.turn(x)).dtype == torch.float32
    basis.to(half)
    assert torch.equal(basis.turn(x), expected)


def test_random_bases_depend_on_the_seed():
    first, again, other = (make_basis("random", (6,), seed=seed).directions for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_gradients_pass_through_unchanged(kind):
    x = data((3, 4, 6), 4).requires_grad_()
    basis = basis_of(kind, (3, 4, 6), data((3, 4, 6)))
    basis.turn_back(basis.turn(x)).mul(torch.arange(4.0)[:, None, None, None]).sum().backward()
    torch.testing.assert_close(x.grad, torch.arange(4.0)[:, None, None, None].expand_as(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("shape", "size"), [((1, 28, 28), 7), ((3, 32, 32), 8), ((8, 16), 8), ((13,), 1), ((1, 12, 18), 6)])
def test_default_patches_divide_the_sides(shape, size):
    assert default_patch(shape) == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("wavelets", (4,)), "basis is 'wavelets'; expected principal, patch, dct, channels or random"),
        (("principal", (3, 64, 64)), "up to 4096 dimensions, but these samples have 12288; expected patch, dct or channels"),
        (("patch", (3, 6, 4), 4), "size is 4; expected a number that divides 6 and 4"),
        (("patch", (3, 64, 64), 64), "12288 entries; expected at most 4096"),
        (("dct", (3, 6, 4), 2), "size is 2, the side of a patch, but basis is 'dct'"),
        (("dct", ()), "at least one axis"),
    ],
)
def test_what_cannot_be_is_refused(arguments, message):
    kind, shape, *size = arguments
    with pytest.raises(ValueError, match=message):
        make_basis(kind, shape, size=size[0] if size else None)


def test_samples_that_do_not_fit_are_refused():
    basis = make_basis("dct", (3, 4))
    with pytest.raises(ValueError, match="this basis is for samples of shape"):
        basis.turn(torch.zeros(2, 4, 3))
    with pytest.raises(ValueError, match="expected moments or samples"):
        basis.variances()
    for x, message in ((torch.zeros(9, 4, 3), "at least 2 of shape"), (torch.full((9, 3, 4), math.nan), "finite")):
        with pytest.raises(ValueError, match=message):
            basis.variances(samples=lambda x=x: x)
