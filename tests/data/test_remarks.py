"""Data that are allowed and yet often a mistake are remarked on, in one line; ordinary data are not."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdiff.data import checks, load, make_dataset

RNG = np.random.default_rng(0)


def warned(raw: np.ndarray, y: np.ndarray | None = None, **options: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        make_dataset("a", raw, y, **options)
    return [str(each.message) for each in found]


class TestSplit:
    def test_equal_rows_that_upset_the_parts(self) -> None:
        raw = RNG.standard_normal((4800, 3)).astype(np.float32)
        raw[RNG.permutation(4800)[:4000]] = raw[0]
        (text,) = warned(raw)
        sizes = np.bincount(parts(raw))
        assert text.startswith("a: only 80")
        assert f"so the parts hold train {sizes[0]:,}, classifier {sizes[1]:,}, heldout {sizes[2]:,} instead of" in text
        assert "about 2,880, 960, 960; remove repeated samples" in text

    def test_large_images_too_and_every_time(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(checks, "KEEP_BYTES", 0)
        images = RNG.integers(0, 256, (400, 1, 4, 4)).astype(np.uint8)
        images[50:] = images[0]
        np.save(tmp_path / "a.npy", images)
        for _ in range(2):
            with pytest.warns(UserWarning, match=r"a: only 50 of the 400 samples are different"):
                load(tmp_path / "a.npy")

    def test_ordinary_repetition_is_not_remarked_on(self) -> None:
        raw = RNG.standard_normal((2000, 3))
        assert warned(raw) == []
        assert warned(np.concatenate([raw, raw[:300]])) == []
        assert warned(np.concatenate([raw, raw[:1].repeat(150, 0)])) == []
        some = raw[parts(raw) > 0]  # chosen by their part, and all different
        train = raw[parts(raw) == 0][:10]
        assert warned(np.concatenate([some, train])) == []


def parts(raw: np.ndarray) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make_dataset("a", raw).split.numpy()


class TestLabels:
    @pytest.mark.parametrize(
        ("labels", "classes", "message"),
        [
            (1 + np.arange(300) % 10, 11, "a: the labels begin at 1, so only 10 of the 11 classes have samples; renumber"),
            (5 + np.arange(300) % 2, 7, "a: the labels begin at 5, so only 2 of the 7 classes have samples; renumber"),
            (2 * (np.arange(300) % 4), 7, "a: the labels leave out 1, 3, 5, so only 4 of the 7 classes have samples"),
            (np.arange(300) % 2 * 30, 31, "a: the labels leave out 1, 2, 3, 4, 5 and 24 more, so only 2 of the 31"),
        ],
    )
    def test_classes_without_samples(self, labels: np.ndarray, classes: int, message: str) -> None:
        raw = RNG.standard_normal((300, 3))
        (text,) = warned(raw, labels)
        assert text.startswith(message)
        assert text.endswith(f"by np.unique(y, return_inverse=True)[1], or give num_classes={classes} if this is meant")
        assert warned(raw, np.unique(labels, return_inverse=True)[1]) == []
        assert warned(raw, labels, num_classes=classes) == []


class TestEntries:
    RAW = 3 + 2 * RNG.standard_normal((500, 4)).astype(np.float32)

    @pytest.mark.parametrize("kind", ["features", "channels"])
    def test_rounding_errors_of_float32(self, kind: str) -> None:
        raw = self.RAW.copy() if kind == "features" else RNG.random((500, 4, 3, 3), np.float32)
        what = "entry" if kind == "features" else "channel"
        raw[:, 2] = 0.1
        assert warned(raw, normalise=kind) == []
        raw[::3, 2] = np.nextafter(np.float32(0.1), np.float32(1))
        (text,) = warned(raw, normalise=kind)
        assert text == (
            f"a: {what} 2 varies in the last digits of float32 only (0.100000001 to 0.100000009) and is scaled to variance 1; "
            "if these are rounding errors, round or drop this entry"
        )
        assert warned(raw, normalise="standard") == []
        raw[:, 2] = 2**22 + np.arange(500).reshape(-1, *[1] * (raw.ndim - 2)) % 7  # whole numbers are exact
        assert warned(raw, normalise=kind) == []

    def test_constant_in_the_training_part_only(self) -> None:
        raw = self.RAW.copy()
        raw[:, 1] = 5
        held_out = np.flatnonzero(parts(raw) == 2)
        raw[:, 3] = 7
        train = parts(raw) == 0
        raw[held_out[:3], 1] = 5 + np.array([1, -40, 2])
        changed = parts(raw)
        outside = held_out[:3][changed[held_out[:3]] != 0]
        inside = held_out[:3][changed[held_out[:3]] == 0]
        raw[inside, 1] = 5
        away = np.abs(raw[outside, 1] - 5).max()
        assert train.any()
        assert len(outside)
        (text,) = warned(raw, normalise="features")
        assert text == (
            f"a: entry 1 is constant in the training part (5) but not in the other parts, up to {away:g} away, and no scale is "
            "known for it; drop it, or shuffle and add samples"
        )
        assert warned(raw, normalise="standard") == []
        raw[:, 1] = 5
        assert warned(raw, normalise="features") == []


@pytest.mark.parametrize("ending", [".npy", ".npz"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64])
def test_channels_last_of_other_types(tmp_path: Path, ending: str, dtype: type) -> None:
    images = RNG.integers(0, 256, (60, 5, 7, 3)).astype(dtype)
    path = tmp_path / f"a{ending}"
    np.save(path, images) if ending == ".npy" else np.savez(path, x=images)
    with pytest.warns(
        UserWarning, match=r"shape \(60, 5, 7, 3\) looks like \(N, H, W, C\), and it is read as 5 channels of 7 × 3"
    ):
        assert load(path).shape == (5, 7, 3)
    for layout, shape in (("channels_last", (3, 5, 7)), ("channels_first", (5, 7, 3))):
        assert load(path, layout=layout).shape == shape  # a warning would be an error


def test_every_remark_is_one_line_and_changes_nothing() -> None:
    raw = np.tile(np.float32([1, 2, 3]), (600, 1)) + RNG.integers(0, 9, (600, 3)).astype(np.float32)
    found = warned(raw, 1 + np.arange(600) % 3, normalise="features")
    assert found
    assert all("\n" not in text for text in found)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = make_dataset("a", raw, normalise="features")
    train = torch.from_numpy(raw)[data.split == 0].double()
    assert torch.equal(data.normalisation.scale, train.std(0, correction=0).float())


def test_a_channel_that_hardly_varies_beside_another_one() -> None:
    fields = np.random.default_rng(0).standard_normal((200, 2, 4, 4)).astype(np.float32) * np.array([1.0, 0.01])[:, None, None]
    with pytest.warns(
        UserWarning, match=r"channel 1 has a standard deviation of 0.0\d+, and channel 0 has .*normalise=channels"
    ):
        make_dataset("fields", fields, normalise="standard")
    make_dataset("fields", fields, normalise="channels")
    make_dataset("fields", fields * np.array([1.0, 10.0])[:, None, None], normalise="standard")
