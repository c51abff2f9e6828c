"""Data on disk are what the same data in memory are: with missing values, large conditions, remarks and mirrored images."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kdiff import KDiff
from kdiff.config.training import LoopConfig
from kdiff.data import Dataset, assembling, load
from kdiff.data.assembling import assemble
from kdiff.data.opened import Array, Opened
from kdiff.data.source_samples import PresentSamples, SourceSamples
from kdiff.networks import MLP
from kdiff.training.loop import fit
from kdiff.training.objective import DiffusionObjective

N = 300
RNG = np.random.default_rng(0)
RAW = 5 + 3 * RNG.standard_normal((N, 2, 4, 4)) * [[[[1]], [[4]]]]
PRESENT = RNG.random(RAW.shape) < 0.8
PRESENT[:, :, 0, 0] = False  # land
PRESENT[:, :, 1, 1] = True


def made(
    raw: np.ndarray, mask: np.ndarray | None = None, conditions: dict[str, np.ndarray] | None = None, **options: Any
) -> Dataset:
    given = {name: Array(f"sim: {name}", values) for name, values in (conditions or {}).items()}
    kinds = options.pop("kinds", {})
    marked = None if mask is None else Array("sim: mask", mask)
    return assemble("sim", Opened(Array("sim", raw), mask=marked, conditions=given, kinds=kinds), **options)


def both(*data: Any, **options: Any) -> tuple[Dataset, Dataset]:
    """The same data in memory and streamed."""
    memory = made(*data, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(assembling, "KEEP_BYTES", 0)
        streamed = made(*data, **options)
    assert isinstance(streamed.x, SourceSamples)
    return memory, streamed


def assert_same(memory: Dataset, streamed: Dataset) -> None:
    assert streamed.fingerprint == memory.fingerprint
    assert torch.equal(streamed.split, memory.split)
    found, known = streamed.describe(), memory.describe()
    assert found.pop("streamed")
    assert found.keys() == known.keys()
    for key in ("min", "max", "mean", "std", "total_variance"):
        assert found[key] == pytest.approx(known[key], rel=1e-6, abs=1e-6)
    for key in ("shift", "scale", "absent"):
        assert np.allclose(found["normalisation"].get(key, 0), known["normalisation"].get(key, 0), rtol=1e-7)
    assert found.get("missing") == pytest.approx(known.get("missing"))
    for part in ("train", "heldout", "all"):
        assert torch.allclose(streamed.part(part)[0][:], memory.part(part)[0][:], atol=1e-6)
        assert streamed.mask_of(part).keys() == memory.mask_of(part).keys()
        for name, values in memory.mask_of(part).items():
            assert torch.equal(streamed.mask_of(part)[name][:], values[:])
        for name, values in memory.conditions_of(part).items():
            assert torch.allclose(streamed.conditions_of(part)[name][:], values[:], atol=1e-6, equal_nan=True)


def weights(dataset: Dataset) -> torch.Tensor:
    torch.manual_seed(0)
    model = KDiff(MLP(dataset.shape, width=8, depth=1))
    config = LoopConfig(steps=5, batch_size=32, accumulate=2, warmup=0, log_every=5)
    fit(DiffusionObjective(model), dataset.part("train", augment=True)[0], dataset.mask_of("train"), config)
    return torch.cat([p.detach().flatten() for p in model.parameters()])


class TestMissing:
    @pytest.mark.parametrize("dtype", ["f4", "f8", "f2"])
    @pytest.mark.parametrize("normalise", ["none", "standard", "channels", "features"])
    def test_nan(self, normalise: str, dtype: str) -> None:
        memory, streamed = both(np.where(PRESENT, RAW, np.nan).astype(dtype), normalise=normalise, missing="mask")
        assert isinstance(streamed.mask, PresentSamples)
        assert_same(memory, streamed)
        assert (streamed.normalisation.absent is not None) == (memory.normalisation.absent is not None)

    @pytest.mark.parametrize("dtype", ["i2", "i8", "f4"])
    def test_a_mask_of_the_file(self, dtype: str) -> None:
        raw = np.where(PRESENT, 100 * RAW, -9999).astype(dtype)
        assert_same(*both(raw, PRESENT.astype(np.int8), normalise="channels", missing="mask"))
        last = [np.ascontiguousarray(np.moveaxis(each, 1, -1)) for each in (raw, PRESENT)]
        _, streamed = both(*last, normalise="channels", missing="mask", layout="channels_last")
        assert streamed.fingerprint == made(raw, PRESENT, normalise="channels", missing="mask").fingerprint
        with pytest.raises(ValueError, match=r"the mask has shape \(300, 2, 4, 3\); expected that of the samples"):
            both(raw, PRESENT[..., :3], missing="mask")

    def test_a_mask_that_marks_nothing_as_missing(self) -> None:
        memory, streamed = both(RAW, np.ones(RAW.shape, bool), normalise="channels", missing="mask")
        assert streamed.mask is None
        assert_same(memory, streamed)

    def test_float64_that_float32_cannot_hold(self) -> None:
        raw = 1.7e9 + np.cumsum(RNG.integers(1, 9, (N, 3)), 0) + 0.25
        raw[RNG.random(raw.shape) < 0.2] = np.nan
        raw[np.isnan(raw).all(1)] = 1.7e9
        memory, streamed = both(raw, normalise="features", missing="mask")
        assert streamed.normalisation.double
        assert_same(memory, streamed)

    def test_the_mask_as_a_condition(self) -> None:
        memory, streamed = both(np.where(PRESENT, RAW, np.nan), normalise="channels", missing="mask_channel")
        assert isinstance(streamed.conditions["present"].values, SourceSamples)
        assert_same(memory, streamed)

    @pytest.mark.parametrize("normalise", ["standard", "channels"])
    def test_the_same_weights(self, normalise: str) -> None:
        raw = np.where(PRESENT, RAW, np.nan).astype(np.float32)
        memory, streamed = both(raw, normalise=normalise, missing="mask")
        assert torch.equal(weights(memory), weights(streamed))
        assert not torch.equal(
            weights(memory), weights(made(np.where(PRESENT, RAW, 5).astype(np.float32), normalise=normalise))
        )

    def test_a_batch_and_its_mask_are_read_once(self) -> None:
        class Watched(Array):
            read_rows = 0

            def read(self, rows: np.ndarray) -> np.ndarray:
                self.read_rows += len(rows)
                return super().read(rows)

        source = Watched("sim", np.where(PRESENT, RAW, np.nan))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(assembling, "KEEP_BYTES", 0)
            streamed = assemble("sim", Opened(source), missing="mask")
        x, mask = streamed.part("train")[0], streamed.mask_of("train")["mask"]
        before = source.read_rows
        for start in range(0, 40, 8):
            rows, following = torch.arange(start, start + 8), torch.arange(start + 8, start + 16)
            assert (x[rows][~mask[rows]] == 0).all()
            for each in (x, mask):
                assert isinstance(each, SourceSamples | PresentSamples)
                each.ahead(following)
        x[following], mask[following]
        assert source.read_rows == before + 48

    @pytest.mark.parametrize(
        ("gaps", "message"),
        [
            ((slice(17, 299, 40), 0, 0, slice(2)), r"16 values in 8 samples.*\(0.17%\), the first in sample 17;.*missing=mask"),
            ((250, 0, 0, 0), r"1 values in 1 samples .*\(0.01%\), the first in sample 250;"),
        ],
    )
    def test_refused_with_their_share_of_all(self, monkeypatch: pytest.MonkeyPatch, gaps: Any, message: str) -> None:
        raw = RAW.copy()
        raw[gaps] = np.nan
        monkeypatch.setattr("kdiff.data.opened.CHUNK_BYTES", 50 * raw[0].nbytes)
        for large in (False, True):
            monkeypatch.setattr(assembling, "KEEP_BYTES", 0 if large else 2**28)
            with pytest.raises(ValueError, match=message):
                made(raw)

    def test_samples_without_any_value(self, monkeypatch: pytest.MonkeyPatch) -> None:
        raw = RAW.copy()
        raw[5] = np.nan
        monkeypatch.setattr(assembling, "KEEP_BYTES", 0)
        with pytest.raises(ValueError, match="1 samples have no value at all"):
            made(raw, missing="mask")

    def test_several_chunks_give_what_one_does(self, monkeypatch: pytest.MonkeyPatch) -> None:
        raw = np.where(PRESENT, RAW, np.nan)
        raw[:60, 0, 2, 2] = np.nan  # an entry that is missing in whole chunks
        monkeypatch.setattr("kdiff.data.opened.CHUNK_BYTES", 20 * raw[0].nbytes)
        assert_same(*both(raw, normalise="features", missing="mask"))


PAST = 100 + RNG.standard_normal((N, 6, 4, 4)).cumsum(1)
TEXT = RNG.standard_normal((N, 5, 3))


class TestConditions:
    @pytest.mark.parametrize("dtype", ["f4", "f8", "i4"])
    def test_fields_and_tokens_are_read_by_rows(self, dtype: str) -> None:
        conditions = {
            "past": (100 * PAST).astype(dtype),
            "slope": PAST[:, 0].astype(np.float32),
            "text": (10 * TEXT).astype(dtype),
            "params": RAW[:, 0, 0, :2],
            "kind": np.arange(N) % 3,
        }
        kinds = {"slope": "field", "text": "tokens", "kind": "class"}
        memory, streamed = both(RAW, conditions=conditions, kinds=kinds, normalise="channels")
        assert list(streamed.conditions) == list(conditions)
        for name, one in streamed.conditions.items():
            assert isinstance(one.values, SourceSamples) == (name in ("past", "slope", "text"))
            assert one.spec == memory.conditions[name].spec
            shift = memory.conditions[name].normalisation.shift
            assert torch.allclose(one.normalisation.shift, shift, rtol=1e-7)
            assert one.normalisation.shift.shape == shift.shape
        assert_same(memory, streamed)

    def test_numbers_that_float32_cannot_hold(self) -> None:
        past = (1.7e9 + PAST).astype(np.float64)
        memory, streamed = both(RAW, conditions={"past": past})
        assert streamed.conditions["past"].normalisation.double
        assert_same(memory, streamed)

    def test_rows_of_nan_are_no_condition(self) -> None:
        past = PAST.copy()
        past[::3] = np.nan
        memory, streamed = both(RAW, conditions={"past": past})
        assert_same(memory, streamed)
        assert bool(streamed.conditions["past"].values[0].isnan().all())

    @pytest.mark.parametrize(
        ("place", "value", "message"),
        [
            ((5, 0, 0, 0), np.inf, "the condition 'past' holds 1 infinite numbers"),
            ((5, 0, 0, 0), np.nan, "the condition 'past' is NaN in part of its row for 1 samples"),
            ((5, 0, 0, 0), 1e300, "the condition 'past' has values beyond float32's range"),
            (..., np.nan, "the condition 'past' is NaN for every sample; leave it out"),
        ],
    )
    def test_what_is_refused_in_memory_is_refused(
        self, monkeypatch: pytest.MonkeyPatch, place: Any, value: float, message: str
    ) -> None:
        past = PAST.copy()
        past[place] = value
        for large in (False, True):
            monkeypatch.setattr(assembling, "KEEP_BYTES", 0 if large else 2**28)
            with pytest.raises(ValueError, match=message):
                made(RAW, conditions={"past": past})

    def test_the_pass_is_kept_in_the_cache(self, monkeypatch: pytest.MonkeyPatch) -> None:
        read = []

        class Watched(Array):
            def read(self, rows: np.ndarray) -> np.ndarray:
                read.append(len(rows))
                return super().read(rows)

        def again(past: np.ndarray, identity: int) -> Dataset:
            conditions = {"past": Watched("past", past.astype(np.float32), identity), "params": Array("params", PAST[:, 0, 0])}
            return assemble("sim", Opened(Array("sim", RAW.astype(np.float32), 1), conditions=conditions))

        monkeypatch.setattr(assembling, "KEEP_BYTES", 0)
        first = again(PAST, 1)
        assert sum(read) == N
        second = again(PAST, 1)
        assert sum(read) == N
        assert second.fingerprint == first.fingerprint
        assert torch.equal(second.conditions["past"].values[:], first.conditions["past"].values[:])
        assert again(PAST[::-1], 2).fingerprint != first.fingerprint

    def test_the_past_of_windows(self, tmp_path: Path) -> None:
        with pytest.importorskip("h5py").File(tmp_path / "pde.h5", "w") as file:
            file["u"] = RAW.reshape(12, 25, 2, 4, 4).astype(np.float32)
        data = f"{tmp_path}/pde.h5(key=u, sample_axis=0, time_axis=1, window=[2, 1], normalise=channels)"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            memory = load(data)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(assembling, "KEEP_BYTES", 0)
                streamed = load(data)
        assert isinstance(streamed.conditions["past"].values, SourceSamples)
        assert_same(memory, streamed)


def said(make: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        make()
    return [str(one.message) for one in found]


def remarkable() -> dict[str, tuple[np.ndarray, str, str]]:
    """Data that are remarked on, their normalisation, and a piece of the remark."""
    plain = RNG.standard_normal((600, 4))
    images = RNG.standard_normal((600, 3, 4, 4)).astype(np.float32)
    faint = images * np.float32([1, 0.01, 1])[:, None, None]
    noisy, noisy_channel = plain.astype(np.float32), images.copy()
    for values in (noisy, noisy_channel):
        values[:, 2] = 0.1
        values[::3, 2] = np.nextafter(np.float32(0.1), np.float32(1))
    lost = plain.copy()
    lost[:, 1] = 1.7e9 + np.arange(600) * 6.0
    still = plain.astype(np.float32)
    still[:, 1] = 5
    held_out = np.flatnonzero(made(still, normalise="none").split.numpy() == 2)[:3]
    for shift in range(1, 99):  # a change that leaves the sample held out
        still[held_out[0], 1] = 5 + shift
        if made(still, normalise="none").split[held_out[0]] != 0:
            break
    outlier = images.copy()
    outlier[made(outlier, normalise="none").split.numpy().argmin()] *= 1e4
    return {
        "faint": (faint, "standard", "channel 1 has a standard deviation of 0.01"),
        "noisy": (noisy, "features", "entry 2 varies in the last digits of float32 only"),
        "noisy channel": (noisy_channel, "channels", "channel 2 varies in the last digits of float32 only"),
        "lost": (lost, "standard", "different values of entry"),
        "lost without a shift": (lost, "none", "float32 keeps"),
        "whole numbers": (2**60 + np.arange(1800).reshape(600, 3) * 7, "features", "float64 cannot hold"),
        "still": (still, "features", "entry 1 is constant in the training part (5) but not in the other parts, up to"),
        "outlier": (outlier, "standard", "of the variance of all values"),
        "outlier in channels": (outlier, "channels", "of the variance of channel"),
        "outlier in entries": (outlier, "features", "more), so the other samples hardly differ once they are normalised"),
    }


REMARKABLE = remarkable()


class TestRemarks:
    @pytest.mark.parametrize("case", REMARKABLE)
    def test_they_are_those_in_memory(self, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
        raw, normalise, expected = REMARKABLE[case]
        known = said(lambda: made(raw, normalise=normalise))
        assert len(known) == 1
        assert known[0].startswith("sim: ")
        assert expected in known[0]
        monkeypatch.setattr(assembling, "KEEP_BYTES", 0)
        opened = Opened(Array("sim", raw, case))
        for _ in range(2):  # the second time from the cache
            assert said(lambda: assemble("sim", opened, normalise=normalise)) == known

    @pytest.mark.parametrize("normalise", ["none", "standard", "channels", "features"])
    def test_ordinary_data_are_not_remarked_on(self, monkeypatch: pytest.MonkeyPatch, normalise: str) -> None:
        assert said(lambda: made(RAW, normalise=normalise)) == []
        monkeypatch.setattr(assembling, "KEEP_BYTES", 0)
        assert said(lambda: made(RAW, normalise=normalise)) == []
        assert said(lambda: made(np.where(PRESENT, RAW, np.nan), normalise=normalise, missing="mask")) == []

    def test_the_sample_is_named(self) -> None:
        raw = RAW.astype(np.float32)
        row = int((made(raw, normalise="none").split == 0).nonzero()[7])
        for value in range(10**6, 10**6 + 99):
            raw[row, 0, 2, 2] = value
            if made(raw, normalise="none").split[row] == 0:
                break
        (text,) = said(lambda: made(raw, normalise="features"))
        assert text == (
            f"sim: sample {row} alone carries 99% of the variance of entry 10, so the other samples hardly differ once they "
            "are normalised; if its values are errors or mean missing ones, repair or remove it"
        )


class TestFlip:
    @pytest.mark.parametrize("normalise", ["range", "features"])
    @pytest.mark.parametrize("dtype", ["u1", "f4"])
    def test_images_are_mirrored_as_in_memory(self, normalise: str, dtype: str) -> None:
        raw = RNG.integers(0, 256, (N, 3, 6, 6)).astype(dtype)
        options: dict[str, Any] = {"normalise": normalise, "flip": True}
        memory, streamed = both(raw, **options, **({"value_range": (0, 255)} if normalise == "range" else {}))
        assert streamed.describe()["flip"] is True
        parts = [dataset.part("train", augment=True)[0] for dataset in (memory, streamed)]
        drawn = []
        for x in parts:
            torch.manual_seed(3)
            drawn.append(x[torch.arange(20)])
        assert torch.allclose(*drawn, atol=1e-6)
        assert not torch.allclose(drawn[1], streamed.part("train")[0][:20], atol=1e-6)
        assert torch.allclose(weights(memory), weights(streamed), atol=1e-6)

    def test_what_cannot_be_mirrored_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        gaps = np.where(PRESENT, RAW, np.nan)
        for large in (False, True):
            monkeypatch.setattr(assembling, "KEEP_BYTES", 0 if large else 2**28)
            with pytest.raises(ValueError, match=r"flip mirrors images \(N, C, H, W\), found shape \(300, 32\)"):
                made(RAW.reshape(N, -1), flip=True)
            with pytest.raises(ValueError, match="but not the fields past that go with them; leave flip out"):
                made(RAW, conditions={"past": PAST}, flip=True)
            with pytest.raises(ValueError, match="but not which of their values are missing; leave flip out"):
                made(gaps, missing="mask", flip=True)
