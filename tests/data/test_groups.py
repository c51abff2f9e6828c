"""Groups of samples: samples of one group share a part, and the shares of the parts stay close to 60, 20 and 20 %."""

from __future__ import annotations

import numpy as np
import pytest

from kdiff.data import make_dataset
from kdiff.data.split import split_groups


@pytest.mark.parametrize("count", [5, 10, 37])
def test_groups_share_a_part_and_parts_have_their_shares(count):
    groups = np.random.default_rng(count).permutation(np.repeat(np.arange(count) - 3, 20))
    split = split_groups("mine", groups).numpy()
    assert all(len(set(split[groups == group])) == 1 for group in set(groups))
    assert np.abs(np.bincount(split) / len(split) - [0.6, 0.2, 0.2]).max() <= 1 / count + 1e-9
    np.testing.assert_array_equal(split_groups("mine", groups[::-1]).numpy(), split[::-1])


def test_too_few_groups_are_refused():
    with pytest.raises(ValueError, match=r"2 groups of samples.*more blocks of time"):
        split_groups("mine", np.repeat([0, 1], 30))


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_a_dataset_with_groups(kind):
    values = np.random.default_rng(0).integers(0, 256, (60, 3, 4, 4)).astype(kind)
    groups, identity = np.repeat(np.arange(6), 10), ("a",)
    grouped = make_dataset("mine", values, normalise="none", groups=groups, identity=identity)
    np.testing.assert_array_equal(grouped.split.numpy(), split_groups("mine", groups).numpy())
    plain = make_dataset("mine", values, normalise="none", identity=identity)
    assert plain.fingerprint == grouped.fingerprint
    assert (plain.split != grouped.split).any()
