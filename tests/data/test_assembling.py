from __future__ import annotations

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
from kdiff.data.streamed import SourceSamples
from kdiff.networks import MLP
from kdiff.training.loop import fit
from kdiff.training.objective import DiffusionObjective

N = 300
DRAWN = np.random.default_rng(0)
RAW = 3 + 2 * DRAWN.standard_normal((N, 2, 4, 4))
PARAMS = DRAWN.random((N, 2))


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembling, "KEEP_BYTES", 0)


def opened(raw: np.ndarray = RAW, **given: Any) -> Opened:
    return Opened(Array("sim", raw), **given)


def both(monkeypatch: pytest.MonkeyPatch, raw: np.ndarray, **options: Any) -> tuple[Dataset, Dataset]:
    """The same data in memory and streamed."""
    memory = assemble("sim", opened(raw, conditions={"params": Array("params", PARAMS)}), **options)
    monkeypatch.setattr(assembling, "KEEP_BYTES", 0)
    return memory, assemble("sim", opened(raw, conditions={"params": Array("params", PARAMS)}), **options)


@pytest.mark.parametrize("normalise", ["none", "standard", "channels", "features"])
@pytest.mark.parametrize("dtype", ["f4", "f8", ">f4", "f2", "i2", "u1"])
def test_streamed_data_are_those_in_memory(monkeypatch: pytest.MonkeyPatch, normalise: str, dtype: str) -> None:
    memory, streamed = both(monkeypatch, (20 * RAW).clip(0).astype(dtype), normalise=normalise)
    assert isinstance(streamed.x, SourceSamples)
    assert streamed.fingerprint == memory.fingerprint
    assert torch.equal(streamed.split, memory.split)
    assert torch.allclose(streamed.x[:], memory.x[:], atol=1e-6)
    for part in ("train", "heldout", "all"):
        x, y = streamed.part(part)
        expected = memory.part(part)[0][:]
        assert y is None
        assert torch.allclose(x[:], expected, atol=1e-6)
        assert torch.equal(streamed.conditions_of(part)["params"][:], memory.conditions_of(part)["params"][:])
    found, known = streamed.describe(), memory.describe()
    for key in ("min", "max", "mean", "std", "total_variance"):
        assert found[key] == pytest.approx(known[key], rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("dtype", ["f8", "i8"])
def test_large_numbers_are_normalised_in_float64(monkeypatch: pytest.MonkeyPatch, dtype: str) -> None:
    raw = (1.7e9 + np.cumsum(DRAWN.integers(1, 9, (N, 3)), 0)).astype(dtype)
    memory, streamed = both(monkeypatch, raw, normalise="features")
    assert memory.normalisation.double
    assert streamed.normalisation.double
    assert streamed.fingerprint == memory.fingerprint
    assert torch.equal(streamed.split, memory.split)
    assert torch.allclose(streamed.x[:], memory.x[:], atol=1e-6)


def test_rows_come_in_the_order_that_is_asked_for(streams: None) -> None:
    raw = np.arange(N, dtype=np.float32)[:, None] * np.ones((1, 3), np.float32)
    x = assemble("sim", opened(raw), normalise="none").x
    for rows in (torch.tensor([7, 3, 299, 3, 0]), torch.arange(N) % 7 == 0, torch.tensor([5])):
        expected = torch.from_numpy(raw)[rows]
        assert torch.equal(x[rows], expected)
        x.ahead(rows)  # type: ignore[union-attr]
        assert torch.equal(x[rows], expected)
        x.ahead(torch.tensor([1, 2]))  # type: ignore[union-attr]
        assert torch.equal(x[rows], expected)
    assert torch.equal(x[4], torch.from_numpy(raw)[4])
    assert torch.equal(x[10:14], torch.from_numpy(raw)[10:14])
    with pytest.raises(IndexError, match="300"):
        x[torch.tensor([N])]


def test_nan_is_refused_with_its_share_and_with_what_to_type(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = RAW.copy()
    raw[17, 0, 0, :2] = np.nan
    with pytest.raises(ValueError, match=r"2 values in 1 samples are NaN.*\(0.02%\), the first in sample 17.*missing=mask"):
        assemble("sim", opened(raw))
    monkeypatch.setattr(assembling, "KEEP_BYTES", 0)
    with pytest.raises(ValueError, match=r"2 values in 1 samples are NaN.*the first in sample 17.*missing=mask"):
        assemble("sim", opened(raw))


def test_channels_last_are_transposed(monkeypatch: pytest.MonkeyPatch) -> None:
    last = np.ascontiguousarray(np.moveaxis(RAW, 1, -1))
    assert assemble("sim", opened(last), layout="channels_last").fingerprint == assemble("sim", opened()).fingerprint
    with pytest.raises(ValueError, match="layout must be one of"):
        assemble("sim", opened(), layout="last")


def test_remarks_of_the_format_are_said(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="3 files are left out"):
        assemble("sim", opened(remarks=["sim: 3 files are left out"]))


def test_a_file_is_loaded_by_its_ending_with_the_options_of_both(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "sim.h5", "w") as file:
        file["fields"], file["params"] = RAW, PARAMS
    dataset = load(f"{tmp_path}/sim.h5(key=fields, condition=params, normalise=channels)")
    assert dataset.name == "sim"
    assert dataset.shape == (2, 4, 4)
    assert dataset.normalisation.kind == "channels"
    assert dataset.conditions["params"].spec.shape == (2,)
    with pytest.raises(ValueError, match="no option conditions"):
        load(f"{tmp_path}/sim.h5(conditions=params)")


def test_parts_of_streamed_data_are_not_read_when_they_are_cut(streams: None) -> None:
    class Watched(Array):
        read_rows = 0

        def read(self, rows: np.ndarray) -> np.ndarray:
            self.read_rows += len(rows)
            return super().read(rows)

    source = Watched("sim", RAW.astype(np.float32))
    dataset = assemble("sim", Opened(source))
    before = source.read_rows
    x = dataset.part("train", augment=True)[0]
    assert isinstance(x, SourceSamples)
    assert source.read_rows == before
    x[torch.tensor([1, 2])]
    assert source.read_rows == before + 2


def test_the_same_weights_from_disk_and_from_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    memory, streamed = both(monkeypatch, RAW.astype(np.float32), normalise="none")
    config = LoopConfig(steps=5, batch_size=32, accumulate=2, warmup=0, log_every=5)
    weights = []
    for dataset in (memory, streamed):
        torch.manual_seed(0)
        model = KDiff(MLP((2, 4, 4), width=8, depth=1))
        fit(DiffusionObjective(model), dataset.part("train", augment=True)[0], None, config)
        weights.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(*weights)
