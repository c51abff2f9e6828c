from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from kdiff.data import (
    Dataset,
    ImageSamples,
    Normalisation,
    checks,
    kept_splits,
    load,
    make_dataset,
    principal_directions,
    samples,
)
from kdiff.data.dataset import PARTS
from kdiff.data.samples import summarise
from kdiff.files import cache as cache_module

RAW = np.random.default_rng(0).integers(0, 256, (300, 3, 6, 5)).astype(np.uint8)
LABELS = np.arange(300) % 7
RANGE = {"normalise": "range", "value_range": (0, 255)}


@pytest.fixture
def lazy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every set of images is large, and a chunk is a few samples."""
    monkeypatch.setattr(checks, "KEEP_BYTES", 0)
    monkeypatch.setattr(samples, "CHUNK_BYTES", 7 * 4 * RAW[0].size)


def plain_and_lazy(monkeypatch: pytest.MonkeyPatch, **options: object) -> tuple[Dataset, Dataset]:
    plain = make_dataset("a", RAW, LABELS, **{**RANGE, **options})
    with monkeypatch.context() as patch:
        patch.setattr(checks, "KEEP_BYTES", 0)
        patch.setattr(samples, "CHUNK_BYTES", 7 * 4 * RAW[0].size)
        lazy = make_dataset("a", RAW, LABELS, **{**RANGE, **options})
    assert isinstance(plain.x, torch.Tensor)
    assert isinstance(lazy.x, ImageSamples)
    return plain, lazy


class TestSameAsATensor:
    @pytest.mark.parametrize("options", [{}, {"normalise": "none", "value_range": None}, {"value_range": (-10, 300)}])
    def test_split_fingerprint_and_description(self, monkeypatch: pytest.MonkeyPatch, options: dict) -> None:
        plain, lazy = plain_and_lazy(monkeypatch, **options)
        assert torch.equal(plain.split, lazy.split)
        assert plain.fingerprint == lazy.fingerprint
        one, other = plain.describe(), lazy.describe()
        assert {k: v for k, v in one.items() if not isinstance(v, float)} == {
            k: v for k, v in other.items() if not isinstance(v, float)
        }
        for key in ("min", "max", "mean", "std", "total_variance"):
            assert other[key] == pytest.approx(one[key], rel=1e-12)
        assert (lazy.shape, lazy.dimension, len(lazy.x), lazy.x.ndim) == ((3, 6, 5), 90, 300, 4)

    @pytest.mark.parametrize(
        "rows",
        [
            3,
            -1,
            slice(None),
            slice(10, 50, 3),
            slice(0, 0),
            torch.tensor([5, 1, 1, -2]),
            torch.arange(0, 100, 2),
            torch.tensor(4),
            torch.tensor([], dtype=torch.int64),
        ],
    )
    def test_rows_are_the_same_bytes(self, monkeypatch: pytest.MonkeyPatch, rows: object) -> None:
        plain, lazy = plain_and_lazy(monkeypatch)
        for one, other in ((plain.x, lazy.x), (plain.part("train")[0], lazy.part("train")[0])):
            expected = one[rows]  # type: ignore[index]
            found = other[rows]  # type: ignore[index]
            assert isinstance(found, torch.Tensor)
            assert found.dtype == torch.float32
            assert found.is_contiguous()
            assert torch.equal(found, expected)

    def test_masks(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain, lazy = plain_and_lazy(monkeypatch)
        mask = torch.from_numpy(LABELS) == 3
        assert torch.equal(plain.x[mask], lazy.x[mask])
        assert isinstance(lazy.x, ImageSamples)
        assert torch.equal(lazy.x.select(mask)[:], plain.x[mask])
        assert torch.equal(lazy.x.select(mask).select(torch.tensor([4, 0]))[:], plain.x[mask][[4, 0]])

    def test_parts_are_views_that_read_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain, lazy = plain_and_lazy(monkeypatch)
        for name in PARTS:
            (x, y), (view, labels) = plain.part(name), lazy.part(name)
            assert isinstance(view, ImageSamples)
            assert isinstance(lazy.x, ImageSamples)
            assert np.shares_memory(view.raw, RAW)
            assert torch.equal(y, labels)  # type: ignore[arg-type]
            assert torch.equal(torch.cat(list(view.split(11))), x)
            assert (view.min(), view.max()) == (x.min(), x.max())
            assert tuple(view.shape) == tuple(x.shape)

    def test_rows_out_of_range(self, monkeypatch: pytest.MonkeyPatch) -> None:
        _, lazy = plain_and_lazy(monkeypatch)
        for rows in (300, torch.tensor([300])):
            with pytest.raises(IndexError):
                lazy.x[rows]

    def test_principal_directions(self, monkeypatch: pytest.MonkeyPatch) -> None:
        plain, lazy = plain_and_lazy(monkeypatch)
        for most in (50, 20000):
            one = principal_directions(plain.part("train")[0], max_samples=most)
            assert torch.equal(one, principal_directions(lazy.part("train")[0], max_samples=most))

    def test_what_is_read_can_be_written_to(self, monkeypatch: pytest.MonkeyPatch) -> None:
        raw = RAW.copy()
        x = ImageSamples(raw, Normalisation.none())
        for rows in (slice(None), 3, torch.tensor([3])):
            x[rows].zero_()
        assert np.array_equal(raw, RAW)


def test_moments_merged_from_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against NumPy on raw numbers, with chunks that do not divide the samples."""
    monkeypatch.setattr(samples, "CHUNK_BYTES", 13 * 4 * RAW[0].size)
    found = summarise(ImageSamples(RAW, Normalisation.none()))
    flat = RAW.reshape(300, -1).astype(np.float64)
    expected = {
        "min": flat.min(),
        "max": flat.max(),
        "mean": flat.mean(),
        "std": flat.std(),
        "total_variance": flat.var(0).sum(),
    }
    assert found == pytest.approx(expected, rel=1e-12)
    assert found == pytest.approx(summarise(torch.from_numpy(RAW)), rel=1e-12)


