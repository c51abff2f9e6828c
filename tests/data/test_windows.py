"""Windows of time: the past is followed by the future, nothing crosses two series, and no frame is shared by two groups."""

from __future__ import annotations

import numpy as np
import pytest

from kdiff.data.opened import Array
from kdiff.data.windows import Window, Windows, cut, window_of


def frames_of(found, window: Window) -> np.ndarray:
    return found.starts[:, None] + np.arange(window.length)


@pytest.mark.parametrize("lengths", [[200], [60, 45], [30] * 12])
@pytest.mark.parametrize("window", [Window(2), Window(1, 3, 2), Window(0, 2)])
def test_no_frame_is_in_two_groups_and_no_window_in_two_series(lengths, window):
    found = cut("mine", lengths, window)
    frames, series = frames_of(found, window), np.repeat(np.arange(len(lengths)), lengths)
    assert (series[frames] == found.series[:, None]).all()
    owners: dict[int, set[int]] = {}
    for group, row in zip(found.groups, frames):
        for frame in row:
            owners.setdefault(int(frame), set()).add(int(group))
    assert max(map(len, owners.values())) == 1
    assert len(set(found.groups)) >= 5
    assert len(np.unique(found.starts)) == len(found.starts)


def test_many_series_stay_whole_and_lose_no_window():
    found = cut("mine", [10] * 20, Window(2, 1, 3))
    np.testing.assert_array_equal(found.groups, found.series)
    np.testing.assert_array_equal(found.starts[:4], [0, 3, 6, 10])
    assert "one series share a part" in found.remark


def test_the_remark_counts_the_windows_that_are_left_out():
    found = cut("mine", [100], Window(2, 1, blocks=4))
    assert len(found.starts) == 98 - 3 * 2
    assert "4 blocks of time" in found.remark
    assert " 6 windows across" in found.remark


def test_past_and_future_join_frames_along_channels():
    field = np.arange(20 * 3 * 2 * 2.0).reshape(20, 3, 2, 2)
    starts, rows = np.arange(17), np.array([4, 0, 4])
    past = Windows("f", Array("f", field), starts, 0, 2, True)
    assert past.shape == (17, 6, 2, 2)
    np.testing.assert_array_equal(past.read(rows)[0], np.concatenate([field[4], field[5]]))
    future = Windows("f", Array("f", field), starts, 2, 1, True)
    np.testing.assert_array_equal(future.read(rows), field[rows + 2])
    assert Windows("f", Array("f", field[:, 0]), starts, 0, 2, False).shape == (17, 2, 2, 2)
    assert Windows("f", Array("f", field[:, 0, 0]), starts, 0, 2, False).shape == (17, 4)
    assert Windows("f", Array("f", field[:, 0, 0, 0]), starts, 0, 2, False).shape == (17, 2)


def test_too_few_frames_and_wrong_options_are_refused():
    with pytest.raises(ValueError, match=r"a window has 3 frames, and a block \(of 5\) only 2"):
        cut("mine", [10], Window(2))
    assert window_of([2, 1]) == window_of({"past": 2, "future": 1}) == window_of(2) == Window(2, 1)
    for wrong in ([2, 0], {"passt": 2}, [1, 1, 1, 1, 1], "ab", [1.5, 1]):
        with pytest.raises(ValueError, match="window"):
            window_of(wrong)
