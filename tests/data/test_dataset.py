from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch

from kdiff.data import Dataset, Normalisation, make_dataset
from kdiff.data.dataset import PARTS


def samples(count: int = 400, shape: tuple[int, ...] = (5,), seed: int = 0) -> np.ndarray:
    return (3 + 2 * np.random.default_rng(seed).standard_normal((count, *shape))).astype(np.float32)


def part_of(data: Dataset) -> dict[bytes, int]:
    """The part of every sample, by the sample's bytes."""
    return {row.numpy().tobytes(): int(part) for row, part in zip(data.x, data.split)}


class TestSplit:
    def test_parts_cover_the_data_once_in_the_promised_shares(self) -> None:
        data = make_dataset("a", samples(5000), np.arange(5000) % 7)
        counts = data.describe()["counts"]
        assert sum(counts.values()) == 5000
        # Four standard deviations of a binomial law of 5000.
        for part, share in zip(PARTS, (0.6, 0.2, 0.2)):
            assert abs(counts[part] - 5000 * share) < 4 * (5000 * share * (1 - share)) ** 0.5
            x, y = data.part(part)
            assert y is not None
            assert len(x) == len(y) == counts[part]

    def test_known_sample_keeps_its_part_for_ever(self) -> None:
        # Worked out by hashlib alone: a changed rule would mix old runs' parts.
        rows = np.arange(60, dtype=np.float32).reshape(20, 3)
        expected = "01200020000202001011"
        assert "".join(str(int(p)) for p in make_dataset("a", rows).split) == expected

    def test_order_and_other_samples_do_not_matter(self) -> None:
        raw = samples(300)
        order = np.random.default_rng(1).permutation(300)
        whole, shuffled, some = make_dataset("a", raw), make_dataset("b", raw[order]), make_dataset("c", raw[100:250])
        assert torch.equal(whole.split[order], shuffled.split)
        assert torch.equal(whole.split[100:250], some.split)
        assert part_of(make_dataset("d", np.concatenate([samples(50, seed=9), raw])))[raw[7].tobytes()] == whole.split[7]

    def test_labels_dtype_layout_and_sign_of_zero_do_not_matter(self) -> None:
        raw = np.random.default_rng(0).integers(0, 200, (300, 2, 3)).astype(np.uint8)
        reference = make_dataset("a", raw).split
        fortran = np.asfortranarray(raw.astype(np.float64))
        for same in (raw.astype(np.int64), raw.astype(np.float16), fortran, torch.from_numpy(raw).to(torch.bfloat16).float()):
            assert torch.equal(make_dataset("a", same, np.arange(300) % 3).split, reference)
        zeros = raw.astype(np.float32)
        assert torch.equal(make_dataset("a", np.where(zeros == 0, -0.0, zeros)).split, reference)

    def test_duplicates_share_a_part_whatever_their_labels(self) -> None:
        raw = samples(100)
        data = make_dataset("a", np.concatenate([raw, raw, raw]), np.arange(300) % 4)
        assert torch.equal(data.split[:100], data.split[100:200])
        assert torch.equal(data.split[:100], data.split[200:])
        held_out = {row.numpy().tobytes() for row in data.part("heldout")[0]}
        assert held_out.isdisjoint(row.numpy().tobytes() for row in data.part("train")[0])

    def test_an_empty_part_is_refused(self) -> None:
        with pytest.raises(ValueError, match=r"a: a part of the data is empty.*1 of the 50 samples are distinct"):
            make_dataset("a", np.ones((50, 3)))

    def test_unknown_part(self) -> None:
        with pytest.raises(ValueError, match=r"train, classifier, heldout.*'test'"):
            make_dataset("a", samples()).part("test")


