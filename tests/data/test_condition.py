from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from kdiff.data import Dataset, make_dataset

N = 400
DRAWN = np.random.default_rng(0)
FIELDS = DRAWN.standard_normal((N, 2, 6, 6)).astype(np.float32)


def data(raw: np.ndarray = FIELDS, kinds: dict[str, str] | None = None, **conditions: Any) -> Dataset:
    return make_dataset("sim", raw, conditions=conditions, condition_kinds=kinds)


def undone(dataset: Dataset, name: str) -> np.ndarray:
    condition = dataset.conditions[name]
    return condition.normalisation.undo(condition.values[:]).numpy()


def test_without_conditions_nothing_changes() -> None:
    plain, with_some = make_dataset("sim", FIELDS), data(params=DRAWN.random((N, 2)))
    assert "conditions" not in plain.describe()
    assert plain.conditions == {}
    assert plain.fingerprint == make_dataset("sim", FIELDS, conditions={}).fingerprint
    assert torch.equal(plain.split, with_some.split)
    assert torch.equal(plain.x[:], with_some.x[:])


def test_the_fingerprint_covers_values_names_and_kinds_but_not_the_type_in_the_file() -> None:
    params = DRAWN.integers(1, 90, (N, 1)).astype(np.float32)
    first = data(params=params).fingerprint
    assert first != make_dataset("sim", FIELDS).fingerprint
    assert (
        first == data(params=params[:, 0].astype(np.float64)).fingerprint == data(params=params[:, 0].astype(int)).fingerprint
    )
    changed = params.copy()
    changed[17] += 1
    others = (
        data(params=changed),
        data(other=params),
        data(FIELDS, {"params": "class"}, params=params),
    )
    assert len({first, *(other.fingerprint for other in others)}) == 4
    both = data(params=params, other=-params), data(other=-params, params=params)
    assert both[0].fingerprint == both[1].fingerprint


