from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

from kdiff.theory import intrinsic_dimension as dimensions
from kdiff.theory.estimators import energy_dimension, levina_bickel, local_levina_bickel, participation_ratio, two_nn
from kdiff.theory.intrinsic_dimension import DimensionEstimate, estimate_dimensions
from kdiff.theory.nearest import distinct_rows, nearest_neighbours, neighbour_distances
from kdiff.theory.spectra import local_spectra, spectrum
from kdiff.theory.tokens import patches, random_patches


class Lazy:
    """Samples of which nothing but `len` and slices can be had."""

    def __init__(self, values: np.ndarray) -> None:
        self._values, self.longest = values, 0

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, rows: slice) -> torch.Tensor:
        assert isinstance(rows, slice)
        self.longest = max(self.longest, len(self._values[rows]))
        return torch.from_numpy(self._values[rows])


def rotation(size: int, seed: int = 0) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))[0]


def subspace(count: int, d: int, ambient: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, d)) @ rotation(ambient)[:d]


def sphere(count: int, d: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((count, d + 1))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def torus(count: int, d: int, seed: int = 0) -> np.ndarray:
    """Flat and without an edge, so that the laws of TwoNN and MLE hold: a product of d circles."""
    angle = 2 * np.pi * np.random.default_rng(seed).random((count, d))
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


def roll(count: int) -> np.ndarray:
    """A rolled-up sheet, uniform on it but for the spiral's pace."""
    u, height = np.random.default_rng(0).random((2, count))
    angle = 1.5 * np.pi * (1 + 2 * u)
    return np.stack([angle * np.cos(angle), 21 * height, angle * np.sin(angle)], axis=1)


def by_name(estimates: list[DimensionEstimate]) -> dict[tuple[str, str], DimensionEstimate]:
    return {(each.method, each.scope): each for each in estimates}


def brute(x: np.ndarray, k: int) -> np.ndarray:
    distances = np.linalg.norm(x[:, None] - x[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    return np.sort(distances, axis=1)[:, :k]


# Neighbours


@pytest.mark.parametrize("ambient", [1, 3, 40])
@pytest.mark.parametrize("k", [1, 7, 200, 299])
def test_neighbours_are_those_of_all_pairs(ambient: int, k: int) -> None:
    x = np.random.default_rng(0).standard_normal((300, ambient))
    distances, numbers = nearest_neighbours(x, k)
    np.testing.assert_allclose(distances, brute(x, k), rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(x[:, None] - x[numbers], axis=2), distances, rtol=1e-12)
    assert (numbers != np.arange(300)[:, None]).all()


def test_neighbours_survive_cancellation() -> None:
    """Two far clusters: |a|² + |b|² − 2 a·b in float32 cannot see distances of 10⁻³ beside norms of 10⁴."""
    x = 1e-3 * np.random.default_rng(0).standard_normal((400, 5)) + np.where(np.arange(400) % 2, 1e4, -1e4)[:, None]
    np.testing.assert_allclose(neighbour_distances(x, 9), brute(x, 9), rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_chunks_and_centres_do_not_change_neighbours(dtype: type, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(0).standard_normal((301, 20)).astype(dtype)
    whole = neighbour_distances(x, 10)
    np.testing.assert_allclose(neighbour_distances(x, 10, np.array([7, 300, 7])), whole[[7, 300, 7]], rtol=1e-12)
    monkeypatch.setattr("kdiff.theory.nearest.CHUNK_BYTES", 8 * 20 * 16)  # 16 rows of x at a time
    for chunk in (1, 64, 1000):
        np.testing.assert_allclose(neighbour_distances(x, 10, chunk=chunk), whole, rtol=1e-12)


def test_equal_rows_are_neighbours_at_distance_zero_and_can_be_dropped() -> None:
    x = np.random.default_rng(0).standard_normal((50, 4))
    twice = np.concatenate([x, x[:10], -0.0 * x[:1], 0.0 * x[:1]])
    distances = neighbour_distances(twice, 2)
    assert (distances[:10, 0] == 0).all()
    assert (distances[10:50, 0] > 0).all()
    np.testing.assert_array_equal(distinct_rows(twice), [*range(50), 60])
    for estimator in (two_nn, levina_bickel):
        with pytest.raises(ValueError, match="distinct_rows"):
            estimator(distances)


# Distances to dimensions


@pytest.mark.parametrize(("x", "d"), [(torus(3000, 1), 1), (torus(3000, 3), 3), (sphere(4000, 2), 2), (sphere(4000, 5), 5)])
def test_manifolds_of_known_dimension(x: np.ndarray, d: int) -> None:
    # The standard error is d/√N for TwoNN, and about as much for MLE, whose points share neighbours: here below 2 % of d.
    distances = neighbour_distances(x, 10)
    assert two_nn(distances) == pytest.approx(d, rel=0.06)
    assert levina_bickel(distances) == pytest.approx(d, rel=0.06)
    assert np.median(local_levina_bickel(distances)) == pytest.approx(d, rel=0.12)


def test_a_curved_sheet_is_flat_to_neighbours_and_solid_to_spectra() -> None:
    found = by_name(estimate_dimensions(roll(3000), neighbours=10))
    for method in ("TwoNN", "MLE"):
        assert found[method, "global"].value == pytest.approx(2, rel=0.08)
    assert found["energy", "global"].value == 3
    assert found["energy", "local"].value == pytest.approx(2, abs=0.1)
    assert 2.7 < found["participation ratio", "global"].value <= 3
    assert 1.5 < found["participation ratio", "local"].value <= 2


def test_neighbours_underestimate_high_dimensions_as_documented() -> None:
    assert 8 < levina_bickel(neighbour_distances(subspace(2000, 30, 40), 20)) < 24


def test_two_nn_is_unbiased_on_its_own_law() -> None:
    """log μ ~ Exp(d), whatever the share that is counted only as larger."""
    ratios = np.exp(np.random.default_rng(0).exponential(1 / 7, (2000, 50)))
    for discard in (0.0, 0.1, 0.5):
        values = [two_nn(np.stack([np.ones(50), row], axis=1), discard) for row in ratios]
        # Standard deviation 7/√(25 − 2) at most, over √2000 repeats: 0.033.
        assert np.mean(values) == pytest.approx(7, abs=0.13)


def test_local_mle_is_unbiased_and_its_global_average_joint() -> None:
    """In a ball around a point of a uniform law, r_j^d / r_k^d are ordered uniform numbers."""
    uniform = np.sort(np.random.default_rng(0).random((20000, 12)), axis=1)
    distances = uniform ** (1 / 6)
    local = local_levina_bickel(distances)
    assert local.mean() == pytest.approx(6, abs=4 * 6 / np.sqrt(9 * 20000))
    assert local.std() == pytest.approx(6 / np.sqrt(9), rel=0.05)
    assert levina_bickel(distances) == pytest.approx(6, abs=4 * 6 / np.sqrt(11 * 20000))
    assert 1 / levina_bickel(distances) == pytest.approx(np.mean(1 / (local * 11 / 10)))


def test_agrees_with_scikit_dimension() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import skdim.id
    for x in (sphere(250, 3), subspace(200, 4, 30)):
        distances, numbers = nearest_neighbours(x, 20)
        for discard in (0.05, 0.1):
            theirs = skdim.id.TwoNN(discard_fraction=discard, method="mle").fit(x).dimension_
            assert two_nn(distances, discard) == pytest.approx(theirs, rel=1e-9)
        # The default of theirs is the fit of a line to the same ratios: another estimator of the same number.
        assert two_nn(distances) == pytest.approx(skdim.id.TwoNN().fit(x).dimension_, rel=0.3)
        theirs = skdim.id.MLE().fit(x, n_neighbors=20)
        assert levina_bickel(distances) == pytest.approx(theirs.dimension_, rel=1e-9)
        unbiased = skdim.id.MLE(unbiased=True).fit(x, n_neighbors=20).dimension_pw_
        np.testing.assert_allclose(local_levina_bickel(distances), unbiased, rtol=1e-9)
        values = local_spectra(x, numbers[:20])
        for row, number in zip(values, numbers):
            theirs = skdim.id.lPCA(ver="participation_ratio").fit(x[number]).dimension_
            assert participation_ratio(row) == pytest.approx(theirs, rel=1e-9)


# Spectra


@pytest.mark.parametrize("centred", [True, False])
@pytest.mark.parametrize("shape", [(200, 3, 5), (12, 4, 8)])
def test_spectrum_is_that_of_the_covariance_whatever_the_chunk(shape: tuple[int, ...], centred: bool) -> None:
    x = 3 + np.random.default_rng(0).standard_normal(shape)
    flat = x.reshape(len(x), -1)
    moved = flat - flat.mean(axis=0) if centred else flat
    expected = np.linalg.eigvalsh(moved.T @ moved / len(x))[::-1]
    for chunk in (None, 1, 7, 500):
        values = spectrum(x, chunk=chunk, centred=centred)
        assert values.shape == expected.shape
        np.testing.assert_allclose(values, expected, atol=1e-12 * expected[0])


def test_spectrum_of_float32_data_far_from_zero() -> None:
    """A mean 10⁴ times the spread: squares about zero would lose the variances."""
    x = (1e4 + np.random.default_rng(0).standard_normal((500, 6)) * [6, 5, 4, 3, 2, 1]).astype(np.float32)
    expected = np.linalg.eigvalsh(np.cov(x.T.astype(np.float64), bias=True))[::-1]
    np.testing.assert_allclose(spectrum(x, chunk=100), expected, rtol=1e-9)


def test_participation_ratio_closed_forms() -> None:
    assert participation_ratio(np.array([2.0, 2, 2, 0, 0])) == pytest.approx(3)
    assert participation_ratio(np.array([1.0, 0, 0])) == 1
    # λ_i = q^i: ((1 − qⁿ)/(1 − q))² (1 − q²)/(1 − q²ⁿ).
    q, n = 0.7, 9
    closed = ((1 - q**n) / (1 - q)) ** 2 * (1 - q**2) / (1 - q ** (2 * n))
    assert participation_ratio(q ** np.arange(n)) == pytest.approx(closed)
    assert participation_ratio(1e-200 * q ** np.arange(n)[::-1]) == pytest.approx(closed)


@pytest.mark.parametrize(("share", "count"), [(0.5, 1), (0.51, 2), (0.8, 2), (0.81, 3), (1.0, 3)])
def test_energy_dimension_counts(share: float, count: int) -> None:
    assert energy_dimension(np.array([0.2, 0.5, 0.0, 0.3]), share) == count


@pytest.mark.parametrize(("d", "ambient", "count"), [(4, 30, 500), (4, 600, 300)])
def test_spectra_of_a_subspace(d: int, ambient: int, count: int) -> None:
    values = spectrum(subspace(count, d, ambient))
    assert values.shape == (ambient,)
    assert (values[d:] < 1e-12).all()
    assert energy_dimension(values, 1.0) == d
    # A sample's own unevenness takes about d²/N: E tr S² = tr Σ² + (tr Σ² + (tr Σ)²)/N.
    assert participation_ratio(values) == pytest.approx(d, abs=0.2)


# Estimates with intervals


@pytest.mark.parametrize("change", ["rotated", "scaled", "moved", "embedded"])
def test_estimates_are_invariant(change: str) -> None:
    x = sphere(400, 3)
    y = {
        "rotated": lambda: x @ rotation(4, 1),
        "scaled": lambda: 1e-3 * x,
        "moved": lambda: x + 50,
        "embedded": lambda: x @ rotation(60, 2)[:4],
    }[change]()
    for before, after in zip(estimate_dimensions(x), estimate_dimensions(y)):
        assert (before.method, before.scope) == (after.method, after.scope)
        np.testing.assert_allclose([after.value, after.low, after.high], [before.value, before.low, before.high], rtol=1e-6)


def test_whatever_holds_the_data_the_estimates_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    x = sphere(400, 5).astype(np.float32).reshape(400, 1, 2, 3)
    expected = estimate_dimensions(x)
    assert estimate_dimensions(torch.from_numpy(x)) == expected
    assert estimate_dimensions(torch.from_numpy(x).requires_grad_()) == expected
    monkeypatch.setattr("kdiff.theory.nearest.CHUNK_BYTES", 8 * 6 * 50)
    lazy = Lazy(x)
    for before, after in zip(expected, estimate_dimensions(lazy)):
        np.testing.assert_allclose([after.value, after.low, after.high], [before.value, before.low, before.high], rtol=1e-6)
    assert lazy.longest == 50


def test_values_are_those_of_the_single_functions() -> None:
    x = sphere(500, 4)
    found = by_name(estimate_dimensions(x, neighbours=12))
    distances = neighbour_distances(x, 12)
    values = spectrum(x)
    expected = {
        ("participation ratio", "global"): participation_ratio(values),
        ("energy", "global"): energy_dimension(values),
        ("TwoNN", "global"): two_nn(distances),
        ("MLE", "global"): levina_bickel(distances),
        ("MLE", "local"): float(np.median(local_levina_bickel(distances))),
    }
    assert {name: found[name].value for name in expected} == pytest.approx(expected)
    assert set(found) - set(expected) == {("participation ratio", "local"), ("energy", "local")}
    for each in found.values():
        assert each.low <= each.value <= each.high
        assert (each.confidence, each.duplicates, each.num_points) == (0.95, 0, 500)
        assert (each.spread is not None) == (each.scope == "local")
        assert str(round(each.value, 1)) in str(each)


def test_halves_have_neighbours_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """The neighbours within a half, read off the neighbours among all points, are those of a search in the half alone."""
    seen: list[np.ndarray] = []
    monkeypatch.setattr(dimensions, "levina_bickel", lambda distances: seen.append(distances) or 1.0)
    x = sphere(96, 3)
    estimate_dimensions(x, neighbours=5, subsamples=4)
    assert len(seen) == 1 + 2 * 3
    pairs = np.linalg.norm(x[:, None] - x[None], axis=2)

    def owner(row: np.ndarray) -> int:
        """The point with these five distances: no other has the same."""
        return np.flatnonzero((np.abs(pairs[:, :, None] - row) < 1e-12).any(axis=1).all(axis=1)).item()

    owners = [[owner(row) for row in distances] for distances in seen[1:]]
    for members, distances in zip(owners, seen[1:]):
        assert len(members) == 48
        np.testing.assert_allclose(distances, brute(x[members], 5), rtol=1e-12)
    for first, second in zip(owners[::2], owners[1::2]):
        assert sorted([*first, *second]) == list(range(96))


def test_intervals_cover_sampling_noise() -> None:
    """Of 95 % intervals over repeated draws, most cover the value that the mean of all draws tells (binomial, 4σ below)."""
    flat = [by_name(estimate_dimensions(torus(128, 2, seed), neighbours=5, seed=seed)) for seed in range(80)]
    # With equal eigenvalues the participation ratio would be at its maximum, and its error smaller than 1/√N.
    deviations = np.array([3.0, 2.0, 1.0, 0.5])
    linear = [
        by_name(estimate_dimensions(deviations * subspace(128, 4, 4, seed) @ rotation(4), neighbours=5)) for seed in range(80)
    ]
    cases = [
        (flat, "TwoNN", "global"),
        (flat, "MLE", "global"),
        (flat, "MLE", "local"),
        (linear, "participation ratio", "global"),
    ]
    for draws, *name in cases:
        estimates = [draw[tuple(name)] for draw in draws]
        truth = np.mean([each.value for each in estimates])
        covered = np.mean([each.low <= truth <= each.high for each in estimates])
        assert covered >= 0.86, name
        # Nor too wide: half an interval is t = 2.13 standard errors.
        half = np.mean([each.high - each.low for each in estimates]) / 2
        assert half / 2.13 == pytest.approx(np.std([each.value for each in estimates]), rel=0.3), name
    two = [draw["TwoNN", "global"] for draw in flat]
    assert np.mean([each.low <= 2 <= each.high for each in two]) >= 0.86


def test_intervals_of_patches_are_those_of_their_images() -> None:
    """Of 40 images with 12 nearly equal patches each, 480 points tell no more than 40 do."""
    deviations, owners = np.array([3.0, 2.0, 1.0, 0.5]), np.repeat(np.arange(40), 12)
    alone, dealt = [], []
    for seed in range(60):
        x = (deviations * subspace(40, 4, 4, seed))[owners] + 1e-3 * subspace(480, 4, 4, seed + 1000)
        alone.append(by_name(estimate_dimensions(x, neighbours=5))["participation ratio", "global"])
        dealt.append(by_name(estimate_dimensions(x, neighbours=5, owners=owners))["participation ratio", "global"])
    assert [one.value for one in alone] == pytest.approx([one.value for one in dealt])
    truth = np.mean([one.value for one in alone])
    covered = [np.mean([one.low <= truth <= one.high for one in found]) for found in (alone, dealt)]
    assert covered[0] < 0.6
    assert covered[1] > 0.86


def test_the_work_is_counted() -> None:
    told: list[tuple[int, int]] = []
    estimate_dimensions(sphere(100, 3), neighbours=3, subsamples=4, tick=lambda done, total: told.append((done, total)))
    assert told == [(i, 14) for i in range(1, 15)]


def test_few_owners_make_few_groups_and_wide_intervals() -> None:
    x = sphere(400, 3)
    many, few = (by_name(estimate_dimensions(x, owners=np.arange(400) % count))["MLE", "global"] for count in (100, 5))
    assert few.value == pytest.approx(many.value, rel=0.05)
    assert few.high - few.low > many.high - many.low


def test_points_of_an_owner_each_are_dealt_as_points() -> None:
    x = sphere(200, 3)
    assert estimate_dimensions(x, owners=np.arange(200)[::-1].copy() * 7) != estimate_dimensions(x)
    assert estimate_dimensions(x, owners=np.arange(200)) == estimate_dimensions(x)


def test_the_interval_of_a_whole_number_covers_its_noise() -> None:
    """Draws whose energy dimension is now one number and now the next: most intervals hold the commoner one, some hold both."""
    deviations = np.arange(1.0, 25.0) ** -0.44
    draws = [
        by_name(estimate_dimensions(deviations * subspace(400, 24, 24, seed), neighbours=5))["energy", "global"]
        for seed in range(30)
    ]
    values, counts = np.unique([each.value for each in draws], return_counts=True)
    assert len(values) == 2
    assert counts.min() > 4
    truth = values[counts.argmax()]
    assert np.mean([each.low <= truth <= each.high for each in draws]) >= 0.86
    assert all(each.low <= each.value <= each.high and each.low.is_integer() and each.high.is_integer() for each in draws)


def test_intervals_shrink_as_one_over_the_root_of_the_number() -> None:
    def width(count: int) -> float:
        found = [by_name(estimate_dimensions(torus(count, 2, seed), neighbours=5)) for seed in range(8)]
        return float(np.mean([each["TwoNN", "global"].high - each["TwoNN", "global"].low for each in found]))

    assert width(100) / width(1600) == pytest.approx(4, rel=0.25)


def test_confidence_widens_intervals_by_student_quantiles() -> None:
    x = sphere(300, 3)
    narrow, wide = (by_name(estimate_dimensions(x, confidence=c))["MLE", "global"] for c in (0.5, 0.99))
    assert narrow.value == wide.value
    # Quantiles of Student's t for 15 degrees of freedom at 0.75 and 0.995.
    assert (wide.high - wide.low) / (narrow.high - narrow.low) == pytest.approx(2.9467 / 0.6912, rel=1e-3)


def test_duplicates_are_dropped_by_distances_and_counted_by_spectra() -> None:
    x = sphere(400, 3)
    heavy = np.concatenate([x, np.repeat(x[:1], 300, axis=0)])
    once, found = by_name(estimate_dimensions(x)), by_name(estimate_dimensions(heavy))
    for name in (("TwoNN", "global"), ("MLE", "global"), ("MLE", "local")):
        assert found[name].value == pytest.approx(once[name].value)
        assert (found[name].duplicates, found[name].num_points) == (300, 400)
    spectral = found["participation ratio", "global"]
    assert spectral.value == pytest.approx(participation_ratio(spectrum(heavy)))
    assert (spectral.duplicates, spectral.num_points) == (0, 700)


def test_of_more_points_a_random_part_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.concatenate([sphere(500, 3), np.zeros((500, 4))])
    found = estimate_dimensions(x, max_points=200, seed=1)
    spectral = by_name(found)["participation ratio", "global"]
    assert (spectral.num_points, spectral.limit) == (200, 4)
    assert 70 < by_name(found)["MLE", "global"].duplicates < 130
    assert found == estimate_dimensions(x, max_points=200, seed=1) != estimate_dimensions(x, max_points=200, seed=2)
    monkeypatch.setattr(dimensions, "MAX_BYTES", 8 * 4 * 180)
    assert by_name(estimate_dimensions(x))["participation ratio", "global"].num_points == 180
    monkeypatch.undo()
    monkeypatch.setattr(dimensions, "MAX_SPECTRUM", 64)
    wide = by_name(estimate_dimensions(sphere(100, 99)))
    assert wide["participation ratio", "global"].num_points == 64
    assert wide["participation ratio", "global"].limit == 63
    assert wide["MLE", "global"].num_points == 100


# Patches


def test_patches_of_an_image_made_of_known_pieces() -> None:
    pieces = np.random.default_rng(0).integers(0, 256, (2, 2, 3, 3, 4, 4), dtype=np.uint8)  # image, row, column, C, p, p
    images = np.stack([np.concatenate([np.concatenate(list(row), axis=2) for row in image], axis=1) for image in pieces])
    assert images.shape == (2, 3, 8, 12)
    expected = pieces.reshape(12, 48)
    np.testing.assert_array_equal(patches(images, 4), expected)
    np.testing.assert_array_equal(patches(Lazy(images), 4), expected)
    everything, images_of = random_patches(images, 4, 100)
    for row, image in zip(everything, images_of):
        assert row.tobytes() in {piece.tobytes() for piece in patches(images[image : image + 1], 4)}
    assert {row.tobytes() for row in everything} == {row.tobytes() for row in patches(images, 4)}
    assert len(everything) == 12


@pytest.mark.parametrize("count", [1, 5, 20, 47, 79, 80])
def test_random_patches_differ_and_come_from_as_many_images_as_possible(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = np.arange(20 * 2 * 4 * 4, dtype=np.float64).reshape(20, 2, 4, 4)
    monkeypatch.setattr("kdiff.theory.nearest.CHUNK_BYTES", 8 * 32 * 3)
    drawn, owners = random_patches(Lazy(images), 2, count)
    assert drawn.shape == (count, 8)
    assert len(distinct_rows(drawn)) == count
    assert {tuple(row) for row in drawn} <= {tuple(row) for row in patches(images, 2)}
    shares = np.bincount((drawn[:, 0] // 32).astype(int), minlength=20)
    np.testing.assert_array_equal(owners, drawn[:, 0] // 32)
    assert shares.max() - shares.min() <= 1


def test_random_patches_are_from_everywhere() -> None:
    """Any position of an image is as likely as another: 4 σ of 4000 draws over 4 positions are 110."""
    images = np.broadcast_to(np.arange(16.0).reshape(1, 1, 4, 4), (4000, 1, 4, 4))
    corner = random_patches(images, 2, 4000, seed=3)[0][:, 0]
    assert {value: int((corner == value).sum()) for value in (0, 2, 8, 10)} == pytest.approx(
        dict.fromkeys((0, 2, 8, 10), 1000), abs=110
    )


def test_patches_have_a_dimension_of_their_own() -> None:
    """Images whose patches are independent mixtures of three pictures: d = 3 per patch, 12 per image."""
    weights = np.random.default_rng(0).standard_normal((500, 4, 3))
    tokens = weights @ rotation(16)[:3]
    images = tokens.reshape(500, 2, 2, 4, 4).transpose(0, 1, 3, 2, 4).reshape(500, 1, 8, 8)
    np.testing.assert_allclose(patches(images, 4), tokens.reshape(2000, 16), rtol=1e-12)
    found = by_name(estimate_dimensions(random_patches(images, 4, 2000)[0]))
    assert found["MLE", "global"].value == pytest.approx(3, rel=0.1)
    assert found["TwoNN", "global"].value == pytest.approx(3, rel=0.1)
    assert energy_dimension(spectrum(patches(images, 4)), 1.0) == 3
    assert energy_dimension(spectrum(images), 1.0) == 12


# Errors

GOOD = sphere(100, 3)


@pytest.mark.parametrize(
    ("x", "options", "message"),
    [
        (GOOD[:47], {}, "at least 48 points, found 47"),
        (GOOD, {"max_points": 20}, "max_points=20"),
        (np.ones((100, 3)), {}, "different points, found 1 among 100"),
        (np.where(np.arange(400).reshape(100, 4) == 77, np.nan, GOOD), {}, "not finite"),
        (np.where(np.arange(400).reshape(100, 4) == 77, np.inf, GOOD), {}, "not finite"),
        (np.arange(100.0), {}, r"\(N, \*shape\)"),
        (GOOD, {"neighbours": 2}, "neighbours is 2, subsamples 16; expected 3 or more"),
        (GOOD, {"subsamples": 6}, "power of two"),
        (GOOD, {"subsamples": 2}, "power of two"),
        (GOOD, {"confidence": 1.0}, "confidence"),
        (GOOD, {"owners": np.arange(99)}, "owners have shape"),
        (GOOD, {"owners": np.arange(100) % 3}, "at least 4 owners"),
        (np.stack(np.meshgrid(*[np.arange(6.0)] * 3), -1).reshape(-1, 3), {"neighbours": 3}, "cannot estimate a dimension"),
    ],
)
def test_estimates_refuse(x: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        estimate_dimensions(x, **options)


def test_parts_refuse() -> None:
    with pytest.raises(TypeError, match="real numbers"):
        spectrum(GOOD.astype(complex))
    with pytest.raises(TypeError, match="row numbers"):
        neighbour_distances(GOOD, 3, np.array([0.5]))
    for call, message in [
        (lambda: spectrum(GOOD[:0]), "no rows"),
        (lambda: spectrum(GOOD, chunk=0), "chunk"),
        (lambda: spectrum(np.broadcast_to(np.float32(0), (9000, 9000))), "8192"),
        (lambda: neighbour_distances(GOOD, 100), "between 1 and the number of other rows, 99"),
        (lambda: neighbour_distances(GOOD, 3, np.array([100])), "between 0 and 99"),
        (lambda: neighbour_distances(GOOD, 3, chunk=0), "chunk"),
        (lambda: participation_ratio(np.zeros(3)), "some of them positive"),
        (lambda: energy_dimension(np.ones(3), 1.5), "share"),
        (lambda: two_nn(np.ones((5, 1))), "k ≥ 2"),
        (lambda: two_nn(np.ones((5, 2)), 1.0), "discard"),
        (lambda: two_nn(np.array([[1.0, 2.0]])), "at least 2 ratios"),
        (lambda: levina_bickel(np.ones((5, 4))), "equally far"),
        (lambda: local_levina_bickel(np.ones((5, 2))), "k ≥ 3"),
        (lambda: patches(np.zeros((2, 1, 6, 8)), 4), "6 × 8, found 4"),
        (lambda: patches(np.zeros((2, 1, 6, 8)), 0), "found 0"),
        (lambda: patches(np.zeros((2, 48)), 4), r"images \(N, C, H, W\)"),
        (lambda: random_patches(np.zeros((2, 1, 8, 8)), 4, 0), "count"),
    ]:
        with pytest.raises(ValueError, match=message):
            call()