class TestNormalisation:
    @pytest.mark.parametrize("kind", ["none", "standard", "features"])
    @pytest.mark.parametrize("shape", [(5,), (3, 4, 4)])
    def test_undo_inverts_apply_and_the_description_holds_it_all(self, kind: str, shape: tuple[int, ...]) -> None:
        raw = samples(shape=shape)
        data = make_dataset("a", raw, normalise=kind)
        assert data.shape == shape
        assert data.dimension == np.prod(shape)
        torch.testing.assert_close(data.normalisation.undo(data.x), torch.from_numpy(raw), rtol=1e-5, atol=1e-5)
        again = Normalisation.from_description(json.loads(json.dumps(data.describe()))["normalisation"])
        assert again.kind == kind
        assert torch.equal(again.apply(torch.from_numpy(raw)), data.x)

    def test_statistics_come_from_the_training_part_alone(self) -> None:
        raw = samples(600)
        outside = make_dataset("a", raw).split.numpy() > 0
        standard = make_dataset("a", raw, normalise="standard")
        features = make_dataset("a", raw, normalise="features")
        assert standard.describe()["mean"] == pytest.approx(0, abs=1e-6)
        assert standard.describe()["std"] == pytest.approx(1, abs=1e-6)
        train = features.part("train")[0]
        torch.testing.assert_close(train.mean(0), torch.zeros(5), atol=1e-6, rtol=0)
        torch.testing.assert_close(train.var(0, correction=0), torch.ones(5), atol=1e-5, rtol=0)
        assert features.describe()["total_variance"] == pytest.approx(5, abs=1e-4)
        # Other samples outside of the training part leave the normalisation as it was, to the last bit.
        other = samples(2000, seed=3) * 50
        other = other[make_dataset("b", other).split.numpy() > 0]
        changed = np.concatenate([raw[~outside], other])
        for kind, data in (("standard", standard), ("features", features)):
            assert make_dataset("b", changed, normalise=kind).normalisation.describe() == data.normalisation.describe()

    def test_channels_have_mean_zero_and_variance_one_over_the_training_part(self) -> None:
        scale = np.array([0.1, 3.0, 50.0]).reshape(3, 1, 1)
        raw = samples(600, shape=(3, 4, 4)) * scale + scale
        raw[:, 2] = 0.1
        data = make_dataset("a", raw, normalise="channels")
        train = data.part("train")[0]
        torch.testing.assert_close(train.mean((0, 2, 3)), torch.zeros(3), atol=1e-6, rtol=0)
        torch.testing.assert_close(train.var((0, 2, 3), correction=0), torch.tensor([1.0, 1.0, 0.0]), atol=1e-5, rtol=0)
        assert data.normalisation.shift.shape == (3, 1, 1)
        assert data.normalisation.scale[2] == 1  # a constant channel is only shifted
        torch.testing.assert_close(data.normalisation.undo(data.x), torch.from_numpy(raw).float(), rtol=1e-5, atol=1e-5)
        again = Normalisation.from_description(json.loads(json.dumps(data.describe()))["normalisation"])
        assert torch.equal(again.apply(torch.from_numpy(raw).float()), data.x)

    def test_channels_need_channels(self) -> None:
        with pytest.raises(
            ValueError, match=r"'channels' is for samples \(C, H, W\) or similar, found shape \(5,\); use 'features'"
        ):
            make_dataset("a", samples(), normalise="channels")

    def test_range_maps_its_ends_to_minus_one_and_one(self) -> None:
        raw = np.random.default_rng(0).integers(0, 256, (100, 1, 4, 4)).astype(np.uint8)
        raw[0, 0, 0, :2] = 0, 255
        data = make_dataset("a", raw, normalise="range", value_range=(0, 255))
        assert data.x[0, 0, 0, :2].tolist() == [-1, 1]
        assert data.normalisation.describe() == {"kind": "range", "shift": 127.5, "scale": 127.5}
        assert torch.equal(data.normalisation.undo(data.x).round().byte(), torch.from_numpy(raw))

    def test_range_limits_that_float32_rounds(self) -> None:
        raw = np.random.default_rng(0).uniform(0, 0.1, (100, 2))
        raw[0] = 0.1
        assert make_dataset("a", raw, normalise="range", value_range=(0, 0.1)).x.max() <= 1 + 1e-6

    def test_constant_features_are_only_shifted(self) -> None:
        raw = samples()
        # 0.1 is no binary number: its computed standard deviation is 1e-17, not 0.
        raw[:, 2] = 0.1
        data = make_dataset("a", raw, normalise="features")
        assert data.normalisation.scale[2] == 1
        torch.testing.assert_close(data.x[:, 2], torch.zeros(400), atol=1e-7, rtol=0)

    def test_default_is_the_raw_data_in_float32(self) -> None:
        raw = samples().astype(np.float64)
        assert torch.equal(make_dataset("a", raw).x, torch.from_numpy(raw).float())

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"normalise": "whiten"}, "none, range, standard, channels, features, found 'whiten'"),
            ({"normalise": "range"}, "value_range=None"),
            ({"normalise": "standard", "value_range": (0, 1)}, "belongs to normalise='range'"),
            ({"normalise": "range", "value_range": (1, 1)}, r"lo < hi, found \(1.0, 1.0\)"),
            ({"normalise": "range", "value_range": (0, float("inf"))}, "finite"),
            ({"normalise": "range", "value_range": 255}, r"two numbers \(lo, hi\), found 255"),
            ({"normalise": "range", "value_range": (0, 1)}, r"value_range is \(0.0, 1.0\) but the values run from -"),
        ],
    )
    def test_refusals(self, options: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make_dataset("a", samples(), **options)

    @pytest.mark.parametrize(
        ("description", "message"),
        [
            ({"kind": "standard", "shift": 0.0}, "missing: scale"),
            ({"kind": "standard", "shift": 0.0, "scale": 0.0}, "positive scale"),
            ({"kind": "standard", "shift": "zero", "scale": 1.0}, "numbers"),
            ({"kind": "features", "shift": [0.0, 1.0], "scale": [1.0]}, "equal shapes"),
            ({"kind": "other", "shift": 0.0, "scale": 1.0}, "found 'other'"),
        ],
    )
    def test_bad_descriptions(self, description: dict, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            Normalisation.from_description(description)

    def test_data_without_variation_in_training_cannot_be_standardised(self) -> None:
        raw = samples(400)
        raw[make_dataset("a", raw).split.numpy() == 0] = np.float32(2.5)
        constant = np.full((1, 5), 2.5, np.float32)
        others = raw[(raw != 2.5).any(1)]
        # The constant sample itself must land in the training part for this to be a test.
        assert make_dataset("a", np.concatenate([constant, samples()])).split[0] == 0
        with pytest.raises(ValueError, match=r"needs values that vary, found 2.5"):
            make_dataset("a", np.concatenate([constant, others]), normalise="standard")


class TestRefusals:
    @pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
    def test_values_not_finite_are_counted_and_located(self, bad: float) -> None:
        raw = samples().astype(np.float64)
        raw[17, 3] = raw[30, :2] = bad
        with pytest.raises(ValueError, match=r"a: 3 values in 2 samples are NaN, infinite .* first in sample 17"):
            make_dataset("a", raw)

    @pytest.mark.parametrize(
        ("raw", "message"),
        [
            (samples() > 0, "found bool"),
            (samples() * 1j, "found complex64"),
            (samples().astype(object), "found object; stack"),
            (samples().astype(str), "found <U"),
            (torch.from_numpy(samples() > 0), "found bool"),
            (samples()[:, 0], r"shape \(N, D\).*found \(400,\)"),
            (np.ones(()), r"found \(\)"),
            (np.zeros((20, 0)), r"none empty; found \(20, 0\)"),
            (np.zeros((0, 4)), "at least 10 samples .* found 0"),
            (samples(9), "at least 10 samples .* found 9"),
        ],
    )
    def test_dtype_rank_and_size(self, raw: np.ndarray, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make_dataset("a", raw)

    def test_no_array_at_all(self) -> None:
        with pytest.raises(TypeError, match=r"the data must be a NumPy array or a torch tensor, found list"):
            make_dataset("a", samples().tolist())  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"labels must be .* found list"):
            make_dataset("a", samples(), [0] * 400)  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        ("change", "num_classes", "message"),
        [
            (lambda y: y - 1, None, "must lie in 0 … 2 (num_classes=3), found -1 … 2, the first one out of range in sample 0"),
            (lambda y: y, 3, "must lie in 0 … 2 (num_classes=3), found 0 … 3, the first one out of range in sample 3"),
            (lambda y: 0 * y - 5, None, "must lie in 0 … 0 (num_classes=1), found -5 … -5"),
            (lambda y: y.astype(np.float32), None, "labels must be integers, found float32"),
            (lambda y: y > 0, None, "labels must be integers, found bool"),
            (lambda y: y[:, None], None, "labels must have shape (400,), one per sample; found (400, 1)"),
            (lambda y: y[:-1], None, "labels must have shape (400,), one per sample; found (399,)"),
            (lambda y: y + 10**6, None, "labels run to 1000003 for 400 samples; renumber them from 0"),
            (lambda y: y, 0, "num_classes must be at least 1"),
            (lambda y: None, 4, "num_classes=4 was given without labels"),
        ],
    )
    def test_labels(self, change, num_classes: int | None, message: str) -> None:
        with pytest.raises(ValueError, match=re.escape(message)):
            make_dataset("a", samples(), change(np.arange(400) % 4), num_classes=num_classes)


class TestDescription:
    def test_labels_and_classes(self) -> None:
        labels = np.arange(400, dtype=np.uint8) % 4
        data = make_dataset("a", samples(), labels)
        assert data.y is not None
        assert data.y.dtype == torch.int64
        assert data.y.tolist() == labels.tolist()
        assert data.num_classes == 4
        assert make_dataset("a", samples(), labels, num_classes=10).num_classes == 10
        unlabelled = make_dataset("a", samples())
        assert (unlabelled.y, unlabelled.num_classes, unlabelled.part("train")[1]) == (None, 0, None)

    def test_fingerprint_tells_values_shape_order_and_labels_apart(self) -> None:
        raw, labels = samples(shape=(4, 2)), np.arange(400) % 4
        variants = [
            make_dataset("a", raw),
            make_dataset("a", raw, labels),
            make_dataset("a", raw, labels[::-1].copy()),
            make_dataset("a", raw[::-1].copy()),
            make_dataset("a", raw.reshape(400, 2, 4)),
            make_dataset("a", raw + np.float32(1e-6)),
        ]
        prints = {data.fingerprint for data in variants}
        assert len(prints) == len(variants)
        assert all(re.fullmatch("[0-9a-f]{16}", fingerprint) for fingerprint in prints)
        same = make_dataset("other name", torch.from_numpy(raw.astype(np.float64)), labels, normalise="standard")
        assert same.fingerprint == variants[1].fingerprint

    def test_total_variance_is_the_trace_of_the_covariance(self) -> None:
        data = make_dataset("a", samples(shape=(2, 3)), normalise="standard")
        train = data.part("train")[0].flatten(1).double()
        assert data.describe()["total_variance"] == pytest.approx(float(torch.cov(train.T, correction=0).trace()))
        assert data.describe()["max"] == float(train.max())