class TestWhichStayBytes:
    def test_only_large_images_of_bytes_with_a_simple_normalisation(self, lazy: None) -> None:
        assert isinstance(make_dataset("a", RAW, **RANGE).x, ImageSamples)
        assert isinstance(make_dataset("a", torch.from_numpy(RAW)).x, ImageSamples)
        assert isinstance(make_dataset("a", RAW, normalise="standard").x, torch.Tensor)
        assert isinstance(make_dataset("a", RAW, normalise="features").x, torch.Tensor)
        assert isinstance(make_dataset("a", RAW.astype(np.int16)).x, torch.Tensor)
        assert isinstance(make_dataset("a", RAW.reshape(300, -1)).x, torch.Tensor)

    def test_the_limit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert checks.KEEP_BYTES == 256 * 2**20
        monkeypatch.setattr(checks, "KEEP_BYTES", 4 * RAW.size)
        assert isinstance(make_dataset("a", RAW).x, torch.Tensor)
        monkeypatch.setattr(checks, "KEEP_BYTES", 4 * RAW.size - 1)
        assert isinstance(make_dataset("a", RAW).x, ImageSamples)

    def test_samples_that_are_scattered_in_memory_are_put_together(self, lazy: None) -> None:
        data = make_dataset("a", np.asfortranarray(RAW))
        assert isinstance(data.x, ImageSamples)
        assert data.x.raw.flags.c_contiguous
        assert torch.equal(data.x[:], torch.from_numpy(RAW).float())

    def test_values_beyond_a_narrow_range(self, lazy: None) -> None:
        with pytest.raises(ValueError, match=r"value_range is \(0.0, 200.0\) but the values run from 0 to 255"):
            make_dataset("a", RAW, normalise="range", value_range=(0, 200))

    def test_equal_samples(self, lazy: None) -> None:
        with pytest.raises(ValueError, match="a part of the data is empty"):
            make_dataset("a", np.zeros((50, 3, 4, 4), np.uint8))


class TestFlip:
    @pytest.mark.parametrize("keep_bytes", [True, False])
    def test_only_training_mirrors_and_only_by_the_global_generator(
        self, monkeypatch: pytest.MonkeyPatch, keep_bytes: bool
    ) -> None:
        plain = make_dataset("a", RAW, **RANGE)
        if keep_bytes:
            monkeypatch.setattr(checks, "KEEP_BYTES", 0)
        data = make_dataset("a", RAW, flip=True, **RANGE)
        expected = plain.part("train")[0]
        assert torch.equal(data.part("train")[0][:], expected[:])
        assert torch.equal(data.part("heldout")[0][:], plain.part("heldout")[0][:])
        x = data.part("train", augment=True)[0]
        assert len(x) == len(expected)
        assert x.shape[1:] == expected.shape[1:]
        rows = torch.arange(len(x))
        torch.manual_seed(5)
        first = x[rows]
        second = x[rows]
        torch.manual_seed(5)
        assert torch.equal(x[rows], first)
        assert not torch.equal(second, first)
        same = (first == expected[:]).flatten(1).all(1)
        mirrored = (first == expected[:].flip(-1)).flatten(1).all(1)
        assert (same ^ mirrored).all()
        # Four standard deviations of a fair coin.
        assert abs(int(mirrored.sum()) - len(x) / 2) < 4 * (len(x) / 4) ** 0.5
        assert data.describe()["flip"] is True
        assert "flip" not in plain.describe()
        assert data.fingerprint == plain.fingerprint

    def test_single_images_and_slices(self) -> None:
        x = make_dataset("a", RAW, flip=True).part("train", augment=True)[0]
        plain = make_dataset("a", RAW).part("train")[0]
        seen = {bool((x[3] == plain[3]).all()) for _ in range(40)}
        assert seen == {True, False}
        assert x[2:7].shape == (5, 3, 6, 5)
        assert np.array_equal(RAW, np.random.default_rng(0).integers(0, 256, (300, 3, 6, 5)))

    def test_without_flip_augmenting_changes_nothing(self) -> None:
        data = make_dataset("a", RAW)
        x = data.part("train", augment=True)[0]
        assert isinstance(x, torch.Tensor)
        assert torch.equal(x, data.part("train")[0][:])

    def test_only_images_can_be_mirrored(self) -> None:
        with pytest.raises(ValueError, match=r"flip mirrors images \(N, C, H, W\), found shape \(300, 90\)"):
            make_dataset("a", RAW.reshape(300, -1), flip=True)


