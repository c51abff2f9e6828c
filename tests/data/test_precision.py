"""Values that float32 cannot hold survive normalisation and the way back; other data stay as float32 has always read them."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from kdiff import KDiff
from kdiff.config.training import TrainConfig
from kdiff.data import Normalisation, load, make_dataset
from kdiff.networks import MLP
from kdiff.report.run_pictures import sample_to_files
from kdiff.run.run import Run

COUNT = 600
RNG = np.random.default_rng(0)
HOUR = RNG.uniform(0, 3600, (COUNT, 2))
STEPS = np.stack([RNG.permutation(COUNT), RNG.permutation(COUNT)], 1)
PRECISE = {
    "time stamps": 1.7e9 + HOUR,
    "big-endian": (1.7e9 + HOUR).astype(">f8"),
    "longdouble": (1.7e9 + HOUR).astype(np.longdouble),
    "northings": 5.5e6 + HOUR / 900,
    "julian days": 2460000.5 + HOUR / 86400,
    "kelvin": 300 + HOUR / 3600,
    "below float32": 1e-50 * (HOUR - 1800),
    "int64": 2**40 + STEPS,
    "negative int64": -(2**50) - STEPS,
    "uint64": (2**40 + STEPS).astype(np.uint64),
    "int32": (2_000_000_000 + STEPS).astype(np.int32),
    "uint32": (4_000_000_000 + STEPS).astype(np.uint32),
}


def truth(raw: np.ndarray, split: Tensor) -> np.ndarray:
    """(raw − mean) / standard deviation by entry, in float64."""
    values = (raw - raw[0]).astype(np.float64) if raw.dtype.kind != "u" else raw.astype(np.float64) - float(raw[0, 0])
    train = values[split.numpy() == 0]
    return (values - train.mean(0)) / train.std(0)


@pytest.mark.parametrize("what", PRECISE)
def test_values_survive_normalisation_and_the_way_back(what: str) -> None:
    raw = PRECISE[what]
    for kind in ("features", "standard"):
        data = make_dataset("a", raw, normalise=kind)
        assert data.x.dtype == torch.float32
        assert [len(column.unique()) for column in data.x.T] == [len(np.unique(column)) for column in raw.T]
        if kind == "features":
            step = float(np.spacing(np.abs(raw.astype(np.float64)).max()))  # the shift is a float64
            limit = 1e-6 + step / float(data.normalisation.scale.min())
            np.testing.assert_allclose(data.x.numpy(), truth(raw, data.split), rtol=1e-6, atol=limit)
        back = data.normalisation.undo(data.x)
        assert back.dtype == torch.float64
        wide = raw.astype(np.float64)
        # float32 holds x to 2⁻²⁴ of its size, and float64 holds the raw values to 2⁻⁵³ of theirs.
        assert np.abs(back.numpy() - wide).max() <= 2.0**-22 * wide.std() + 2.0**-52 * np.abs(wide).max()
        again = Normalisation.from_description(json.loads(json.dumps(data.describe()))["normalisation"])
        assert torch.equal(again.undo(data.x), back)
        assert torch.equal(again.apply(torch.from_numpy(wide)).float(), data.x)


def test_ends_of_a_range_that_float32_would_round() -> None:
    raw = 1.7e9 + HOUR
    raw[0] = 1.7e9, 1.7e9 + 3600
    data = make_dataset("a", raw, normalise="range", value_range=(1.7e9, 1.7e9 + 3600))
    assert data.x[0].tolist() == [-1, 1]
    assert len(data.x[:, 0].unique()) == COUNT
    with pytest.raises(ValueError, match=r"value_range is \(1700000001.0, 1700003600.0\) but the values run from 1700000000.0"):
        make_dataset("a", raw, normalise="range", value_range=(1.7e9 + 1, 1.7e9 + 3600))


@pytest.mark.parametrize("channels", [True, False])
def test_images_in_coordinates(channels: bool) -> None:
    raw = 5.5e6 + RNG.uniform(-2, 2, (COUNT, 2, 3, 3))
    data = make_dataset("a", raw, normalise="channels" if channels else "standard", flip=True)
    assert len(data.x.unique()) == raw.size
    assert data.part("train", augment=True)[0][:2].dtype == torch.float32


@pytest.mark.parametrize("ending", [".npy", ".npz", ".safetensors"])
@pytest.mark.parametrize("what", ["time stamps", "int64", "uint64", "int32"])
def test_every_reader(tmp_path: Path, ending: str, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    raw, path = PRECISE[what], tmp_path / f"a{ending}"
    if ending == ".npz":
        np.savez_compressed(path, x=raw)
    elif ending == ".safetensors":
        save_file({"x": torch.from_numpy(raw)}, path)
    else:
        np.save(path, raw)
    expected = make_dataset("", raw, normalise="features")
    for mapped in (2**24, 100):
        monkeypatch.setattr("kdiff.data.arrays.MAPPED_BYTES", mapped)
        data = load(path)
        assert torch.equal(data.x, expected.x)
        assert data.fingerprint == expected.fingerprint


def test_the_type_on_disk_does_not_matter() -> None:
    one, other = (make_dataset("a", PRECISE["int64"].astype(kind), normalise="features") for kind in (np.int64, np.float64))
    assert one.fingerprint == other.fingerprint
    assert torch.equal(one.split, other.split)
    assert torch.equal(one.x, other.x)
    assert 0.5 < float((one.split == 0).double().mean()) < 0.7


@pytest.mark.filterwarnings("ignore:a. entry 0 is constant in the training part")
@pytest.mark.parametrize("kind", ["none", "range", "standard", "channels", "features"])
def test_data_that_float32_holds_are_read_as_before(kind: str) -> None:
    """Float64 with ordinary offsets, pixels as float64, and small whole numbers: bit for bit what float32 gives."""
    images = RNG.integers(0, 256, (COUNT, 1, 4, 4))
    images[:, 0, 0, 0] = 0
    part = make_dataset("a", images).split
    images[int((part == 0).nonzero()[0]), 0, 0, 0] = 1
    limits = {"value_range": (-500, 500)} if kind == "range" else {}
    for raw in (images / 255, images, 3 + 2 * RNG.standard_normal((COUNT, 1, 4, 4)), images.astype(np.int32)):
        wide, narrow = (make_dataset("a", values, normalise=kind, **limits) for values in (raw, raw.astype(np.float32)))
        assert torch.equal(wide.x, narrow.x)
        assert wide.fingerprint == narrow.fingerprint
        assert wide.normalisation.describe() == narrow.normalisation.describe()
        assert "dtype" not in wide.normalisation.describe()
        assert wide.normalisation.undo(wide.x).dtype == torch.float32


def test_float32_keeps_its_own_statistics() -> None:
    """Even far from zero: runs on such data must give the same bytes as ever."""
    raw = (1e6 + HOUR).astype(np.float32)
    data = make_dataset("a", raw, normalise="features")
    train = torch.from_numpy(raw)[data.split == 0].double()
    shift, scale = train.mean(0).float(), train.std(0, correction=0).float()
    assert torch.equal(data.x, (torch.from_numpy(raw) - shift) / scale)
    assert data.normalisation.shift.dtype == torch.float32


class TestLostAllTheSame:
    def warned(self, raw: np.ndarray, kind: str) -> list[str]:
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            make_dataset("a", raw, normalise=kind)
        return [str(each.message) for each in found]

    def test_without_a_shift_or_with_one_for_unlike_entries(self) -> None:
        mixed = np.stack([1.7e9 + HOUR[:, 0], RNG.standard_normal(COUNT)], 1)
        (text,) = self.warned(mixed, "none")
        kept = len(np.unique(mixed[:, 0].astype(np.float32)))
        assert text.startswith(f"a: float32 keeps {kept} of the {COUNT} different values of entry 0, which varies by 1.0")
        assert "around 1700001" in text
        assert "normalise='features'" in text
        assert "\n" not in text
        (text,) = self.warned(mixed, "standard")
        assert f"float32 keeps 1 of the {COUNT} different values of entry 1 (and of 1 more like it)" in text
        assert self.warned(mixed, "features") == []

    @pytest.mark.parametrize("dtype", [np.int64, np.uint64])
    def test_whole_numbers_that_float64_cannot_hold(self, dtype: type) -> None:
        raw = (2**60 + 1000 * STEPS + 1).astype(dtype)
        (text,) = self.warned(raw, "features")
        assert text == (
            f"a: float64 cannot hold {raw.size} of the {raw.size} whole numbers, which lie beyond 2^53, and rounds them to "
            "multiples of up to 256; subtract an offset from the numbers first"
        )
        assert self.warned((2**60 + 2**20 * STEPS).astype(dtype), "features") == []


def test_rounding_noise_in_float64_is_no_signal() -> None:
    raw = np.stack([1.7e9 + HOUR[:, 0], 1 / 3 + 2.0**-54 * RNG.integers(0, 9, COUNT)], 1)
    with pytest.warns(UserWarning, match=r"entry 1 varies in the last digits of float64 only .* and is only shifted; if"):
        data = make_dataset("a", raw, normalise="features")
    assert data.normalisation.double
    assert data.normalisation.scale[1] == 1
    assert data.x[:, 1].abs().max() < 1e-15
    # Whole numbers have no rounding errors.
    whole = make_dataset("a", 2**52 + STEPS % 50, normalise="features")
    assert whole.x.std() > 0.9


class NoDouble(Tensor):
    """A tensor on a device without float64: whatever would hold float64 there raises, as on such devices."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is Tensor.cpu:
            return args[0].as_subclass(Tensor)
        found = super().__torch_function__(func, types, args, kwargs or {})
        if isinstance(found, Tensor) and found.dtype == torch.float64:
            raise TypeError("this device does not support float64")
        return found


