"""Sources made of sources return the rows of the arrays that they stand for."""

from __future__ import annotations

import numpy as np
import pytest

from kdiff.data.arranged import Concatenated, Picked, Stacked, Stored
from kdiff.data.opened import Array

RNG = np.random.default_rng(0)
ROWS = np.array([7, 0, 3, 7, 11, 4])


class Counted(Stored):
    """A stored array that notes what is read."""

    def __init__(self, values: np.ndarray, chunks, axes, reverse=False) -> None:
        self.values, self.slabs = values, []
        super().__init__("mine", values.shape, values.dtype, chunks, axes, reverse)

    def slab(self, selection):
        self.slabs.append(selection)
        return self.values[selection]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_any_axis_may_count_the_samples(axis):
    values = RNG.normal(size=(12, 12, 12)).astype(">f4")
    source = Counted(values, None, (axis,))
    assert source.shape == (12, 12, 12)
    assert source.dtype == np.dtype("=f4")
    np.testing.assert_array_equal(source.read(ROWS), np.moveaxis(values, axis, 0)[ROWS])
    np.testing.assert_array_equal(np.concatenate(list(source.chunks())), np.moveaxis(values, axis, 0))
    assert all(source.slabs[0][other] == slice(None) for other in range(3) if other != axis)


def test_a_chunk_is_read_once_and_no_rows_between_distant_ones():
    source = Counted(RNG.normal(size=(100, 3)), (10, 3), (0,))
    source.read(np.array([95, 12, 18, 12, 50]))
    assert [(one[0].start, one[0].stop) for one in source.slabs] == [(12, 19), (50, 51), (95, 96)]
    assert source.block == 10


def test_two_axes_count_the_samples_and_the_rest_may_be_reversed():
    values = RNG.normal(size=(3, 4, 2, 5))
    np.testing.assert_array_equal(Counted(values, None, (0, 2)).read(np.arange(6)), values.swapaxes(1, 2).reshape(6, 4, 5))
    assert Counted(values, (1, 2, 2, 5), (0, 1)).block == 2
    assert Counted(values, (2, 4, 2, 5), (0, 1)).block == 8
    assert Counted(values, (1, 3, 2, 5), (0, 1)).block == 1
    np.testing.assert_array_equal(Counted(values, None, (3,), True).read(np.arange(5)), values.transpose(3, 2, 1, 0))


def test_complex_numbers_are_two_channels():
    values = RNG.normal(size=(12, 4)) + 1j * RNG.normal(size=(12, 4))
    source = Counted(values.astype("c8"), None, (0,))
    assert (source.shape, source.dtype) == ((12, 2, 4), np.float32)
    np.testing.assert_array_equal(source.read(ROWS)[:, 1], values.astype("c8").imag[ROWS])


def test_variables_are_stacked_in_order():
    u, v = RNG.normal(size=(12, 4, 5)).astype("f4"), RNG.normal(size=(12, 3, 4, 5))
    mixed = Stacked("both", [Array("u", u), Array("v", v)])
    assert (mixed.shape, mixed.dtype) == ((12, 4, 4, 5), np.float64)
    np.testing.assert_array_equal(mixed.read(ROWS), np.concatenate([u[:, None], v], 1)[ROWS])
    assert Stacked("scalars", [Array("a", u[:, 0, 0]), Array("b", u[:, 0, 1])]).shape == (12, 2)
    assert Stacked("same", [Array("v", v), Array("v", v)]).shape == (12, 2, 3, 4, 5)
    assert Stacked("same", [Array("v", v), Array("v", v)], channels=True).shape == (12, 6, 4, 5)
    with pytest.raises(ValueError, match=r"grids must be the same; found u \(12, 4, 5\), w \(12, 4, 4\)"):
        Stacked("bad", [Array("u", u), Array("w", u[..., :4])])
    with pytest.raises(ValueError, match="same number of samples"):
        Stacked("bad", [Array("u", u), Array("w", u[:5])])


def test_files_follow_one_another_and_rows_are_picked():
    a, b = RNG.normal(size=(5, 2)), RNG.normal(size=(8, 2))
    both = Concatenated("both", [Array("a", a), Array("b", b)])
    np.testing.assert_array_equal(both.read(ROWS), np.concatenate([a, b])[ROWS])
    np.testing.assert_array_equal(
        Picked("few", both, np.array([9, 2])).read(np.array([1, 0, 0])), np.concatenate([a, b])[[2, 9, 9]]
    )
    with pytest.raises(ValueError, match=r"c has samples of shape \(3,\)"):
        Concatenated("bad", [Array("a", a), Array("c", np.zeros((4, 3)))])
    with pytest.raises(ValueError, match="type float32"):
        Concatenated("bad", [Array("a", a), Array("c", a.astype("f4"))])