@pytest.mark.parametrize("shape", [(N,), (N, 1), (N, 3)])
def test_a_vector_is_normalised_by_the_training_part(shape: tuple[int, ...]) -> None:
    raw = 5 + 3 * DRAWN.standard_normal(shape)
    dataset = data(params=raw)
    spec = dataset.conditions["params"].spec
    assert (spec.kind, spec.shape, spec.num_classes) == ("vector", (raw.size // N,), 0)
    train = dataset.conditions_of("train")["params"][:]
    assert train.dtype == torch.float32
    assert torch.allclose(train.mean(0), torch.zeros(spec.shape), atol=1e-5)
    assert torch.allclose(train.std(0, correction=0), torch.ones(spec.shape), atol=1e-5)
    assert np.allclose(undone(dataset, "params"), raw.reshape(N, -1), atol=1e-5)
    assert dataset.describe()["conditions"]["params"]["shape"] == list(spec.shape)


def test_rows_follow_the_order_of_each_part() -> None:
    numbers = np.arange(N, dtype=np.float64)
    raw = FIELDS.copy()
    raw[:, 0, 0, 0] = numbers
    dataset = make_dataset("sim", raw, np.arange(N) % 3, conditions={"number": numbers})
    for part in ("train", "classifier", "heldout", "all"):
        x, y = dataset.part(part)
        found = dataset.conditions_of(part)
        assert list(found) == ["y", "number"]
        own = dataset.conditions["number"].normalisation.undo(found["number"][:])[:, 0]
        assert torch.allclose(own.float(), x[:][:, 0, 0, 0], atol=1e-3)
        assert y is not None
        assert torch.equal(found["y"][:], y)


def test_time_stamps_keep_their_differences() -> None:
    stamps = 1.7e9 + np.arange(N) * 0.01
    dataset = data(time=stamps)
    assert dataset.conditions["time"].normalisation.double
    assert dataset.conditions["time"].values[:].unique().numel() == N
    assert np.allclose(undone(dataset, "time")[:, 0], stamps, atol=1e-5)


def test_a_field_is_normalised_by_channel_and_may_have_another_grid() -> None:
    raw = np.array([10.0, -3])[None, :, None, None] + np.array([2.0, 50])[None, :, None, None] * DRAWN.random((N, 2, 3, 3))
    dataset = data(past=raw)
    assert dataset.conditions["past"].spec.kind == "field"
    train = dataset.conditions_of("train")["past"][:]
    assert torch.allclose(train.mean((0, 2, 3)), torch.zeros(2), atol=1e-5)
    assert torch.allclose(train.std((0, 2, 3), correction=0), torch.ones(2), atol=1e-5)
    assert data(topography=DRAWN.random((N, 6, 6))).conditions["topography"].spec.shape == (1, 6, 6)


def test_tokens_share_statistics_over_their_positions() -> None:
    raw = 4 + DRAWN.standard_normal((N, 5, 3)) * np.array([1.0, 10, 100])
    dataset = data(kinds={"text": "tokens"}, text=raw)
    train = dataset.conditions_of("train")["text"][:]
    assert train.shape[1:] == (5, 3)
    assert torch.allclose(train.mean((0, 1)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(train.std((0, 1), correction=0), torch.ones(3), atol=1e-5)
    assert np.allclose(undone(dataset, "text"), raw, atol=1e-3)


@pytest.mark.parametrize("dtype", [np.int32, np.float64])
def test_classes_are_whole_numbers_and_nan_is_none(dtype: Any) -> None:
    raw = (np.arange(N) % 4).astype(dtype)
    if dtype is np.float64:
        raw[:7] = np.nan
    condition = data(kinds={"kind": "class"}, kind=raw).conditions["kind"]
    assert (condition.spec.kind, condition.spec.num_classes) == ("class", 4)
    expected = np.nan_to_num(raw, nan=4).astype(np.int64)
    assert torch.equal(condition.values[:], torch.from_numpy(expected))


def test_whole_numbers_that_look_like_classes_are_a_vector_with_a_remark() -> None:
    with pytest.warns(UserWarning, match=r"'kind' holds the whole numbers 0 … 3 .*condition=\{kind: class\}"):
        assert data(kind=np.arange(N) % 4).conditions["kind"].spec.kind == "vector"
    assert data(kind=np.arange(N) % 4 == 0).conditions["kind"].spec.kind == "class"


def test_rows_of_nan_mean_none_and_do_not_enter_the_statistics() -> None:
    raw = 7 + DRAWN.standard_normal((N, 2))
    raw[::3] = np.nan
    dataset = data(params=raw)
    values = dataset.conditions["params"].values[:]
    assert torch.equal(values.isnan().all(1), torch.arange(N) % 3 == 0)
    train = dataset.conditions_of("train")["params"][:]
    assert abs(float(train.nanmean())) < 1e-5


def test_a_constant_number_is_only_shifted() -> None:
    raw = np.stack([np.full(N, 9.0), DRAWN.random(N)], 1)
    values = data(params=raw).conditions["params"].values[:]
    assert (values[:, 0] == 0).all()
    with pytest.warns(UserWarning, match="'params' is the same for every sample"):
        data(params=np.full(N, 9.0))


PARTLY, INFINITE = np.ones((N, 2)), np.ones(N)
PARTLY[:3, 1] = np.nan
INFINITE[5] = np.inf


@pytest.mark.parametrize(
    ("kinds", "given", "message"),
    [
        ({}, {"params": np.ones(7)}, r"'params' has shape \(7,\); expected 400 rows"),
        ({}, {"y": np.ones(N)}, r"cannot be called 'y'"),
        ({}, {"a b": np.ones(N)}, r"cannot be called 'a b'"),
        ({"other": "vector"}, {"params": np.ones(N)}, r"a kind is given for the condition 'other'"),
        ({"params": "scalar"}, {"params": np.ones(N)}, r"the kind 'scalar'; expected one of class, vector, field, tokens"),
        ({"params": "tokens"}, {"params": np.ones((N, 2))}, r"expected \(N, length, q\)"),
        ({"params": "class"}, {"params": np.full(N, 0.5)}, r"expected whole numbers from 0"),
        ({"params": "class"}, {"params": np.full(N, -1)}, r"expected whole numbers from 0"),
        ({}, {"params": PARTLY}, r"NaN in part of its row for 3 samples"),
        ({}, {"params": np.full(N, np.nan)}, r"NaN for every sample; leave it out"),
        ({}, {"params": INFINITE}, r"1 infinite numbers"),
        ({}, {"params": np.array(["a", "b"] * (N // 2))}, r"expected numbers, so convert texts"),
        ({}, {"params": np.ones((N, 5, 3))}, r"condition=\{params: tokens\}"),
    ],
)
def test_what_does_not_fit_is_refused(kinds: dict[str, str], given: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        data(kinds=kinds, **given)


def test_a_mirrored_image_would_not_fit_its_field() -> None:
    with pytest.raises(ValueError, match="flip mirrors samples, but not the fields past"):
        make_dataset("sim", FIELDS, flip=True, conditions={"past": FIELDS})