def test_a_device_without_float64() -> None:
    raw = 1.7e9 + HOUR
    data = make_dataset("a", raw, normalise="features")
    on_device = data.x.as_subclass(NoDouble)
    with pytest.raises(TypeError, match="does not support float64"):
        on_device.double()
    back = data.normalisation.undo(on_device)
    assert type(back) is Tensor
    assert torch.equal(back, data.normalisation.undo(data.x))
    whole = torch.from_numpy(PRECISE["int64"]).as_subclass(NoDouble)
    other = make_dataset("a", whole, normalise="features")
    assert torch.equal(other.x, make_dataset("a", PRECISE["int64"], normalise="features").x)
    assert other.normalisation.apply(whole).dtype == torch.float32
    for kind in ("features", "standard"):
        narrow = Normalisation.fit(kind, data.x.as_subclass(NoDouble))
        assert torch.equal(narrow.shift, Normalisation.fit(kind, data.x).shift)
        assert narrow.apply(on_device).dtype == narrow.undo(on_device).dtype == torch.float32


def test_files_of_samples_hold_float64(tmp_path: Path) -> None:
    data = make_dataset("a", 1.7e9 + HOUR, normalise="features")
    facts = {**data.describe(), "class_counts": None}
    config = TrainConfig(data="spiral")
    run = Run(tmp_path, config, json.loads(json.dumps(facts)), KDiff(MLP((2,), width=8, depth=1)), 1, "raw")
    files = sample_to_files(run, 50, 0, None, steps=2)
    x = load_file(files[1])["x"]
    assert x.dtype == torch.float64
    assert len(x[:, 0].unique()) == 50
    assert (x.mean(0) - 1.7e9).abs().max() < 1e5
    narrow = Run(
        tmp_path,
        config,
        {**facts, "normalisation": Normalisation.none().describe()},
        KDiff(MLP((2,), width=8, depth=1)),
        1,
        "raw",
    )
    assert load_file(sample_to_files(narrow, 50, 0, tmp_path / "b", steps=2)[1])["x"].dtype == torch.float32


def test_a_description_with_another_type_is_refused() -> None:
    with pytest.raises(ValueError, match=r"dtype of a normalisation is 'float16'; expected float64"):
        Normalisation.from_description({"kind": "standard", "shift": 0.0, "scale": 1.0, "dtype": "float16"})


@pytest.mark.parametrize(("mean", "spread"), [(290.0, 10.0), (20.0, 1.0), (0.0, 1.0), (-100.0, 1.0)])
def test_usual_data_are_read_as_float32_always_were(mean: float, spread: float) -> None:
    """Their parts and their fingerprint are those of older runs."""
    raw = np.random.default_rng(0).normal(mean, spread, (COUNT, 3))
    double, single = (
        make_dataset("a", raw, normalise="features"),
        make_dataset("a", raw.astype(np.float32), normalise="features"),
    )
    assert not double.normalisation.double
    assert torch.equal(double.x, single.x)
    assert double.fingerprint == single.fingerprint