class TestKeptHashes:
    @pytest.mark.filterwarnings("ignore:a. the labels begin at 1")
    def test_the_second_start_hashes_nothing(self, lazy: None, monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> None:
        first = make_dataset("a", RAW, LABELS, identity="x", **RANGE)
        assert len(list(cache_folder.rglob("*.json"))) == 1

        def refuse(*_: object) -> None:
            raise AssertionError("hashed again")

        monkeypatch.setattr(kept_splits, "split_and_fingerprint", refuse)
        monkeypatch.setattr(kept_splits, "summarise", refuse)
        again = make_dataset("a", RAW, LABELS, identity="x", **RANGE)
        assert torch.equal(first.split, again.split)
        assert again.split.dtype == torch.int8
        assert first.describe() == again.describe()
        # Whatever else the result depends on is part of the key.
        for options in ({"identity": "y"}, {"y": LABELS + 1}, {"y": None}, {"value_range": (0, 256)}, {"identity": None}):
            with pytest.raises(AssertionError, match="hashed again"):
                make_dataset(**{"name": "a", "raw": RAW, "y": LABELS, "identity": "x", **RANGE, **options})

    def test_small_data_keep_nothing(self, cache_folder: Path) -> None:
        make_dataset("a", RAW, identity="x", **RANGE)
        assert list(cache_folder.iterdir()) == []

    def test_hashes_of_large_vectors_are_kept_too(self, monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> None:
        rows = RAW.reshape(len(RAW), -1) / np.float32(255)
        plain = make_dataset("a", rows, LABELS)
        monkeypatch.setattr(kept_splits, "KEPT_BYTES", 0)
        first = make_dataset("a", rows, LABELS, identity="x")
        assert len(list(cache_folder.rglob("*.json"))) == 1

        def refuse(*_: object) -> None:
            raise AssertionError("hashed again")

        monkeypatch.setattr(kept_splits, "split_and_fingerprint", refuse)
        again = make_dataset("a", rows, LABELS, identity="x")
        for found in (first, again):
            assert torch.equal(found.split, plain.split)
            assert found.fingerprint == plain.fingerprint
        for options in ({"identity": "y"}, {"y": None}, {"raw": rows[1:], "y": LABELS[1:]}, {"identity": None}):
            with pytest.raises(AssertionError, match="hashed again"):
                make_dataset(**{"name": "a", "raw": rows, "y": LABELS, "identity": "x", **options})

    def test_a_damaged_file_is_worked_out_again(self, lazy: None, cache_folder: Path) -> None:
        first = make_dataset("a", RAW, identity="x", **RANGE)
        (file,) = cache_folder.rglob("*.json")
        file.write_text(file.read_text()[:-5])
        assert torch.equal(make_dataset("a", RAW, identity="x", **RANGE).split, first.split)
        assert cache_module.kept(file) is not None

    def test_a_mapped_file_whose_content_changes(self, lazy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("kdiff.data.arrays.MAPPED_BYTES", 0)
        path = tmp_path / "a.npy"
        np.save(path, RAW)
        first = load(path)
        assert load(path).fingerprint == first.fingerprint
        assert not first.x.raw.flags.writeable  # type: ignore[union-attr]
        other = RAW.copy()
        other[0] += 1
        np.save(path, other)
        os.utime(path, ns=(1, 1))
        assert load(path).fingerprint == make_dataset("a", other).fingerprint != first.fingerprint
